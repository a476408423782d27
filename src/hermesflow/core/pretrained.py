"""Released models of transformers: whole, or not at all.

transformers fills what a file does not have with random numbers and says so in its log alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hermesflow.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


READING = (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises where files are missing, broken or another model's, or want a library that is not there."""


def read_model(reader: Any, folder: Path | str, *, role: str, unused: str = "", **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers on local files in safetensors form.

    Args:
        reader: the class.
        folder: with configuration and weights.
        role: what the model is for, in words for an error.
        unused: pattern of the names of tensors that nothing here uses, and that may therefore be absent.
        options: passed on.

    Raises:
        ConfigError: some of its tensors are not there.
        ArtifactError: some hold values that are not finite. Whatever transformers raises passes through.
    """
    more = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    from hermesflow.core.finite import check_weights

    model, loading_info = reader.from_pretrained(folder, **options, **more)
    if absent := _absent(model, loading_info["missing_keys"], unused):
        raise ConfigError(
            f"{folder}: its weights are not those of {role} ({type(model).__name__}): {len(absent)} tensors are not "
            f"there, the first is {absent[0]}, and would have been random numbers. Take the released weights of just "
            "this model anew."
        )
    check_weights(model.named_parameters(), str(folder), "Take the released weights anew, or another precision.")
    return model


def _absent(model: torch.nn.Module, missing: Iterable[str], unused: str) -> list[str]:
    """Parameters that the weights do not have and that no part of the model says it does without, sorted.

    Asked of every part, because transformers asks the whole model alone: a backbone's last norm, which is not used,
    is not in the released weights of Mask2Former.
    """
    spared = [
        pattern for part in model.modules() for pattern in getattr(part, "_keys_to_ignore_on_load_missing", None) or ()
    ]
    known = [re.compile(pattern) for pattern in (*spared, *([unused] if unused else []))]
    parameters = {name for name, _ in model.named_parameters()}
    return sorted(key for key in parameters & set(missing) if not any(pattern.search(key) for pattern in known))
