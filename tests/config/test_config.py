import json
from dataclasses import fields, replace
from pathlib import Path

import jsonschema_markdown
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.cli.fetching import sources_of
from hermesflow.config.experiment import as_plain, config_schema
from hermesflow.config.load import load_config
from hermesflow.config.sections import Training
from hermesflow.config.tree import (
    Reference,
    generations_after,
    iteration,
    preferences_of,
    read_variant,
    reference_of,
    sampled_checkpoints,
    training_of,
)
from hermesflow.core import hub
from hermesflow.core.errors import ConfigError, FetchError

ROOT = Path(__file__).parents[2]
JANUS, EMU3 = ("janus-pro-1b", "janus-pro-7b"), "emu3-stage1"
SMOKE = ROOT / "config" / "smoke.yaml"
SOURCE = {"repo": "owner/name", "files": {"model.safetensors": None}}


@pytest.fixture
def write(tmp_path):
    """Write smoke.yaml with one change; None removes the key."""

    def change(key, value):
        plain = yaml.safe_load(SMOKE.read_text())
        *path, last = key.split(".")
        inner = plain
        for part in path:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        file = tmp_path / "changed.yaml"
        file.write_text(yaml.safe_dump(plain))
        return file

    return change


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "config").glob("*.yaml")])
def test_shipped_configs_load_and_carry_their_name(name):
    assert load_config(ROOT / "config" / f"{name}.yaml").name == name.removesuffix("-paper")  # same results, more arms


def test_derived_sizes():
    config = load_config(SMOKE)
    assert config.codebook_size == 2**config.image_tokenizer.codebook_bits
    levels = len(config.image_tokenizer.encoder_multipliers)
    side = config.data.image_size // (config.image_tokenizer.patch_size * 2 ** (levels - 1))
    assert config.num_image_tokens == side**2


@pytest.mark.parametrize(("image_size", "tokens"), [(512, 1024), (256, 256)])
def test_the_paper_s_scale_has_the_official_sizes(tmp_path, image_size, tokens):
    plain = yaml.safe_load((ROOT / "config" / "showo.yaml").read_text())
    plain["data"]["image_size"] = image_size
    file = tmp_path / "showo.yaml"
    file.write_text(yaml.safe_dump(plain))
    config = load_config(file)
    assert (config.num_image_tokens, config.codebook_size) == (tokens, 8192)


def test_the_paper_s_scale_has_the_paper_s_figures():
    config = load_config(ROOT / "config" / "showo.yaml")
    decodings = [(d.top_k, d.temperature) for d in config.sampling.captions.decodings]
    assert decodings == [(1, 1.0), *((k, t) for k in (2, 3, 4) for t in (0.1, 0.7, 2.0))]
    assert config.sampling.captions.max_new_tokens == 100
    images = config.sampling.images
    assert (images.n, images.steps, images.guidance) == (16, 50, 5.0)
    data = config.data
    assert (data.source, data.pairs, data.base_pairs, data.questions.min_f1) == ("journeydb", 5000, 0, 0.6)
    assert data.questions.generator.repo == "tifa-benchmark/llama2_tifa_question_generation"
    assert data.questions.checker.folder.endswith("unifiedqa-v2-t5-large-1363200")
    encoders = (config.scoring.encoder, config.scoring.choice_encoder)
    assert [(one.source.repo.split("/")[1], one.pooling) for one in encoders] == [
        ("bert-large-uncased", "cls"),
        ("all-mpnet-base-v2", "mean"),
    ]
    assert (config.scoring.vqa_method, config.preferences.min_image_score) == ("generate", 0.6)
    training = config.training
    assert (training.steps, training.learning_rate, training.weight_decay, training.beta) == (3000, 2e-5, 0.01, 0.2)
    assert (training.batch_size, config.runtime.train_processes) == (8 * 4, 8)
    assert [iteration(config, f"pair-{i}") for i in (1, 2, 3)] == [1, 2, 3]


def test_janus_released_sizes_differ_from_show_os_in_what_is_janus_alone():
    showo, one, seven = (load_config(ROOT / "config" / f"{name}.yaml") for name in ("showo", *JANUS))
    own = {"name", "data", "weights", "image_tokenizer", "language_model", "sampling"}
    changed = {field.name for field in fields(showo) if getattr(showo, field.name) != getattr(one, field.name)}
    assert changed == own and one.data == replace(showo.data, image_size=384)
    assert replace(one.sampling.images, guidance=5.0) == showo.sampling.images
    assert (one.num_image_tokens, one.codebook_size) == (576, 16384)
    changed = {field.name for field in fields(one) if getattr(one, field.name) != getattr(seven, field.name)}
    assert changed == {"name", "weights", "language_model", "training", "runtime"}
    for config, repo in ((one, "deepseek-ai/Janus-Pro-1B"), (seven, "deepseek-ai/Janus-Pro-7B")):
        assert config.weights.language_model == config.weights.image_tokenizer  # one file holds both
        assert {config.weights.language_model.repo, config.language_model.text_tokenizer.repo} == {repo}


def test_emu3_released_size_differs_from_show_os_in_what_is_emu3_alone():
    showo, emu3 = (load_config(ROOT / "config" / f"{name}.yaml") for name in ("showo", EMU3))
    own = {"name", "weights", "image_tokenizer", "language_model", "sampling", "training", "runtime"}
    changed = {field.name for field in fields(showo) if getattr(showo, field.name) != getattr(emu3, field.name)}
    assert changed == own
    assert replace(emu3.sampling.images, guidance=5.0, top_k=None) == showo.sampling.images
    assert replace(emu3.training, lora=None, micro_batch_size=None) == showo.training
    assert replace(emu3.runtime, activation_checkpointing=False) == showo.runtime
    assert (emu3.num_image_tokens, emu3.codebook_size) == (4096, 32768)


@pytest.mark.parametrize("name", ["showo", *JANUS, EMU3])
def test_nothing_of_the_paper_s_scale_is_fetched_without_pins(name):
    config = load_config(ROOT / "config" / f"{name}.yaml")
    sources = sources_of(config)
    for key, file in (("data.questions.checker", "unifiedqa"), ("benchmarks.coco.inception", "pt_inception")):
        with pytest.raises(FetchError, match=rf"{file}.*no such file. Correct `folder`"):
            hub.fetch(sources.pop(key))
    clips = [sources.pop(f"benchmarks.{section}.clip") for section in ("geneval", "coco")]
    assert all(clip.revision and None not in clip.files.values() for clip in clips)
    for source in sources.values():
        with pytest.raises(ConfigError, match=rf"{source.repo}: .* not all pinned: run `hermesflow fetch --pin"):
            hub.fetch(source)
    with pytest.raises(ConfigError, match=r"JourneyDB/JourneyDB: data\.revision is not pinned"):
        hub.open_dataset(config.data.path, config.data.revision)


def test_released_weights_take_the_place_of_training(write):
    file = write("weights", {"image_tokenizer": SOURCE})
    with pytest.raises(ConfigError, match=r"`tokenizer_training` trains what `weights\.image_tokenizer`.*remove one"):
        load_config(file)
    plain = yaml.safe_load(file.read_text())
    del plain["tokenizer_training"]
    file.write_text(yaml.safe_dump(plain))
    assert load_config(file).weights.image_tokenizer.repo == "owner/name"
    with pytest.raises(ConfigError, match=r"`base_training` is required where there is no `weights\.language_model`"):
        load_config(write("base_training", None))


def test_a_checkpoint_knows_how_many_generations_wait_for_it():
    config = load_config(SMOKE)
    found = {name: generations_after(config, name) for name in ("base", *config.checkpoints)}
    assert found == {"base": 2, "pair-1": 1, "pair-2": 0, "und-1": 0, "gen-1": 0, "pair-1-n2": 0}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data.pears", 3, ["data.pears", "unknown key", "spelling"]),
        ("colour", "red", ["colour", "unknown key"]),
        ("training.steps", "many", ["training.steps", "many"]),
        ("training.steps", 0, ["training.steps", "greater than 0"]),
        ("training.steps", 3.5, ["training.steps", "3.5"]),
        ("training.steps", True, ["training.steps", "True"]),
        ("training.mask_ratios", [0.9, 0.1], ["training.mask_ratios", "may not be above the second"]),
        ("checkpoints.pair-1.mask_ratios", [0.9, 1.1], ["checkpoints.pair-1.mask_ratios.1", "1.1"]),
        ("data.seed", None, ["data.seed", "required"]),
        ("preferences.min_image_score", 1.5, ["preferences.min_image_score", "1.5"]),
        ("checkpoints.pair-1.objective", "both", ["checkpoints.pair-1.objective", "both"]),
        ("checkpoints.pair-2.parent", "pair-9", ["checkpoints.pair-2.parent", "pair-9", "pair-1"]),
        ("checkpoints.pair-1.parent", "pair-2", ["cycle", "base"]),
        ("checkpoints.base", {"parent": "pair-1", "objective": "pair"}, ["base", "taken"]),
        ("name", "../up", ["name", "../up"]),
        ("seeds", 3, ["seeds", "3"]),
        ("scoring.vqa_prompt", "{choices}?", ["scoring.vqa_prompt", "must hold {question}"]),
        ("scoring.vqa_prompt", "{question} {answer}", ["scoring.vqa_prompt", "may hold {choices}"]),
        ("scoring.vqa_prompt", "{question", ["scoring.vqa_prompt", "expected '}'"]),
        ("weights", {"language_model": {"files": {"a.bin": None}}}, ["weights.language_model", "`repo`", "`folder`"]),
        ("weights", {"language_model": {**SOURCE, "files": {}}}, ["weights.language_model.files", "at least 1"]),
        ("weights", {"language_model": {**SOURCE, "revision": "main"}}, ["weights.language_model.revision", "main"]),
        ("language_model.text_tokenizer", {**SOURCE, "files": {"a": "12"}}, ["text_tokenizer", "files.a", "12"]),
    ],
)
def test_wrong_files_are_refused_with_file_key_and_mend(write, key, value, says):
    file = write(key, value)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    for part in says:
        assert part in message


def test_unreadable_yaml(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("a: [1,")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(file)
    with pytest.raises(ConfigError, match="absent"):
        load_config(tmp_path / "absent.yaml")


def test_a_whole_number_fills_a_float(write):
    assert load_config(write("training.learning_rate", 1)).training.learning_rate == 1.0


@pytest.mark.parametrize("section", ["training", "base_training"])
def test_null_clips_no_gradient_and_infinity_is_no_number(write, section):
    import jsonschema

    file = write(f"{section}.max_grad_norm", float("inf"))
    with pytest.raises(ConfigError, match=rf"{section}\.max_grad_norm.*finite number"):
        load_config(file)
    file.write_text(file.read_text().replace("max_grad_norm: .inf", "max_grad_norm: null"))
    config = load_config(file)
    assert getattr(config, section).max_grad_norm is None
    jsonschema.validate(yaml.safe_load(file.read_text()), config_schema())


def test_checkpoints_override_training_for_themselves_alone(write):
    config = load_config(write("checkpoints.pair-2.beta", 0.7))
    assert training_of(config, "pair-2").beta == 0.7
    assert training_of(config, "pair-1") == config.training
    assert training_of(config, "pair-2").steps == config.training.steps


@pytest.mark.parametrize("key", ["beta", "chosen_nll_weight"])
def test_best_of_n_fine_tuning_has_no_setting_of_a_preference(write, key):
    file = write("checkpoints.gen-1", {"parent": "base", "objective": "chosen", key: 1.0})
    with pytest.raises(ConfigError, match=rf"checkpoints\.gen-1\.{key}: objective `chosen` .* remove it"):
        load_config(file)
    assert load_config(write("checkpoints.gen-1.objective", "chosen")).checkpoints["gen-1"].objective == "chosen"


def test_the_paper_s_loss_is_the_default_and_one_key_away(write):
    assert Training.__dataclass_fields__["chosen_nll_weight"].default == 0
    config = load_config(write("checkpoints.pair-2.chosen_nll_weight", 0.0))
    assert training_of(config, "pair-2").chosen_nll_weight == 0


def test_a_reference_is_shared_by_all_that_rest_on_the_same():
    config = load_config(ROOT / "config" / "micro.yaml")
    own = reference_of(config, "pair-1")
    assert (
        own == ("base", None, config.training.steps, "both", "previous", (0, 1))
        and own.variant == f"all-{config.training.steps}"
    )
    assert {name for name in config.checkpoints if reference_of(config, name) == own} == {
        *("pair-1", "und-1", "gen-1", "dpo-1")
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [("candidates", 2), ("steps", 3), ("pairs", "any"), ("mask_ratios", [0.85, 1])],
)
def test_what_a_reference_rests_on_is_not_shared(write, key, value):
    for changed, to, shared in (("training.beta", 0.3, True), (f"checkpoints.gen-1.{key}", value, False)):
        config = load_config(write(changed, to))
        assert (reference_of(config, "gen-1") == reference_of(config, "pair-1")) == shared


def test_checkpoints_override_preferences_for_themselves_alone(write):
    config = load_config(write("checkpoints.pair-2.pairs", "any"))
    assert preferences_of(config, "pair-2").pairs == "any"
    assert preferences_of(config, "pair-1") == config.preferences and config.preferences.pairs == "both"
    config = load_config(write("preferences.pairs", "any"))
    assert {reference_of(config, name).pairs for name in config.checkpoints} == {"any"}


def test_fresh_rejected_answers_make_a_difference_from_the_second_iteration_on(write):
    config = load_config(write("preferences.rejected", "fresh"))
    assert reference_of(config, "pair-1").variant == f"all-{config.training.steps}"
    assert reference_of(config, "pair-2").variant == f"all-{config.training.steps}-fresh"


def test_the_product_of_both_terms_needs_both(write):
    file = write("preferences.pairs", "any")
    file.write_text(file.read_text().replace("objective: generation", "objective: product"))
    with pytest.raises(ConfigError, match=r"gen-1\.objective: `product` .*; set checkpoints\.gen-1\.pairs to `both`"):
        load_config(file)
    file.write_text(file.read_text().replace("objective: product", "objective: product\n    pairs: both"))
    assert reference_of(load_config(file), "gen-1").pairs == "both"


@given(
    st.builds(
        Reference,
        st.just("base"),
        st.none() | st.integers(1, 99),
        st.integers(1, 10**6),
        st.sampled_from(["both", "any"]),
        st.sampled_from(["previous", "fresh"]),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
    )
)
def test_a_reference_is_read_back_from_its_name(own):
    assert read_variant("base", own.variant) == own and "/" not in own.variant
    with pytest.raises(ConfigError, match="no reference is called so"):
        read_variant("base", f"{own.variant}-more")


@pytest.mark.parametrize("key", ["mode", "checkpoints.pair-1.mode"])
def test_a_switch_that_was_removed_is_named(write, key):
    with pytest.raises(ConfigError, match=f"unknown key `{key}`: remove it; .* `paper` .* always"):
        load_config(write(key, "official"))


def test_tree():
    config = load_config(SMOKE)
    assert sampled_checkpoints(config) == ("base", "pair-1")
    assert [iteration(config, c) for c in ("base", "pair-1", "pair-2", "und-1")] == [0, 1, 2, 1]


STOPPING = {"every": 5, "patience": 2, "prompts": 9}


def test_a_checkpoint_s_own_stopping_is_in_the_place_of_the_section_s(write):
    config = load_config(write("training.stopping", STOPPING))
    assert training_of(config, "pair-2").stopping.every == 5
    config = load_config(write("checkpoints.pair-2", {"parent": "pair-1", "objective": "pair", "stopping": STOPPING}))
    assert training_of(config, "pair-1").stopping is None and training_of(config, "pair-2").stopping.patience == 2
    with pytest.raises(ConfigError, match=r"`training\.stopping\.patience`: .*greater than 0"):
        load_config(write("training.stopping", {**STOPPING, "patience": 0}))


@pytest.mark.parametrize("key", ["training", "checkpoints.pair-1"])
def test_stopping_is_refused_where_no_judge_reads_images(tmp_path, key):
    plain = yaml.safe_load((ROOT / "config" / "own-pictures.yaml").read_text())
    inner = plain
    for part in key.split("."):
        inner = inner[part]
    inner["stopping"] = STOPPING
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=rf"{key}\.stopping: wants a judge .*data\.source is `folder`.*remove it"):
        load_config(file)


def changed_pictures(tmp_path, **data):
    plain = yaml.safe_load((ROOT / "config" / "pictures.yaml").read_text())
    plain["data"] |= data
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(plain))
    return file


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"shift": 1}, r"image_tokenizer\.tile_size: tiles of 32 .* data\.shift moves them by up to 1; set it to 0"),
        ({"style": "both", "shift": 2}, r"image_tokenizer\.tile_size: tiles of 32 .* up to 2"),
        ({"shift": 3}, r"data\.shift: .* 3 pixels leave their cells.* with data\.image_size 64 they may move by 2"),
        ({"shift": 4, "image_size": 96}, r"data\.shift: .* data\.image_size 96 they may move by 3"),
        ({"shift": -1}, r"`data\.shift`: .*greater than or equal to 0"),
        ({"style": "noto"}, r"`data\.style`: .*'twemoji', 'openmoji' or 'both'"),
    ],
)
def test_pictures_that_the_tokenizer_or_the_judge_cannot_read_are_refused(tmp_path, data, says):
    with pytest.raises(ConfigError, match=says):
        load_config(changed_pictures(tmp_path, **data))


def test_pictures_that_stay_in_the_middle_may_be_of_any_style_and_coded_in_tiles(tmp_path):
    assert load_config(changed_pictures(tmp_path, style="openmoji", shift=0)).data.style == "openmoji"


@pytest.mark.parametrize(("key", "value"), [("style", "twemoji"), ("shift", 0)])
def test_how_pictures_are_drawn_is_said_of_no_other_world(write, key, value):
    with pytest.raises(ConfigError, match=rf"data\.{key}: is of `pictures` alone, .*`microworld`; remove it"):
        load_config(write(f"data.{key}", value))


def test_config_is_frozen_and_plain_again():
    config = load_config(SMOKE)
    with pytest.raises(AttributeError):
        config.name = "other"
    assert json.loads(json.dumps(as_plain(config)))["data"] == as_plain(config.data)


def test_schema_accepts_what_is_shipped_and_refuses_unknown_keys():
    import jsonschema

    for name in ("showo", "micro"):
        plain = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        jsonschema.validate(plain, config_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "colour": "red"}, config_schema())


def test_committed_schema_and_table_of_keys_are_current():
    committed = (ROOT / "workflow/schemas/config.schema.json").read_text()
    assert committed == json.dumps(config_schema(), indent=2) + "\n", "make dvc"
    table = jsonschema_markdown.generate(json.loads(committed), title="", footer=False, hide_empty_columns=True)
    assert (ROOT / "config/README.md").read_text().strip() == table.strip(), "make dvc"


def test_every_key_is_explained():
    schema = config_schema()
    unexplained = [
        f"{name}.{key}"
        for name, section in {**schema["$defs"], "": schema}.items()
        for key, value in section["properties"].items()
        if "description" not in value and "$ref" not in json.dumps(value)
    ]
    assert not unexplained, "give these fields a docstring"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (b"# Gr\xf6\xdfe\n", "invalid"),
        (b"seeds: [5]\n", "key `seeds` is there twice"),
        (b"note: 2026-01-01\n", "date is not JSON serializable"),
        (b"note: !!set {a}\n", "set is not JSON serializable"),
        (b"note: !!binary aGVsbG8=\n", "bytes is not JSON serializable"),
        (b"note: " + b"[" * 3000 + b"]" * 3000, "recursion"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, more, said):
    """Of a key that was there twice the first was lost without a word; the others ended in a traceback."""
    (tmp_path / "own.yaml").write_bytes(SMOKE.read_bytes() + b"\n" + more)
    with pytest.raises(ConfigError, match=rf"own\.yaml: cannot be read as YAML \((?s:.)*{said}"):
        load_config(tmp_path / "own.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_config_may_have_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "own.yaml").write_bytes(SMOKE.read_text().encode(encoding))
    assert load_config(tmp_path / "own.yaml") == load_config(SMOKE)
