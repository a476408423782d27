"""What FSDP gathers layer by layer; trainings with sharded weights are in test_distributed.py."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from hermesflow.core.errors import ConfigError
from hermesflow.models.backbone import families, meta_model
from hermesflow.training.distributed import check_sharding
from hermesflow.training.logps import PairLogps
from tests.support.pair_world import small_config

CONFIG = Path(__file__).parents[2] / "config" / "accelerate" / "fsdp.yaml"


@pytest.mark.parametrize("family", [*families(), "tests.support.tiny_backbone"])
def test_the_decoder_layers_of_every_family_are_gathered_one_by_one(family):
    """The shipped config named Show-o's layers, so that accelerate ended the training of any other model."""
    settings = yaml.safe_load(CONFIG.read_text())["fsdp_config"]
    names = settings.get("fsdp_transformer_layer_cls_to_wrap")
    plugin = SimpleNamespace(
        auto_wrap_policy=transformer_auto_wrap_policy, transformer_cls_names_to_wrap=names and names.split(",")
    )
    config = small_config()
    model = meta_model(replace(config, language_model=replace(config.language_model, family=family)))
    scorer = PairLogps(model, "pair")
    is_gathered = fsdp2_prepare_auto_wrap_policy(plugin, scorer)
    assert [module for module in scorer.modules() if is_gathered(module)] == list(model.decoder_layers)


@pytest.mark.parametrize("names", [None, ["PhiDecoderLayer"], ["LlamaDecoderLayer"]])
def test_layers_of_another_model_are_refused_before_the_training(names):
    model = meta_model(small_config())
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=names)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    check_sharding(SimpleNamespace(state=SimpleNamespace()), model)
    if names == ["LlamaDecoderLayer"]:
        with pytest.raises(ConfigError, match=r"wrap names LlamaDecoderLayer, which this model .* Leave the key out"):
            check_sharding(accelerator, model)
    else:
        check_sharding(accelerator, model)
