"""Released weights to the project's own files: checked against the names and shapes a model has, converted once."""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import atomic, digest_of, read_weights, sha256, write_weights
from hermesflow.core.finite import check_weights

SAFE = ".safetensors"
Shapes = Mapping[str, tuple[int, ...]]


def converted(source: Source, model: nn.Module, *, cache: Path) -> Path:
    """Weights of a source as one safetensors file that fits a model exactly.

    Args:
        source: one or more files, `.safetensors` or PyTorch pickles; together they hold every tensor once.
        model: what the weights are for; its parameters may be on the meta device. Where it has a function
            `from_released`, this gives the tensors under the model's names, of those under the released ones.
        cache: folder of converted files, named by the checksums of what they were made from.

    Returns:
        The file itself where it is one safetensors file already, else the converted one.

    Raises:
        FetchError: the files cannot be had.
        ArtifactError: they are damaged, hold more than tensors or values that are not finite, or do not fit.
    """
    folder = hub.fetch(source)
    paths = [folder / name for name in source.files]
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    rename = getattr(model, "from_released", None)
    if len(paths) == 1 and paths[0].suffix == SAFE and (rename is None or _shapes_in(paths[0]) == needed):
        check_fit(_shapes_in(paths[0]), needed, paths)
        with safe_open(paths[0], "pt") as file:
            _check_values(file.get_tensor, model, paths)
        return paths[0]
    sums = [pin or sha256(path) for path, pin in zip(paths, source.files.values(), strict=True)]
    made_from = sorted(sums) if rename is None else [type(model).__name__, *sorted(sums)]
    target = cache / f"{digest_of(made_from)}{SAFE}"
    if target.exists():
        check_fit(_shapes_in(target), needed, paths)
        return target
    tensors: dict[str, Tensor] = {}
    for path in paths:
        part = read_weights(path) if path.suffix == SAFE else read_pickle(path)
        if twice := sorted(part.keys() & tensors.keys()):
            raise ArtifactError(f"{path}: `{twice[0]}` is in an earlier file too. List every file of the weights once.")
        tensors |= part
    tensors = rename(tensors) if rename else tensors
    check_fit({name: tuple(tensor.shape) for name, tensor in tensors.items()}, needed, paths)
    _check_values(tensors.__getitem__, model, paths)
    write_weights(target, tensors)
    return target


def place(path: Path, target: Path) -> None:
    """Copy a file, atomically."""
    with atomic(target) as temporary:
        shutil.copyfile(path, temporary)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a PyTorch pickle, mapped from disk; it runs no code.

    Raises:
        ArtifactError: it is damaged, or holds anything but named tensors.
    """
    try:
        # the format before PyTorch 1.6 is no zip file and cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|global|Unsupported class|Unsupported operand)\W+([\w.]+)", str(error))
        holds = f"`{match[1]}`" if match else "something that is no tensor"
        raise ArtifactError(
            f"{path}: refused: the pickle wants {holds}, which could run code, or it is damaged. Take the weights from "
            "their official repository, or ask its owner for safetensors."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise ArtifactError(
            f"{path}: truncated or not a PyTorch file ({reason}). Delete it and fetch it again."
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ArtifactError(
            f"{path}: holds a {type(tensors).__name__} of more than tensors. Name a file with a plain state dict."
        )
    return tensors


def check_fit(given: Shapes, needed: Shapes, paths: Sequence[Path]) -> None:
    """Refuse weights whose names or shapes are not those of the model.

    Raises:
        ArtifactError: names the first missing, unexpected or differently shaped tensor of each kind.
    """
    missing = [name for name in needed if name not in given]
    unexpected = [name for name in given if name not in needed]
    other = [name for name in needed if name in given and given[name] != needed[name]]
    wrong = []
    if missing:
        wrong.append(f"missing {len(missing)}, first `{missing[0]}`")
    if unexpected:
        wrong.append(f"unexpected {len(unexpected)}, first `{unexpected[0]}`")
    if other:
        shapes = f"{list(given[other[0]])} instead of {list(needed[other[0]])}"
        wrong.append(f"of another shape {len(other)}, first `{other[0]}`: {shapes}")
    if wrong:
        raise ArtifactError(
            f"{', '.join(map(str, paths))}: not the weights of the model in the config; tensors {', '.join(wrong)}. "
            "Correct the sizes in the config (image_tokenizer, language_model, text_tokenizer), or name other files."
        )


def _check_values(read: Callable[[str], Tensor], model: nn.Module, paths: Sequence[Path]) -> None:
    """Refuse weights that are not finite in the number types of the model; one tensor is read after the other."""
    values = ((name, read(name).to(tensor.dtype)) for name, tensor in model.state_dict().items())
    mend = "The file is damaged, or of wider numbers than the model: fetch it again, or name other weights."
    check_weights(values, ", ".join(map(str, paths)), mend)


def _shapes_in(path: Path) -> Shapes:
    """Names and shapes in a safetensors file, from its header alone."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ArtifactError(f"{path}: truncated or not safetensors ({error}). Delete it and fetch it again.") from error
