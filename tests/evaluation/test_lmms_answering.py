import pytest
import torch
from PIL import Image

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.errors import DataError
from hermesflow.data.images import fit_image
from hermesflow.evaluation.benchmarks import flickr30k, pope
from hermesflow.evaluation.lmms.answering import (
    Pictures,
    Stopping,
    answers,
    by_picture,
    pixel_digest,
    square,
)
from hermesflow.models.codecs import to_pixels
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from tests.support.showo_golden import random_model

UNTIL_END = Stopping(6)
TOKENIZER = ImageTokenizer(
    channels=8,
    encoder_multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 1),
    codebook_bits=4,
    patch_size=4,
    norm_groups=4,
)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def codes():
    drawn = torch.randint(16, (3, 9), generator=torch.Generator().manual_seed(1))
    return dict(zip("abc", drawn.numpy(), strict=True))


def noise(seed, size=(30, 40)):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    return Pictures(ShowOCodec(MagVitV2(TOKENIZER).eval(), 24))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes.", "yes"),
        ("yes", "yes"),
        ("No.", "no"),
        ("No, there is none", "no"),
        ("there is not a dog", "no"),
        ("Yes. There is no cat", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
    ],
)
def test_pope_reads_the_first_sentence(said, read):
    assert pope.read_answer(said) == read


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_a_caption_is_one_line(end):
    assert flickr30k.read_answer(f"a dog{end}runs") == "a dog runs"
    assert flickr30k.read_answer("a dog  runs.") == "a dog  runs." and flickr30k.read_answer("") == ""


def test_an_answer_ends_before_the_first_stop():
    stop = Stopping(4, ("\n\n", "USER"))
    assert stop.cut("red USER blue\n\ngreen") == "red "
    assert stop.cut("red") == "red"
    assert Stopping(4, ("",)).cut("red") == "red"


def test_stopping_reads_the_settings_of_tasks():
    shipped = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    assert Stopping.from_settings({**shipped, "until": ["\n\n"]}, otherwise=9) == Stopping(16, ("\n\n",))
    assert Stopping.from_settings({"until": "end"}, otherwise=9) == Stopping(9, ("end",))
    assert Stopping.from_settings({"until": None, "do_sample": True, "temperature": 0.0}, otherwise=9) == Stopping(9)


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.7}, {"do_sample": True}, {"num_beams": 3}])
def test_sampling_and_beams_are_refused(settings):
    with pytest.raises(DataError, match="answered greedily"):
        Stopping.from_settings(settings, otherwise=9)


def test_questions_about_one_picture_stay_together():
    assert by_picture(["a", "b", "a", "c", "b"], together=2) == [[0, 2, 1, 4], [3]]
    assert by_picture([], together=2) == []


def test_an_answer_does_not_depend_on_its_batch_mates(model, codes):
    owners, questions = ["b", "a", "b"], ["w3", "w4 w5", "w6"]
    together = answers(model, codes, owners, questions, UNTIL_END)
    alone = [answers(model, codes, [o], [q], UNTIL_END)[0] for o, q in zip(owners, questions, strict=True)]
    assert together == alone
    assert len(set(together)) > 1


def test_new_tokens_are_counted(model, codes):
    longer = answers(model, codes, ["a"], ["w3"], Stopping(6))[0].split()
    assert answers(model, codes, ["a"], ["w3"], Stopping(2))[0].split() == longer[:2]
    assert len(longer) > 2


def test_equal_pictures_are_coded_once(pictures, monkeypatch):
    coded = []
    encode = pictures.codec.see
    monkeypatch.setattr(pictures.codec, "see", lambda rows: coded.append(len(rows)) or encode(rows))
    first, second, again = pictures.add([noise(1), noise(2), noise(1)])
    assert first == again != second
    assert pictures.add([noise(2)]) == [second]
    assert coded == [2]


@torch.inference_mode()
def test_codes_are_of_the_picture_as_all_others_are_prepared(pictures):
    import io

    file = io.BytesIO()
    noise(5).save(file, format="PNG")
    with Image.open(io.BytesIO(fit_image(file.getvalue(), 24).png)) as fitted:
        pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(1, 24, 24, 3)
    (digest,) = pictures.add([noise(5)])
    assert pictures.seen[digest].tolist() == pictures.codec.network.encode(to_pixels(pixels.numpy()))[0].tolist()


def test_grey_pictures_are_seen_as_rgb(pictures):
    grey = noise(3).convert("L")
    assert pictures.add([grey]) == pictures.add([grey.convert("RGB")])


def test_digest_knows_the_shape():
    same_bytes = Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))
    assert pixel_digest(same_bytes[0]) != pixel_digest(same_bytes[1])


def test_square_has_the_models_size():
    assert square(noise(1, (30, 90)), 24).shape == (24, 24, 3)
