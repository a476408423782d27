"""Low-rank adapters through peft, where `training.lora` is set.

There is one copy of the weights: with its adapters off the policy is its own reference. peft takes seconds to import,
so only a training with adapters does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hermesflow.config.sections import Lora
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import write_json, write_weights
from hermesflow.models.backbone import UnifiedModel

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapters(model: UnifiedModel, lora: Lora, *, seed: int) -> PeftModel:
    """Put adapters into the language model, in place, and freeze everything else.

    They change nothing yet: one factor of each starts at 0, the other is drawn from `seed`.

    Raises:
        ConfigError: no layer has one of the names.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))  # type: ignore[arg-type]
    model.requires_grad_(False)  # what is outside the decoder, too
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = get_peft_model(model.decoder, config)
    except ValueError as error:
        raise ConfigError(f"training.lora.targets: {error}") from error
    assert isinstance(adapted, PeftModel)
    return adapted


def save_adapters(adapted: PeftModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the adapters alone, as peft reads them: adapter_model.safetensors and adapter_config.json.

    Args:
        adapted: what `add_adapters` gave.
        folder: made if it is not there.
        weights: state dict of `adapted`, gathered where it is sharded.
    """
    from peft import get_peft_model_state_dict

    write_weights(folder / "adapter_model.safetensors", get_peft_model_state_dict(adapted, state_dict=dict(weights)))
    settings = adapted.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    write_json(folder / "adapter_config.json", {**plain, "inference_mode": True})
