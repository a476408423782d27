"""Janus and Janus-Pro: a Llama decoder that reads images through SigLIP and writes them as codes, one by one.

All parts are those of transformers' JanusForConditionalGeneration under its names, so that `from_pretrained` reads what
is saved; generation, log-probs and caches are this package's. The image tokenizer inside is never used: codes and
pixels are the codec's.
Source: Janus (arXiv 2410.13848), Janus-Pro (arXiv 2501.17811).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, LlamaConfig

from hermesflow.config.experiment import Config
from hermesflow.config.sections import ImageSampling, LanguageModel, Training, VisionTower
from hermesflow.core.images import ImageForm
from hermesflow.models import capacity, grouping, packing
from hermesflow.models.backbone import Completion, NoiseName, UnifiedModel, refuse_masks
from hermesflow.models.janus import FAMILY, generation
from hermesflow.models.janus.prompting import TokenIds
from hermesflow.models.janus.released import model_names
from hermesflow.models.janus.sessions import JanusImageSession
from hermesflow.models.janus.vq import vq_config
from hermesflow.models.kernels import quicken
from hermesflow.models.logps import row_sums, token_logps
from hermesflow.models.text_session import CachedTextSession, unique_rows
from hermesflow.models.text_tokenizers import Tokenizer, text_tokenizer
from hermesflow.models.trees import TextTree, completed, prompted

ATTENTION = "hermesflow"
AttentionInterface.register(ATTENTION, packing.attention)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How images are asked about and asked for; `{}` stands for the question, or the caption."""

    caption_prompt: str
    question_template: str
    text_before_image: str = ""
    image_template: str = "{}"
    max_text_tokens: int
    """Longest text that is expected: what runs together follows from it, and nothing is cut."""


class Janus(UnifiedModel):
    """Janus; implements `backbone.UnifiedModel`. Sees (3, H, W) pixels, generates (T,) codes.

    Args:
        config: sizes, as transformers has them.
        tokenizer: the text tokenizer.
        ids: where Janus' tokens are.
        wording: of prompts.
    """

    family = FAMILY

    def __init__(self, config: JanusConfig, tokenizer: Tokenizer, ids: TokenIds, wording: Wording) -> None:
        super().__init__()
        self.config = cast(Any, config)  # its parts may be dictionaries, as transformers declares them
        self.tokenizer, self.ids, self.wording = tokenizer, ids, wording
        self.caption_prompt, self.question_template = wording.caption_prompt, wording.question_template
        self.end_token = ids.eos
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
    def text_rows(self) -> int:
        """Texts that one session has room for."""
        own = self.config.text_config
        return capacity.text_rows(
            layers=own.num_hidden_layers,
            hidden_size=own.hidden_size,
            num_image_tokens=self.num_image_tokens,
            max_text_tokens=self.wording.max_text_tokens,
            element_size=self.lm_head.weight.element_size(),
        )

    @property
    def image_rows(self) -> int:
        """Images that one session has room for: keys and values of both sides."""
        own = self.config.text_config
        place = 2 * own.num_hidden_layers * own.hidden_size * self.lm_head.weight.element_size()
        return max(capacity.SESSION_BYTES // (2 * place * self.num_image_tokens), 1)

    @property
    def _together(self) -> int:
        return capacity.tokens_together(
            intermediate_size=self.config.text_config.intermediate_size,
            element_size=self.lm_head.weight.element_size(),
            on_cpu=self.device.type == "cpu",
        )

    @property
    def _before_image(self) -> list[int]:
        return [self.ids.bos, *self.tokenizer.encode([self.wording.text_before_image])[0], self.ids.boi]

    @property
    def _image_length(self) -> int:
        """Columns before a text."""
        return len(self._before_image) + self.num_image_tokens

    def hidden(
        self, tokens: Tensor, mask: Tensor | None = None, *, positions: Tensor, attend: packing.Attend | None = None
    ) -> Tensor:
        """Last hidden states, after the final norm, (B, L, D).

        Args:
            tokens: (B, L) int64 token ids, or (B, L, D) input states.
            mask: boolean, broadcastable to (B, 1, L, L), True = may attend.
            positions: (B or 1, L) int64.
            attend: does the attention in the mask's stead.
        """
        states = tokens if tokens.is_floating_point() else self.embed(tokens)
        output = self.model.language_model(
            inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False, attend=attend
        )
        return output.last_hidden_state

    def embed(self, tokens: Tensor) -> Tensor:
        """Input states (..., D) of token ids."""
        return self.model.language_model.embed_tokens(tokens)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input states (..., D) of codes, which have an embedding of their own."""
        return self.model.generation_aligner(self.model.generation_embeddings(codes))

    def look(self, seen: Tensor) -> Tensor:
        """Input states (I, T, D) of images: (I, 3, H, W) uint8, or float in [-1, 1]."""
        pixels = seen.to(self.device)
        if not pixels.is_floating_point():
            pixels = pixels.to(self.lm_head.weight.dtype).div(127.5).sub(1.0)
        return self.model.aligner(self.model.vision_model(pixels).last_hidden_state)

    @property
    def decoder(self) -> nn.Module:
        """The Llama decoder."""
        return self.model.language_model

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """Its layers."""
        return list(self.model.language_model.layers)

    def generate_images(
        self, prompts: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One image per prompt, (B, T) int64 codes on the CPU; see `generation.generate_images`."""
        return generation.generate_images(self, prompts, settings=settings, generators=generators)

    def noise(self, names: Sequence[NoiseName], settings: Training) -> None:
        """None: nothing is hidden, so a pair is scored alike in every pass.

        Raises:
            ConfigError: settings of masks.
        """
        refuse_masks(settings)

    def training_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """How many tokens of padding stand for an empty prompt, (rows,) int64: as many as a text may have."""
        return torch.randint(1, self.wording.max_text_tokens + 1, (rows,), generator=generator)

    def image_logps(
        self, prompts: Sequence[str], images: Tensor, noise: None, *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum of log p(code | prompt, codes before it) over all codes, without guidance, (B,) float32 nats.

        Args:
            prompts: U prompts; each is run once.
            images: (B, T) int64 codes.
            noise: None.
            owners: (B,) int64, the prompt of each row, as many rows for each; None is one row per prompt.
        """
        texts = [self.ids.drawing_prompt(text) for text in self._asked_for(prompts)]
        return grouping.in_order([(rows, values.sum(dim=1)) for rows, values in self._drawn(texts, images, owners)])

    def text_logps(
        self, seen: Tensor, prompts: Sequence[str], completions: Sequence[Completion], *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum of log p over the tokens of each completion and its end token, (B,) float32 nats.

        Args:
            seen: (I, 3, H, W) images; each is run once, and so is each different prompt about it.
            prompts: B prompts, templates applied.
            completions: B completions.
            owners: (B,) int64, the image of each row; None is one image per row.
        """
        owners = torch.arange(len(seen)) if owners is None else owners
        said = self._said(seen, owners, prompts, completions)
        return grouping.in_order([(part.rows, row_sums(self._logps(part), part.scored)) for part in said])

    def image_loss(self, prompts: Sequence[str], images: Tensor, noise: Tensor) -> Tensor:
        """Pre-training loss of generation: mean cross-entropy of codes, nats per code.

        Args:
            prompts: B captions; an empty one trains the unconditional prompt.
            images: (B, T) codes.
            noise: (B,) int64, of `training_noise`.
        """
        texts = [
            self.ids.drawing_prompt(text) if prompt else self.ids.unconditional_prompt(length)
            for prompt, text, length in zip(prompts, self._asked_for(prompts), noise.tolist(), strict=True)
        ]
        return -torch.cat([values.flatten() for _, values in self._drawn(texts, images, None)]).mean()

    def text_loss(self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Pre-training loss of understanding: mean over texts of their mean cross-entropy, nats per token.

        Args:
            seen: (I, 3, H, W) images that texts are about; each is run once.
            owners: (B,) int64, the image of each text.
            prompts: B prompts, templates applied.
            completions: B completions.
        """
        found = []
        for part in self._said(seen, owners, prompts, completions):
            found.append(row_sums(self._logps(part), part.scored) / part.scored.sum(dim=1))
        return -torch.cat(found).mean()

    def image_session(self, prompts: Sequence[str], *, guidance: float) -> JanusImageSession:
        """Start B images; guidance w > 0 also runs the unconditional prompts."""
        return JanusImageSession(
            self.hidden,
            self.embed,
            self.embed_codes,
            self._head,
            self.model.generation_head.vision_head,
            self.ids,
            texts=self._asked_for(prompts),
            guidance=guidance,
            num_image_tokens=self.num_image_tokens,
            device=self.device,
        )

    def text_session(self, seen: Tensor, owners: Tensor, prompts: Sequence[str]) -> CachedTextSession:
        """Start N texts; row i is about image seen[owners[i]], (I, 3, H, W) pixels, and starts after prompts[i]."""
        named = owners.tolist()
        different, places = unique_rows(named)
        images = seen[torch.tensor([named[i] for i in different], device=seen.device)]

        def prefill(group: list[int], trees: list[TextTree], *, kept: packing.Layers) -> Tensor:
            return self._behind(images[group], trees, kept=kept)

        return CachedTextSession(
            self.hidden,
            self.lm_head,
            prefill,
            prompted(self.tokenizer.encode(prompts), places, images=len(images), start=self.ids.eoi),
            image_length=self._image_length,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
            device=self.device,
        )

    def settings(self) -> dict[str, Any]:
        """The config of transformers, and beside it what this package needs."""
        return {**self.config.to_dict(), "hermesflow": {"ids": asdict(self.ids), "wording": asdict(self.wording)}}

    def _asked_for(self, captions: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode([self.wording.image_template.format(caption) for caption in captions])

    def _drawn(
        self, texts: Sequence[list[int]], images: Tensor, owners: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows (R,), and the log-probs of their codes (R, T)."""
        codes = images.to(self.device).long()
        start = self.embed(torch.tensor([self.ids.boi], device=self.device))
        for group, rows_of in grouping.drawn(
            [len(text) for text in texts],
            owners,
            image_length=self.num_image_tokens,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
        ):
            rows = rows_of.to(self.device).flatten()
            states = torch.cat([start.expand(len(rows), 1, -1), self.embed_codes(codes[rows, :-1])], dim=1)
            hidden = packing.images_behind_prompts(
                self.hidden,
                [texts[i] for i in group],
                states.unflatten(0, rows_of.shape),
                embed=self.embed,
                causal=True,
            )
            logits = self.model.generation_head.vision_head
            values = token_logps(self._head(hidden.flatten(0, 2)), codes[rows].flatten(), logits)
            yield rows, values.unflatten(0, (len(rows), -1))

    def _said(
        self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[Completion]
    ) -> Iterator[grouping.Said]:
        texts = completed(
            self.tokenizer.encode(prompts),
            self.completion_tokens(completions),
            owners.tolist(),
            images=len(seen),
            start=self.ids.eoi,
        )
        return grouping.said(
            lambda some, trees: self._behind(seen[some], trees),
            texts,
            owners,
            image_length=self._image_length,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
            device=self.device,
        )

    def _behind(self, seen: Tensor, trees: Sequence[TextTree], *, kept: packing.Layers | None = None) -> Tensor:
        """Hidden states of the texts about some images, (N, D)."""
        before = self.embed(torch.tensor(self._before_image, device=self.device))
        images = torch.cat([before.expand(len(seen), -1, -1), self.look(seen)], dim=1)
        return packing.texts_behind_images(self.hidden, images, trees, embed=self.embed, causal=True, kept=kept)

    def _head(self, hidden: Tensor) -> Tensor:
        """What logits over the codes are an affine function of."""
        head = self.model.generation_head
        return head.activation_fn(head.proj_out(hidden))

    def _logps(self, part: grouping.Said) -> Tensor:
        return token_logps(part.hidden, part.targets, self.lm_head)


def build(config: Config) -> Janus:
    """The model that a config asks for; its tower is trained with it."""
    settings = config.language_model
    wording = Wording(
        caption_prompt=settings.caption_prompt,
        question_template=settings.question_template,
        text_before_image=settings.text_before_image or "",
        image_template=settings.image_template or "{}",
        max_text_tokens=settings.max_text_tokens,
    )
    templates = (wording.caption_prompt, wording.question_template, wording.text_before_image, wording.image_template)
    tokenizer = text_tokenizer(settings.text_tokenizer, templates)
    ids = TokenIds.of(tokenizer, vocabulary=settings.vocabulary)
    return Janus(janus_config(config, ids), tokenizer, ids, wording)


def rebuild(settings: Mapping[str, Any], tokenizer: Tokenizer) -> Janus:
    """The model that `Janus.settings` describes; its tower is frozen from here on."""
    own, sizes = settings["hermesflow"], {key: value for key, value in settings.items() if key != "hermesflow"}
    model = Janus(JanusConfig.from_dict(sizes), tokenizer, TokenIds(**own["ids"]), Wording(**own["wording"]))
    model.model.vision_model.requires_grad_(False)
    return model


def tower_of(own: LanguageModel) -> VisionTower:
    """Sizes of the tower: its own, or those of the decoder."""
    return own.vision or VisionTower(
        hidden_size=own.hidden_size, layers=own.layers, heads=own.heads, intermediate_size=own.intermediate_size
    )


def janus_config(config: Config, ids: TokenIds) -> JanusConfig:
    """Sizes as transformers has them. An image has as many patches as codes."""
    own, tokenizer, tower = config.language_model, config.image_tokenizer, tower_of(config.language_model)
    text = LlamaConfig(
        vocab_size=ids.vocabulary,
        hidden_size=own.hidden_size,
        intermediate_size=own.intermediate_size,
        num_hidden_layers=own.layers,
        num_attention_heads=own.heads,
        num_key_value_heads=own.heads,
        rms_norm_eps=own.layer_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": own.rope_theta},
        max_position_embeddings=16384,
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
        tie_word_embeddings=False,
        initializer_range=own.hidden_size**-0.5,  # .02 at the released width, and as much as a small model needs
    )
    vision = JanusVisionConfig(
        hidden_size=tower.hidden_size,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        mlp_ratio=tower.intermediate_size / tower.hidden_size,
        image_size=config.data.image_size,
        patch_size=tokenizer.patch_size * 2 ** (len(tokenizer.encoder_multipliers) - 1),
        num_image_tokens=config.num_image_tokens,
        projection_dim=own.hidden_size,
        initializer_range=tower.hidden_size**-0.5,
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq_config(tokenizer, projection_dim=own.hidden_size, image_token_embed_dim=own.hidden_size),
        image_token_id=ids.image,
        tie_word_embeddings=False,
    )
