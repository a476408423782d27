"""What is measured on: random models of two sizes, made-up texts, images, questions and pairs of fixed lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling, Training
from hermesflow.core.images import ImageForm, read_images, write_images
from hermesflow.core.seeding import generator
from hermesflow.data.worlds.language import lexicon_of
from hermesflow.data.worlds.questions import Question, vocabulary
from hermesflow.models import backbone
from hermesflow.models.backbone import NoiseName, UnifiedModel
from hermesflow.models.costs.decoder import Decoder
from hermesflow.models.showo.costs import Decoder as ShowODecoder
from hermesflow.models.showo.masking import pair_mask
from hermesflow.models.showo.model import Shape, ShowO
from hermesflow.models.showo.prompting import TokenIds
from hermesflow.models.text_tokenizers import word_tokenizer
from hermesflow.selfplay.preferences import CAPTION_COLUMNS
from hermesflow.training.pairs import HomologousPairs

ROOT = Path(__file__).parents[1]
_OTHERS = {"partial_rotary_factor": 0.5, "rope_theta": 10_000.0, "layer_norm_eps": 1e-5}
_GAIN = 1.5  # of the weights, times one over the root of what goes in
_SHARPNESS = 2.0  # of queries and of keys: rows attend to a few places, so that what stands where plays a part
_EMBEDDING = 2.0  # or all tokens look alike behind some layers


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model and how much work it gets."""

    shape: Shape
    words: int
    """Text vocabulary."""
    new_tokens: int
    """Of a caption."""
    answer_tokens: int
    steps: int
    """Of MaskGIT."""
    measured_steps: int
    """Of those, how many our path takes where not all are taken (as a shorter decoding)."""
    captions: int
    """Of one image."""
    together: int
    """Images that are described together."""
    images: int
    prompts: int
    """Different captions that images are drawn from."""
    prompt_words: tuple[int, int]
    """Their lengths, from shortest to longest."""
    questions: int
    question_words: tuple[int, int]
    choices: int
    """Of a question; their lengths are 1 to 4 words."""
    pairs: int
    pair_words: tuple[int, int]
    """Lengths of the captions of preference pairs."""
    config: Config | None = None
    """Of another family than Show-o."""

    @property
    def decoder(self) -> Decoder:
        """What FLOPs are counted of."""
        if self.config is not None:
            decoder: Decoder = backbone.part(self.config.language_model.family, "costs").Decoder.of(self.config)
            return decoder
        shape = self.shape
        return ShowODecoder(
            hidden_size=shape.hidden_size,
            layers=shape.layers,
            heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            vocabulary=TokenIds(self.words, shape.codebook_size, 0).vocab_size,
            codes=shape.codebook_size,
            image_tokens=shape.num_image_tokens,
            max_text_tokens=shape.max_text_tokens,
            on_cpu=True,
        )

    def of(self, family: str) -> Size:
        """The same work for a model of a family, with about as many parameters.

        Images written token by token are those of one prompt, as a pair's candidates are, and of fewer tokens: each is
        a pass, where MaskGIT takes many together.
        """
        if family == "showo":
            return self
        shape = replace(self.shape, num_image_tokens=max(self.shape.num_image_tokens // 4, 16))
        bits = shape.codebook_size.bit_length() - 1
        language = {
            "hidden_size": shape.hidden_size,
            "layers": shape.layers,
            "heads": shape.heads,
            "key_value_heads": max(shape.heads // 4, 1),
            "intermediate_size": shape.intermediate_size * 11 // 16,  # of three matrices instead of two
            "max_text_tokens": shape.max_text_tokens,
            "vocabulary": self.words + shape.codebook_size,
        }
        side = round(shape.num_image_tokens**0.5)
        return replace(self, shape=shape, prompts=1, config=config_of(family, language, side=side, codebook_bits=bits))


SIZES = {
    "medium": Size(
        shape=Shape(
            hidden_size=512,
            layers=8,
            heads=8,
            intermediate_size=2048,
            max_text_tokens=128,
            num_image_tokens=256,
            codebook_size=8192,
            **_OTHERS,
        ),
        words=8192,
        new_tokens=100,
        answer_tokens=16,
        steps=50,
        measured_steps=3,
        captions=10,
        together=8,
        images=16,
        prompts=4,
        prompt_words=(20, 100),
        questions=8,
        question_words=(6, 20),
        choices=4,
        pairs=4,
        pair_words=(40, 90),
    ),
    "tiny": Size(
        shape=Shape(
            hidden_size=64,
            layers=2,
            heads=2,
            intermediate_size=128,
            max_text_tokens=32,
            num_image_tokens=16,
            codebook_size=64,
            **_OTHERS,
        ),
        words=120,
        new_tokens=8,
        answer_tokens=4,
        steps=5,
        measured_steps=3,
        captions=4,
        together=2,
        images=4,
        prompts=2,
        prompt_words=(3, 20),
        questions=3,
        question_words=(3, 9),
        choices=4,
        pairs=2,
        pair_words=(6, 15),
    ),
}
"""`medium` is what issue 5 has its bars for; `tiny` is for tests."""

DECODINGS = [Decoding(top_k=1, temperature=1.0)]
DECODINGS += [Decoding(top_k=k, temperature=heat) for k in (2, 3, 4) for heat in (0.1, 0.7, 2.0)]
"""The paper's ten, as in config/showo.yaml."""
TRAINING = Training(
    steps=3000,
    batch_size=4,
    learning_rate=2e-5,
    weight_decay=0.01,
    warmup_steps=150,
    max_grad_norm=1.0,
    beta=0.2,
    checkpoint_every=500,
)
_PROMPT_WORDS = 12  # of the caption prompt; the released one has 13 tokens


def drawing(steps: int, *, guidance: float = 5.0) -> ImageSampling:
    """The paper's settings with so many steps."""
    return ImageSampling(n=16, steps=steps, guidance=guidance, temperature=1.0, temperature_schedule="linear")


def question(words: str, choices: tuple[str, ...]) -> Question:
    """A question of which no answer is right: that plays no part in what it costs."""
    return Question(words, choices, answer="", kind="")


class WordEncoder:
    """Stands for the sentence encoder, which is no part of what is measured: random vectors of words, added up."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, (N, 16) float32."""
        words = [[torch.randn(16, generator=generator("word", word)) for word in text.split()] for text in texts]
        return torch.nn.functional.normalize(torch.stack([torch.stack(one).sum(dim=0) for one in words]), dim=1)


def config_of(family: str, language: Mapping[str, Any], *, side: int, codebook_bits: int) -> Config:
    """The smoke config with a model of a family, whose images have `side` times `side` tokens."""
    smoke = load_config(ROOT / "config" / "smoke.yaml")
    pixels = smoke.image_tokenizer.patch_size * 2 ** (len(smoke.image_tokenizer.encoder_multipliers) - 1)
    return replace(
        smoke,
        data=replace(smoke.data, image_size=pixels * side),
        image_tokenizer=replace(smoke.image_tokenizer, codebook_bits=codebook_bits),
        language_model=replace(smoke.language_model, family=family, **language),
    )


def random_model(size: Size) -> UnifiedModel:
    """A float32 model with the same random weights every time, large enough that a wrong mask or position shows.

    It is frozen where loaded ones are. No text ends early, and texts are told as token ids, so that ids that are no
    words can be compared.
    """
    words = size.words if size.config is None else len(vocabulary(lexicon_of("microworld"))) + 2
    tokenizer = word_tokenizer([f"w{k}" for k in range(words - 2)])
    prompts: dict[str, Any] = {"caption_prompt": text(_PROMPT_WORDS), "question_template": "w1 {} w2"}
    if size.config is None:
        model: UnifiedModel = ShowO(size.shape, tokenizer, **prompts)
    else:
        own = replace(size.config.language_model, **prompts)
        described = backbone.meta_model(replace(size.config, language_model=own))
        model = backbone.part(own.family, "model").rebuild(described.settings(), tokenizer)
    stream = generator("bench", "weights")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=stream)
            if parameter.ndim == 1:
                parameter.add_(noise, alpha=0.1)
                if name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
                    parameter.mul_(_SHARPNESS)
            elif "embed" in name:
                parameter.copy_(noise).mul_(_EMBEDDING)
            else:
                parameter.copy_(noise).mul_(_GAIN / parameter[0].numel() ** 0.5)
    model.end_token = -1
    model.detokenize = lambda ids: " ".join(str(i) for i in ids if i != model.end_token)  # type: ignore[method-assign]
    return model.eval()


def text(words: int, *names: str | int, vocabulary: int = 100) -> str:
    """A made-up text of so many words, the same for the same names."""
    drawn = torch.randint(vocabulary, (words,), generator=generator("bench", "text", words, *names))
    return " ".join(f"w{k}" for k in drawn.tolist())


def lengths(count: int, shortest_longest: tuple[int, int]) -> list[int]:
    """So many lengths, evenly from the shortest to the longest."""
    return torch.linspace(*shortest_longest, count).round().int().tolist()


def images(size: Size, count: int, form: ImageForm | None = None) -> Tensor:
    """Random images of a form, (count, *form.shape); codes (count, T) by default."""
    form = form or codes_of(size)
    most = size.shape.codebook_size if form.kind == "codes" else 256
    found = torch.randint(most, (count, *form.shape), generator=generator("bench", "images"))
    return found if form.kind == "codes" else found.to(torch.uint8)


def codes_of(size: Size) -> ImageForm:
    """The form of images as codes."""
    return ImageForm("codes", (size.shape.num_image_tokens,), "uint16")


def decodings(count: int) -> list[Decoding]:
    """The first greedy, the others drawn; from the start again where there are more than ten."""
    return [DECODINGS[k % len(DECODINGS)] for k in range(count)]


def prompts(size: Size, count: int) -> list[str]:
    """Captions of `count` images, each of the different ones as often."""
    different = [text(words, "prompt") for words in lengths(size.prompts, size.prompt_words)]
    return [different[k * len(different) // count] for k in range(count)]


def questions(size: Size) -> list[Question]:
    """Questions of different lengths, the choices of each of 1 to 4 words."""
    return [
        question(text(words, "question"), tuple(text(1 + k % 4, "choice", k, words) for k in range(size.choices)))
        for words in lengths(size.questions, size.question_words)
    ]


def generators(count: int) -> list[torch.Generator]:
    """New generators of so many rows, the same every time."""
    return [generator("bench", "row", k) for k in range(count)]


def homologous(
    size: Size, count: int, *, model: UnifiedModel | None = None, folder: Path | None = None
) -> HomologousPairs:
    """So many preference pairs of a model; real images are in a file of `folder`, memory-mapped, or in memory."""
    names, form = [f"pair-{k}" for k in range(count)], model.seen if model else codes_of(size)
    real, chosen, rejected = np.asarray(images(size, 3 * count), dtype=np.uint16).reshape(3, count, -1)
    if form.kind != "codes":
        real = images(size, count, form).numpy()
    if folder:
        write_images(folder / "images.npy", names, real[:, None], form)
        real = read_images(folder / "images.npy")[1][:, 0]
    some = lengths(2 * size.pairs, size.pair_words)
    # pairs of about one cost, few or many: a short caption goes with a long one
    ends = [(some[k % len(some)], some[-1 - k % len(some)]) for k in range(count)]
    texts = [[text(words, name, side) for side, words in enumerate(ends[k])] for k, name in enumerate(names)]
    records = [[name, *texts[k], 1.0, 0.0] for k, name in enumerate(names)]
    captions = {name: text(some[(3 * k + 3) % len(some)], name, "caption") for k, name in enumerate(names)}
    return HomologousPairs(
        pd.DataFrame(records, columns=list(CAPTION_COLUMNS)),
        images=dict(zip(names, np.stack([chosen, rejected], axis=1), strict=True)),
        captions=captions,
        seen=dict(zip(names, real, strict=True)),
        seed=0,
        iteration=1,
        noise=partial(model.noise, settings=TRAINING) if model else partial(masks, tokens=size.shape.num_image_tokens),
    )


def masks(names: Sequence[NoiseName], *, tokens: int) -> Tensor:
    """Masks of pairs by their names, (B, T) bool, as training draws them."""
    return torch.stack([pair_mask(name, num_tokens=tokens, schedule="cosine") for name in names])
