"""Everything a config of the paper's scale names, tiny, under the same names: repositories on a hub and a folder."""

from __future__ import annotations

import json
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save, save_file
from tokenizers import processors
from transformers import AutoModel, BertConfig, MPNetConfig, PreTrainedTokenizerFast

from hermesflow.config.load import load_config
from hermesflow.models.backbone import new_model
from hermesflow.models.emu3.model import Emu3
from hermesflow.models.emu3.vq import ImageVQ
from hermesflow.models.janus.released import model_names, vq_names
from hermesflow.models.showo.magvit import MagVitV2
from tests.support import emu3_golden
from tests.support.hub_server import HubServer
from tests.support.janus_golden import drawn, official_weights
from tests.support.journeydb_world import files_of, good_world
from tests.support.phi_tokenizer import END, janus_tokenizer, phi_tokenizer, tokenizer_files, write_tokenizer
from tests.support.tiny_text_models import make_llama, make_t5

CONFIGS = Path(__file__).parents[2] / "config"
SIZES: dict[str, Any] = {
    "seeds": [0],
    "data": {"pairs": 6, "gap_pairs": 2},
    "sampling": {"captions": {"max_new_tokens": 6}, "images": {"n": 4, "steps": 2}, "batch_pairs": 2},
    "scoring": {"max_answer_tokens": 4, "batch_images": 8},
    "preferences": {"min_image_score": 0.0},
    "training": {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2},
    "evaluation": {"understanding_images": 2, "geneval_prompts": 1, "dense_prompts": 1, "fid_images": 2},
    "runtime": {
        **{"device": "cpu", "precision": "no", "shards": 2, "train_processes": 1, "accelerate": None},
        **{"tokenizer_threads": 1, "train_threads": 1, "shard_threads": 1},
    },
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "showo": {
        "data": {"image_size": 16},
        "image_tokenizer": {
            **{"channels": 8, "codebook_bits": 8},
            **{"encoder_multipliers": [1, 2], "encoder_blocks": [1, 1]},
            **{"decoder_multipliers": [1, 2], "decoder_blocks": [1, 1]},
        },
        "language_model": {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64},
    },
    "janus": {  # those of tests/goldens/janus_tiny, with more words
        "data": {"image_size": 64},
        "image_tokenizer": {"channels": 32, "codebook_bits": 9, "latent_channels": 32},
        "language_model": {
            **{"hidden_size": 96, "layers": 3, "heads": 4, "intermediate_size": 192, "vocabulary": 512},
            "vision": {"hidden_size": 64, "layers": 3, "heads": 4, "intermediate_size": 256},
        },
    },
    "emu3": {  # those of tests/goldens/emu3_tiny
        "data": {"image_size": 32},
        "image_tokenizer": {
            **{"channels": 32, "codebook_bits": 8, "encoder_multipliers": [1, 1, 1, 2], "encoder_blocks": [1, 1, 1, 1]},
            **{"decoder_multipliers": [1, 1, 1, 2], "decoder_blocks": [2, 2, 2, 2]},
        },
        "language_model": {
            **{"hidden_size": 64, "layers": 2, "heads": 4, "key_value_heads": 2, "intermediate_size": 160},
        },
    },
}
QUESTIONS = {"batch_captions": 4, "beams": 2, "max_new_tokens": 90, "dtype": "float32"}
CAPTIONS = ["A picture of thing 0 0.", "A picture of thing 2 8."]


def lay_over(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change some values of a plain config in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(plain.get(key), dict):
            lay_over(plain[key], value)
        else:
            plain[key] = value
    return plain


def small_config(folder: Path, name: str) -> dict[str, Any]:
    """Differences to a config: other sizes and one checkpoint; what it names stays as it is."""
    whole = load_config(CONFIGS / f"{name}.yaml")
    checker = {"folder": str(folder / "checker"), "files": dict(whole.data.questions.checker.files)}
    plain = lay_over(deepcopy(SIZES), deepcopy(OF_FAMILY[whole.language_model.family]))
    names = {"extends": str(CONFIGS / f"{name}.yaml"), "name": name, "benchmarks": None}
    checkpoints = dict.fromkeys(whole.checkpoints.keys() - {"pair-1"})
    return lay_over(
        plain, {**names, "data": {"questions": {**QUESTIONS, "checker": checker}}, "checkpoints": checkpoints}
    )


def release(hub: HubServer, folder: Path, name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Put every repository on the hub and the checker into its folder; weights by section, under the models' names."""
    config = load_config(CONFIGS / f"{name}.yaml")
    make_t5(folder / "checker", CAPTIONS)
    made = {"showo": _showo, "janus": _janus, "emu3": _emu3}[config.language_model.family]
    tokenizer, files, weights = made(folder, name)
    repositories: dict[str, dict[str, bytes]] = defaultdict(dict)
    repositories[config.language_model.text_tokenizer.repo] |= tokenizer
    for section, content in files.items():
        repositories[getattr(config.weights, section).repo] |= content
    repositories[config.data.questions.generator.repo] |= _llama(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for key, kind in (("encoder", BertConfig), ("choice_encoder", MPNetConfig)):
        repositories[getattr(config.scoring, key).source.repo] |= _encoder(folder / key, kind, sizes)
    for repo, content in repositories.items():
        hub.add(repo, content)
    hub.add(config.data.path, files_of(*good_world()), kind="datasets")
    return weights


Made = tuple[dict[str, bytes], dict[str, dict[str, bytes]], dict[str, dict[str, torch.Tensor]]]
"""Files of the text tokenizer, files of the weights by section, tensors by section under the model's names."""


def _showo(folder: Path, name: str) -> Made:
    """Weights so large that what the model says depends on what it sees."""
    plain = small_config(folder, name)
    plain["language_model"]["text_tokenizer"] = str(write_tokenizer(folder / "phi", phi_tokenizer(words=474)))
    (folder / "unpinned.yaml").write_text(yaml.safe_dump(plain))
    config = load_config(folder / "unpinned.yaml")
    showo = {k: 12 * x if x.ndim > 1 else x for k, x in new_model(config, seed=1).state_dict().items()}
    torch.manual_seed(0)
    weights = {"language_model": showo, "image_tokenizer": MagVitV2(config.image_tokenizer).state_dict()}
    files = {section: {"pytorch_model.bin": _pickled(tensors, folder)} for section, tensors in weights.items()}
    return tokenizer_files(phi_tokenizer(words=474)), files, weights


def _janus(folder: Path, name: str) -> Made:
    """One file under official names."""
    words = OF_FAMILY["janus"]["language_model"]["vocabulary"]
    official = official_weights()
    for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        official[key] = drawn(key, (words, official[key].shape[1])) / official[key].shape[1] ** 0.5
    files = {"language_model": {"pytorch_model.bin": _pickled(official, folder)}}
    weights = {"language_model": model_names(official), "image_tokenizer": vq_names(official)}
    return tokenizer_files(janus_tokenizer()), files, weights


def _emu3(folder: Path, name: str) -> Made:
    """Official files: the model in as many as the config names, the image tokenizer in one."""
    official = {
        "language_model": emu3_golden.official_weights("llm"),
        "image_tokenizer": emu3_golden.official_weights("vq"),
    }
    names, files = load_config(CONFIGS / f"{name}.yaml").weights, {}
    for section, tensors in official.items():
        parts = list(getattr(names, section).files)
        files[section] = {
            part: save({key: tensors[key] for key in list(tensors)[i :: len(parts)]}) for i, part in enumerate(parts)
        }
    weights = {"language_model": Emu3.from_released(official["language_model"])}
    weights["image_tokenizer"] = ImageVQ.from_released(official["image_tokenizer"])
    return emu3_golden.tokenizer_files(), files, weights


def _pickled(tensors: dict[str, torch.Tensor], folder: Path) -> bytes:
    torch.save(tensors, folder / "pickle.bin")
    return (folder / "pickle.bin").read_bytes()


def _llama(folder: Path) -> dict[str, bytes]:
    """The writer of questions, its weights in two files as released."""
    files = _files_in(make_llama(folder / "writer", CAPTIONS, chat=False))
    tensors = load_file(folder / "writer" / "model.safetensors")
    del files["model.safetensors"]
    names, place = sorted(tensors), {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, folder / name, metadata={"format": "pt"})
        files[name] = (folder / name).read_bytes()
        place |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": place}
    return {"special_tokens_map.json": b"{}", **files, "model.safetensors.index.json": json.dumps(index).encode()}


def _encoder(folder: Path, kind: type, sizes: dict[str, int]) -> dict[str, bytes]:
    """Of bytes, so that whatever a random model writes has a vector of its own."""
    backend = phi_tokenizer(words=474, spaces=0)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, backend.token_to_id(END))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=END)
    torch.manual_seed(3)
    model = AutoModel.from_config(kind(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return _files_in(folder)


def _files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
