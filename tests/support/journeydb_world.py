"""A handful of records in JourneyDB's true layout (docs/decisions/0007-journeydb-and-questions.md)."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
ANNOTATIONS = "data/train/train_anno_realease_repath.jsonl"
SIZES = {"pairs": 4, "gap": 2, "understanding": 2, "prompts": 7, "base": 0}
TOTAL = sum(SIZES.values())


def jpeg(seed: int, size: tuple[int, int] = (40, 28)) -> bytes:
    """Noise: it does not get smaller by packing."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95)
    return file.getvalue()


def name_of(shard: int, number: int) -> str:
    return f"{shard:03d}/{shard:08x}-{number:04x}-4a4a-8b8b-0123456789ab"


def record(shard: int, number: int, **changes: Any) -> dict[str, Any]:
    """One annotation."""
    what = f"thing {shard} {number}"
    question = {"Question": f"What is {what}?", "Options": {"A": "red", "B": "blue", "C": "green"}, "Answer": "B"}
    style = {"Question": "What style is it?", "Options": {"A": "oil", "B": "pixel art"}, "Answer": "B. pixel art"}
    plain = {
        "img_path": f"./{name_of(shard, number)}.jpg",
        "prompt": f"{what} --v 5",
        "Task1": {"Style": ["plain"], "Content": [what], "Atmosphere": [], "Others": []},
        "Task2": {"Caption": f"A picture of {what}."},
        "Task3": {
            "Style Relevant Questions and Answers": [style],
            "Content Relevant Questions and Answers": [question],
        },
    }
    return {**plain, **changes}


def tgz(members: dict[str, bytes]) -> bytes:
    """A gzipped tar with its folders, as JourneyDB's."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for folder in sorted({name.rpartition("/")[0] for name in members} - {""}):
            info = tarfile.TarInfo(f"./{folder}")
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def files_of(records: list[dict[str, Any] | bytes], images: dict[str, bytes]) -> dict[str, bytes]:
    """The repository's files: bytes among the records stand for lines as they are."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    files = {f"{ANNOTATIONS}.tgz": tgz({Path(ANNOTATIONS).name: b"\n".join(lines) + b"\n"})}
    for shard in sorted({name.split("/")[0] for name in images}):
        members = {name: content for name, content in images.items() if name.startswith(f"{shard}/")}
        files[f"data/train/imgs/{shard}.tgz"] = tgz(members)
    return files


def good_world(shards: int = 3, each: int = 9) -> tuple[list[dict[str, Any] | bytes], dict[str, bytes]]:
    """Annotations and images, all of them good."""
    places = [(shard, number) for shard in range(shards) for number in range(each)]
    images = {f"{name_of(s, n)}.jpg": jpeg(100 * s + n) for s, n in places}
    return [record(s, n) for s, n in places], images


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """A local copy."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_config(file: Path, *, name: str = "real", **data: Any) -> Path:
    """smoke.yaml with another section `data` and the sizes of `SIZES`; weights are from elsewhere, or of base pairs."""
    plain = yaml.safe_load(SMOKE.read_text())
    sizes = {"pairs": SIZES["pairs"], "gap_pairs": SIZES["gap"], "base_pairs": SIZES["base"]}
    plain["name"] = name
    plain["data"] = {"source": "journeydb", "seed": 7, "image_size": 24, **sizes, **data}
    plain["scoring"]["agreement_pairs"] = 0
    plain["language_model"]["text_tokenizer"] = "trained"
    if not plain["data"]["base_pairs"]:
        del plain["base_training"], plain["tokenizer_training"]
        plain["language_model"]["text_tokenizer"] = "weights/phi"
        models = ("language_model", "image_tokenizer")
        plain["weights"] = {name: {"folder": "weights", "files": {f"{name}.bin": None}} for name in models}
    plain["evaluation"].update(understanding_images=SIZES["understanding"], geneval_prompts=1, dense_prompts=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(plain))
    return file
