"""Janus and Janus-Pro: a Llama decoder that reads images through SigLIP and writes them as codes, one by one.

All parts are those of transformers' JanusForConditionalGeneration under its names, so that `from_pretrained` reads what
is saved; generation, log-probs and caches are this package's. The image tokenizer inside is never used: codes and
pixels are the codec's.
Source: Janus (arXiv 2410.13848), Janus-Pro (arXiv 2501.17811).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, LlamaConfig

from hermesflow.config.experiment import Config
from hermesflow.config.sections import LanguageModel, VisionTower
from hermesflow.core.images import ImageForm
from hermesflow.models.janus import FAMILY
from hermesflow.models.janus.prompting import TokenIds
from hermesflow.models.janus.released import model_names
from hermesflow.models.janus.vq import vq_config
from hermesflow.models.kernels import quicken
from hermesflow.models.logps import token_logps
from hermesflow.models.next_token.base import ATTENTION, NextTokenModel, Wording, decoder_sizes
from hermesflow.models.text_tokenizers import Tokenizer, text_tokenizer


class Janus(NextTokenModel):
    """Janus; implements `backbone.UnifiedModel`. Sees (3, H, W) pixels, generates (T,) codes.

    Args:
        config: sizes, as transformers has them.
        tokenizer: the text tokenizer.
        ids: where Janus' tokens are.
        wording: of prompts.
    """

    family = FAMILY

    def __init__(self, config: JanusConfig, tokenizer: Tokenizer, ids: TokenIds, wording: Wording) -> None:
        super().__init__(wording)
        self.config = cast(Any, config)  # its parts may be dictionaries, as transformers declares them
        self.tokenizer, self.ids = tokenizer, ids
        self.end_token, self.text_start, self.image_start = ids.eos, ids.eoi, ids.boi
        side = self.config.vision_config.image_size
        self.num_image_tokens = (side // self.config.vision_config.patch_size) ** 2
        self.seen = ImageForm("pixels", (3, side, side), "uint8")
        self.generated = ImageForm("codes", (self.num_image_tokens,), "uint16")
        self.config.text_config._attn_implementation = ATTENTION
        whole = JanusForConditionalGeneration(config)
        self.model, self.lm_head = whole.model, whole.lm_head
        self.model.vqmodel.requires_grad_(False)
        quicken(self)

    @staticmethod
    def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released tensors under the names of this model."""
        return model_names(tensors)

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The image tokenizer, and the tower once it has been trained: see `rebuild`."""
        parts = (self.model.vqmodel, self.model.vision_model)
        return [part for part in parts if not any(p.requires_grad for p in part.parameters())]

    @property
    def decoder(self) -> nn.Module:
        """The Llama decoder."""
        return self.model.language_model

    @property
    def _before_image(self) -> list[int]:
        return [self.ids.bos, *self.tokenizer.encode([self.wording.text_before_image])[0], self.ids.boi]

    @property
    def image_prefix(self) -> int:
        """Columns in front of a text."""
        return len(self._before_image) + self.num_image_tokens

    def image_states(self, seen: Tensor) -> Tensor:
        """Input states of all that stands in front of texts about images (I, 3, H, W), (I, P, D)."""
        before = self.embed(torch.tensor(self._before_image, device=self.device))
        return torch.cat([before.expand(len(seen), -1, -1), self.look(seen)], dim=1)

    def look(self, seen: Tensor) -> Tensor:
        """Input states (I, T, D) of images: (I, 3, H, W) uint8, or float in [-1, 1]."""
        pixels = seen.to(self.device)
        if not pixels.is_floating_point():
            pixels = pixels.to(self.lm_head.weight.dtype).div(127.5).sub(1.0)
        return self.model.aligner(self.model.vision_model(pixels).last_hidden_state)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input states (..., D) of codes, which have an embedding of their own."""
        return self.model.generation_aligner(self.model.generation_embeddings(codes))

    def code_states(self, hidden: Tensor) -> Tensor:
        """What logits over the codes are an affine function of, of last hidden states."""
        head = self.model.generation_head
        return head.activation_fn(head.proj_out(hidden))

    def code_logits(self, states: Tensor) -> Tensor:
        """That function, to (..., codebook_size)."""
        return self.model.generation_head.vision_head(states)

    def code_logps(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of codes (S,) at places with last hidden states (S, D)."""
        return token_logps(self.code_states(hidden), codes, self.model.generation_head.vision_head)

    def generation_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Prompts that images are drawn from."""
        return [self.ids.drawing_prompt(text) for text in texts]

    def unconditional_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The same without the texts, each as long."""
        return [self.ids.unconditional_prompt(len(text)) for text in texts]

    def empty_prompt(self, noise: Tensor, row: int) -> list[int]:
        """As much padding as the noise says."""
        return self.ids.unconditional_prompt(int(noise[row]))

    def training_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """How many tokens of padding stand for an empty prompt, (rows,) int64: as many as a text may have."""
        return torch.randint(1, self.wording.max_text_tokens + 1, (rows,), generator=generator)


def build(config: Config) -> Janus:
    """The model that a config asks for; its tower is trained with it."""
    settings = config.language_model
    wording = Wording.of(settings)
    templates = (wording.caption_prompt, wording.question_template, wording.text_before_image, wording.image_template)
    tokenizer = text_tokenizer(settings.text_tokenizer, templates)
    ids = TokenIds.of(tokenizer, vocabulary=settings.vocabulary)
    return Janus(janus_config(config, ids), tokenizer, ids, wording)


def rebuild(settings: Mapping[str, Any], tokenizer: Tokenizer) -> Janus:
    """The model that `Janus.settings` describes; its tower is frozen from here on."""
    extra, sizes = settings["hermesflow"], {key: value for key, value in settings.items() if key != "hermesflow"}
    model = Janus(JanusConfig.from_dict(sizes), tokenizer, TokenIds(**extra["ids"]), Wording(**extra["wording"]))
    model.model.vision_model.requires_grad_(False)
    return model


def tower_of(settings: LanguageModel) -> VisionTower:
    """Sizes of the tower: its own, or those of the decoder."""
    return settings.vision or VisionTower(
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        heads=settings.heads,
        intermediate_size=settings.intermediate_size,
    )


def janus_config(config: Config, ids: TokenIds) -> JanusConfig:
    """Sizes as transformers has them. An image has as many patches as codes."""
    settings, tokenizer, tower = config.language_model, config.image_tokenizer, tower_of(config.language_model)
    text = LlamaConfig(
        **decoder_sizes(settings, ids),
        num_key_value_heads=settings.heads,
        max_position_embeddings=16384,
        tie_word_embeddings=False,
        initializer_range=settings.initializer_range or settings.hidden_size**-0.5,  # .02 as released
    )
    vision = JanusVisionConfig(
        hidden_size=tower.hidden_size,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        mlp_ratio=tower.intermediate_size / tower.hidden_size,
        image_size=config.data.image_size,
        patch_size=tokenizer.patch_size * 2 ** (len(tokenizer.encoder_multipliers) - 1),
        num_image_tokens=config.num_image_tokens,
        projection_dim=settings.hidden_size,
        initializer_range=tower.hidden_size**-0.5,
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq_config(tokenizer, projection_dim=settings.hidden_size, image_token_embed_dim=settings.hidden_size),
        image_token_id=ids.image,
        tie_word_embeddings=False,
    )
