import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

from hermesflow.config.sections import Source
from hermesflow.core.errors import ConfigError, FetchError
from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability, first_tokens
from hermesflow.evaluation.graders.pretrained import read_processor
from tests.support.benchmark_models import save_qwen3_vl

ASKED = "How many cats are in the image? Answer in one word."
FORMS = ("two", " two", "Two", " Two", "2", " 2")
RED, BLUE = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_qwen3_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def judge(folder):
    return TransformersAnswerProbability(str(folder))


def next_token(folder, image):
    """Probabilities of what follows, by the model itself on inputs put together by hand."""
    from transformers import Qwen2Tokenizer, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = Qwen2Tokenizer.from_pretrained(folder)
    seen = Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    places = int(seen["image_grid_thw"].prod()) // 4  # 2 x 2 patches are one token
    pad = "<|image_pad|>" * places
    text = f"<|im_start|>user\n<|vision_start|>{pad}<|vision_end|>{ASKED}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([words.encode(text)])
    kinds = (ids == words.convert_tokens_to_ids("<|image_pad|>")).int()
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    with torch.inference_mode():
        return words, model(input_ids=ids, mm_token_type_ids=kinds, **seen).logits[0, -1].softmax(-1)


def test_the_chances_of_all_forms_are_summed(folder, judge):
    words, chances = next_token(folder, RED)
    two = [words.convert_tokens_to_ids(token) for token in ("two", "Two", "Ġtwo", "ĠTwo", "2", "Ġ")]
    assert len(set(two)) == 6
    assert judge.probability(RED, ASKED, FORMS) == pytest.approx(float(chances[two].sum()), rel=1e-4)
    assert judge.probability(RED, ASKED, ["two"]) == pytest.approx(float(chances[two[0]]), rel=1e-4)


def test_a_form_that_begins_like_another_counts_once(judge):
    once = judge.probability(RED, ASKED, ["two"])
    assert judge.probability(RED, ASKED, ["two", "two cats"]) == once
    assert 0 < once < 1


def test_image_and_question_reach_the_model(judge):
    on_red = judge.probability(RED, ASKED, FORMS)
    assert judge.probability(BLUE, ASKED, FORMS) != pytest.approx(on_red, rel=1e-3)
    assert judge.probability(RED, ASKED.replace("cats", "dogs"), FORMS) != pytest.approx(on_red, rel=1e-3)


def test_images_of_other_modes_are_converted(judge, monkeypatch):
    monkeypatch.setattr(judge._model.processor.image_processor, "do_convert_rgb", False)  # not every processor does it
    assert judge.probability(RED.convert("RGBA"), ASKED, FORMS) == judge.probability(RED, ASKED, FORMS)


def test_weights_keep_the_number_type_they_were_saved_in(folder, tmp_path):
    from transformers import Qwen3VLForConditionalGeneration

    save_qwen3_vl(tmp_path)
    Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    one = TransformersAnswerProbability(str(tmp_path))
    assert one._model.model.dtype == torch.bfloat16
    assert one.probability(RED, ASKED, FORMS) == pytest.approx(
        TransformersAnswerProbability(str(folder)).probability(RED, ASKED, FORMS), rel=0.1
    )


def test_first_tokens_of_a_byte_level_tokenizer(judge):
    words = judge._model.processor.tokenizer
    tokens = [words.convert_ids_to_tokens(token) for token in first_tokens(words, ["Yes", "two", "10", " 2"])]
    assert sorted(tokens) == ["1", "Yes", "two", "Ġ"]


def test_a_tokenizer_that_puts_blanks_before_digits_is_refused():
    from transformers import LlamaTokenizer

    pieces = ["<unk>", "<s>", "</s>", "▁", "2", "3", "t", "w", "o", "tw", "two", "▁two"]
    merges = [("t", "w"), ("tw", "o"), ("▁", "two")]
    llama = LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, add_bos_token=True)
    assert llama.convert_ids_to_tokens(llama.encode("two")) == ["<s>", "▁two"]
    assert llama.convert_ids_to_tokens(first_tokens(llama, ["two"])) == ["▁two"]
    with pytest.raises(ConfigError, match=r"begins '2' with a blank.*byte-level"):
        first_tokens(llama, ["two", "2"])


def test_a_source_is_checked_before_it_is_read(folder):
    with pytest.raises(FetchError, match="the config pins"):
        TransformersAnswerProbability(Source(folder=str(folder), files={"model.safetensors": "0" * 64}))


def test_a_model_that_cannot_be_asked_is_named(tmp_path):
    with pytest.raises(ConfigError, match="chat template"):
        TransformersAnswerProbability(str(save_qwen3_vl(tmp_path / "mute", chat=False)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read as the VQA model"):
        TransformersAnswerProbability(str(tmp_path))


WITH_TORCHVISION = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here")


@pytest.mark.parametrize(
    ("named", "said"),
    [("BertConfig", "BertConfig"), pytest.param("Mistral3Config", "Torchvision", marks=WITH_TORCHVISION)],
)
def test_a_model_whose_processor_cannot_be_had_is_named(named, said):
    model = SimpleNamespace(config=getattr(transformers, named)())
    with pytest.raises(ConfigError, match=f"folder: the judge is a SimpleNamespace.*{said}"):
        read_processor(model, "folder", role="the judge")


def test_pickled_weights_are_not_read(tmp_path):
    save_qwen3_vl(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        TransformersAnswerProbability(str(tmp_path))
