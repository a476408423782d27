"""A config file read and checked: unknown keys and wrong types are refused with the file, the key and the fix."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.experiment import BASE, Config, as_plain, has_judge
from hermesflow.config.sections import Checkpoint, Data, Objective
from hermesflow.config.tree import preferences_of
from hermesflow.core.errors import ConfigError

EXTENDS = "extends"
"""Key of a file whose keys a config takes over where it has none; mappings are merged, lists replaced."""


def load_config(path: str | Path) -> Config:
    """Read and validate one YAML config, with what it takes over from another one (`extends`).

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, unknown parent or a cycle in the tree.
    """
    path = Path(path)
    try:
        config = _from_plain(_extended(path))
    except ValidationError as error:
        lines = "; ".join(_one(e) for e in error.errors())
        raise ConfigError(f"{path}: {lines}. config/README.md lists every key with its meaning.") from None
    _check_tree(config, path)
    _check_weights(config, path)
    _check_source(config, path)
    _check_benchmarks(config, path)
    return replace(config, checkpoints=_in_order(config.checkpoints))


def config_files(path: str | Path) -> list[Path]:
    """The files that a config is made from: itself, what it extends, what that extends.

    Raises:
        ConfigError: a file cannot be read, or extends itself.
    """
    return [file for file, _ in _chain(Path(path))]


def _chain(path: Path) -> list[tuple[Path, Any]]:
    """Files as `config_files` gives them, each with its content."""
    chain = [(path, _read(path))]
    while isinstance(content := chain[-1][1], dict) and EXTENDS in content:
        child, parent = chain[-1][0], content[EXTENDS]
        if not isinstance(parent, str):
            raise ConfigError(f"{child}: {EXTENDS}: {parent!r} is not a file's name, from this file's folder.")
        if "name" not in content:
            raise ConfigError(f"{child}: `name` is required: results/NAME would be those of {parent}.")
        file = child.parent / parent
        if any(file.resolve() == other.resolve() for other, _ in chain):
            raise ConfigError(f"{child}: {EXTENDS}: {parent} extends this file in turn; end the circle.")
        chain.append((file, _read(file, child)))
    return chain


def _extended(path: Path) -> Any:
    """The keys of a file over those of the file that it extends; of `checkpoints`, null takes one away."""
    *parents, content = [content for _, content in reversed(_chain(path))]
    if not parents:
        return content
    merged = reduce(_merged, [*parents, content])
    del merged[EXTENDS]
    if isinstance(merged.get("checkpoints"), dict):
        merged["checkpoints"] = {name: entry for name, entry in merged["checkpoints"].items() if entry is not None}
    return merged


def _merged(parent: Any, child: Any) -> Any:
    """What names its source is taken whole: a digest or a revision of another source is not taken over."""
    if not (isinstance(parent, dict) and isinstance(child, dict)):
        return child
    if child.keys() & {"repo", "folder"} or isinstance(child.get("source"), str):
        return child
    return {**parent, **{key: _merged(parent.get(key), value) for key, value in child.items()}}


def _read(path: Path, child: Path | None = None) -> Any:
    try:
        content = yaml.load(path.read_bytes(), _Loader)
        json.dumps(content)  # dates and sets are none of its values
        return content
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        why = f", which {child} extends," if child else ""
        raise ConfigError(
            f"{path}{why}: cannot be read as YAML ({error}). Mend the file or pass another --config."
        ) from error


class _Loader(yaml.SafeLoader):
    """YAML's, but of a key that is there twice the first is not lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key `{twice[0]}` is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _from_plain(raw: Any) -> Config:
    # JSON mode: strict types, yet lists fill tuples and 1 fills a float.
    return TypeAdapter(Config).validate_json(json.dumps(raw))


def _one(error: Any) -> str:
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["data"]:
        del parts[1:2]  # which source's class refused the key is no part of the key
    if parts[:1] == ["benchmarks"] and parts[2:4] in (["judge", "endpoint"], ["judge", "local"]):
        del parts[3]  # nor is which judge's
    key = ".".join(parts) or "(whole file)"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if key == "mode" or (parts[:1] == ["checkpoints"] and parts[2:] == ["mode"]):
            return f"unknown key `{key}`: remove it; `mode` is gone, and what `paper` stood for is always done"
        return f"unknown key `{key}`: remove it or correct its spelling"
    if error["type"] == "union_tag_invalid" and error["ctx"]["tag"] == "parquet":
        return "`data.source`: `parquet` is gone; `folder` reads parquet files too (docs/data.md)"
    if isinstance(error["input"], dict):  # a whole section, which may have a key in the wrong place
        return f"`{key}`: {error['msg']}"
    return f"`{key}`: {error['msg']} (found {error['input']!r})"


def _check_tree(config: Config, path: Path) -> None:
    if BASE in config.checkpoints:
        raise ConfigError(f"{path}: checkpoints.{BASE}: the name `{BASE}` is taken by the base model; rename it.")
    for name, checkpoint in config.checkpoints.items():
        if checkpoint.parent != BASE and checkpoint.parent not in config.checkpoints:
            raise ConfigError(
                f"{path}: checkpoints.{name}.parent: `{checkpoint.parent}` is not a checkpoint; "
                f"use one of {[BASE, *config.checkpoints]}."
            )
        idle = [key for key in ("beta", "chosen_nll_weight") if getattr(checkpoint, key) is not None]
        if checkpoint.objective == "chosen" and idle:
            raise ConfigError(
                f"{path}: checkpoints.{name}.{idle[0]}: objective `chosen` has no preference term and does not read "
                "it; remove it, or choose another objective."
            )
        if checkpoint.objective == "product" and preferences_of(config, name).pairs == "any":
            raise ConfigError(
                f"{path}: checkpoints.{name}.objective: `product` joins both terms of a pair, and preferences.pairs is "
                f"`any`; set checkpoints.{name}.pairs to `both`, or choose another objective."
            )
        seen = {name}
        while (name := config.checkpoints[name].parent) != BASE:
            if name in seen:
                raise ConfigError(
                    f"{path}: checkpoints.{name}: the tree has a cycle; let one of them grow from {BASE}."
                )
            seen.add(name)


def _in_order(checkpoints: dict[str, Checkpoint]) -> dict[str, Checkpoint]:
    """By what they are, children behind their parent and first those without settings of their own; then by name.

    So the place of a line in the file decides nothing, not even the rows of a table.
    """

    def place(name: str) -> tuple[Any, ...]:
        if name == BASE:
            return ()
        entry = as_plain(checkpoints[name])
        overrides = sorted((k, v) for k, v in entry.items() if k not in ("parent", "objective") and v is not None)
        return (*place(entry["parent"]), (overrides, get_args(Objective).index(entry["objective"]), name))

    return dict(sorted(checkpoints.items(), key=lambda item: place(item[0])))


def _check_weights(config: Config, path: Path) -> None:
    pairs = (
        ("image_tokenizer", config.weights.image_tokenizer, "tokenizer_training", config.tokenizer_training),
        ("language_model", config.weights.language_model, "base_training", config.base_training),
    )
    for name, source, section_name, training in pairs:
        if source is None and training is None:
            raise ConfigError(
                f"{path}: `{section_name}` is required where there is no `weights.{name}`; give one of the two."
            )
        if source is not None and training is not None:
            raise ConfigError(
                f"{path}: `{section_name}` trains what `weights.{name}` already brings; remove one of the two."
            )


def _check_source(config: Config, path: Path) -> None:
    """What the source of pairs, or the weights, cannot serve."""
    tokenizer, real, pairs = config.language_model.text_tokenizer, not has_judge(config), config.data.base_pairs
    if real and config.scoring.agreement_pairs:
        raise ConfigError(
            f"{path}: scoring.agreement_pairs: {config.scoring.agreement_pairs} pairs cannot be compared with a judge: "
            f"it reads the micro world alone, and data.source is `{config.data.source}`. Set it to 0."
        )
    if real and tokenizer == "microworld":
        raise ConfigError(
            f"{path}: language_model.text_tokenizer: `microworld` knows the words of the micro world alone, and "
            f"data.source is `{config.data.source}`. Set it to `trained`, or name a tokenizer's folder or source."
        )
    if tokenizer == "trained" and config.weights.language_model is not None:
        raise ConfigError(
            f"{path}: language_model.text_tokenizer: `trained` is not the tokenizer of weights.language_model. Name "
            "the one that they were trained with."
        )
    if isinstance(tokenizer, str) and tokenizer.startswith("python:"):
        raise ConfigError(
            f"{path}: language_model.text_tokenizer: {tokenizer}: no package has one whose end is known. Set it to "
            "`trained`, or name a tokenizer's folder or source."
        )
    stopped = [f"checkpoints.{name}" for name, entry in config.checkpoints.items() if entry.stopping]
    if real and (stopped := ["training"] * (config.training.stopping is not None) + stopped):
        raise ConfigError(
            f"{path}: {stopped[0]}.stopping: wants a judge that reads every image, and data.source is "
            f"`{config.data.source}`, which has none; remove it."
        )
    if isinstance(config.data, Data):
        _check_drawing(config.data, config.image_tokenizer.tile_size, path)
    trainings = {"tokenizer_training": config.tokenizer_training, "base_training": config.base_training}
    for name in (name for name, training in trainings.items() if training is not None and not pairs):
        raise ConfigError(f"{path}: data.base_pairs: `{name}` has no pairs to train on; set it above 0.")


def _check_drawing(data: Data, tile_size: int, path: Path) -> None:
    """How pictures are drawn, where they are pictures and as the image tokenizer can code them."""
    for key in ("style", "shift"):
        if data.source != "pictures" and getattr(data, key) is not None:
            raise ConfigError(
                f"{path}: data.{key}: is of `pictures` alone, and data.source is `{data.source}`; remove it."
            )
    shift = data.shift or 0
    if shift > data.image_size // 32:
        raise ConfigError(
            f"{path}: data.shift: pictures that move by {shift} pixels leave their cells, which the judge reads one by "
            f"one; with data.image_size {data.image_size} they may move by {data.image_size // 32}."
        )
    if shift and tile_size:
        raise ConfigError(
            f"{path}: image_tokenizer.tile_size: tiles of {tile_size} pixels are for pictures in the middle of their "
            f"cells, and data.shift moves them by up to {shift}; set it to 0, which codes the whole image, or "
            "data.shift to 0."
        )


def _check_benchmarks(config: Config, path: Path) -> None:
    """What each benchmark in the config has to say of its section."""
    for name in config.benchmarks.image_benchmarks if config.benchmarks else ():
        if check := BENCHMARKS[name].check:
            try:
                check(getattr(config.benchmarks, name))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
