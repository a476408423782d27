"""A unified model that writes images and texts token by token: all but its parts, its inputs and its prompts.

A family gives the parts of its model, input states of the images that are read and of those that are scored, the
prompts that images are drawn from, and the last products of both skills. The rest is here: what is run once and shared,
what runs together, where keys and values are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from hermesflow.config.sections import ImageSampling, LanguageModel, Training
from hermesflow.models import capacity, grouping, packing
from hermesflow.models.backbone import Completion, NoiseName, UnifiedModel, refuse_masks
from hermesflow.models.logps import row_sums, token_logps
from hermesflow.models.next_token import generation
from hermesflow.models.next_token.sessions import CachedImageSession
from hermesflow.models.text_session import CachedTextSession, unique_rows
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
    negative_prompt: str = ""
    max_text_tokens: int
    """Longest text that is expected: what runs together follows from it, and nothing is cut."""

    @staticmethod
    def of(settings: LanguageModel) -> Wording:
        """That of a config."""
        return Wording(
            caption_prompt=settings.caption_prompt,
            question_template=settings.question_template,
            text_before_image=settings.text_before_image or "",
            image_template=settings.image_template or "{}",
            negative_prompt=settings.negative_prompt or "",
            max_text_tokens=settings.max_text_tokens,
        )


def decoder_sizes(settings: LanguageModel, ids: Any) -> dict[str, Any]:
    """Sizes of a decoder of the Llama kind as transformers names them.

    Args:
        settings: of the config.
        ids: where the family's tokens are.
    """
    return {
        "vocab_size": ids.vocabulary,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "rms_norm_eps": settings.layer_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
    }


class NextTokenModel(UnifiedModel):
    """Implements `backbone.UnifiedModel` but for what a family says of itself.

    Args:
        wording: of prompts.
    """

    config: Any
    """Of transformers; has a `text_config`."""
    ids: Any
    """Where the family's tokens are, a dataclass."""
    lm_head: nn.Linear
    text_start: int
    """Token behind an image, that texts about it begin with."""
    image_start: int
    """Token in front of the first code."""
    num_image_tokens: int

    def __init__(self, wording: Wording) -> None:
        super().__init__()
        self.wording = wording
        self.caption_prompt, self.question_template = wording.caption_prompt, wording.question_template

    @abstractmethod
    def image_states(self, seen: Tensor) -> Tensor:
        """Input states of all that stands in front of texts about images (I, *seen), (I, P, D)."""

    @property
    @abstractmethod
    def image_prefix(self) -> int:
        """P, columns in front of a text."""

    @abstractmethod
    def generation_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of the prompts that images are drawn from, without `image_start`, of texts as token ids."""

    @abstractmethod
    def unconditional_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The same without these texts, for guidance."""

    @abstractmethod
    def empty_prompt(self, noise: Any, row: int) -> list[int]:
        """What stands for an empty caption in a row of pre-training, under the noise of the batch."""

    @abstractmethod
    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input states (..., D) of codes."""

    @abstractmethod
    def code_logps(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of codes (S,) at places with last hidden states (S, D)."""

    @abstractmethod
    def code_states(self, hidden: Tensor) -> Tensor:
        """What logits over the codes are an affine function of, of last hidden states."""

    @abstractmethod
    def code_logits(self, states: Tensor) -> Tensor:
        """That function, to (..., codebook_size)."""

    @property
    def forced(self) -> Mapping[int, int]:
        """Tokens that are no choice, by how many codes they stand behind."""
        return {}

    @property
    def text_rows(self) -> int:
        """Texts that one session has room for."""
        sizes = self.config.text_config
        return capacity.text_rows(
            layers=sizes.num_hidden_layers,
            hidden_size=self._kv_width,
            num_image_tokens=self._block_length,
            max_text_tokens=self.wording.max_text_tokens,
            element_size=self.lm_head.weight.element_size(),
        )

    @property
    def image_rows(self) -> int:
        """Images that one session has room for: keys and values of both sides."""
        place = 2 * self.config.text_config.num_hidden_layers * self._kv_width * self.lm_head.weight.element_size()
        return max(capacity.SESSION_BYTES // (2 * place * self._block_length), 1)

    @property
    def _kv_width(self) -> int:
        sizes = self.config.text_config
        return sizes.hidden_size // sizes.num_attention_heads * sizes.num_key_value_heads

    @property
    def _block_length(self) -> int:
        """Columns of an image that is scored: all tokens but the last code."""
        return self.num_image_tokens + len(self.forced)

    @property
    def _together(self) -> int:
        return capacity.tokens_together(
            intermediate_size=self.config.text_config.intermediate_size,
            element_size=self.lm_head.weight.element_size(),
            on_cpu=self.device.type == "cpu",
        )

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
        output = self.decoder(
            inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False, attend=attend
        )
        return output.last_hidden_state

    def embed(self, tokens: Tensor) -> Tensor:
        """Input states (..., D) of token ids."""
        decoder: Any = self.decoder
        return decoder.embed_tokens(tokens)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """Its layers."""
        decoder: Any = self.decoder
        return list(decoder.layers)

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
        texts = self.generation_prompts(self.image_texts(prompts))
        parts = self._grouped_code_logps(texts, images, owners)
        return grouping.in_order([(rows, values.sum(dim=1)) for rows, values in parts])

    def text_logps(
        self, seen: Tensor, prompts: Sequence[str], completions: Sequence[Completion], *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum of log p over the tokens of each completion and its end token, (B,) float32 nats.

        Args:
            seen: (I, *seen) images; each is run once, and so is each different prompt about it.
            prompts: B prompts, templates applied.
            completions: B completions.
            owners: (B,) int64, the image of each row; None is one image per row.
        """
        owners = torch.arange(len(seen)) if owners is None else owners
        parts = self._scored_texts(seen, owners, prompts, completions)
        return grouping.in_order([(part.rows, row_sums(self._logps(part), part.scored)) for part in parts])

    def image_loss(self, prompts: Sequence[str], images: Tensor, noise: Any) -> Tensor:
        """Pre-training loss of generation: mean cross-entropy of codes, nats per code.

        Args:
            prompts: B captions; an empty one trains the unconditional prompt.
            images: (B, T) codes.
            noise: of `training_noise`.
        """
        texts = self.generation_prompts(self.image_texts(prompts))
        texts = [text if prompts[row] else self.empty_prompt(noise, row) for row, text in enumerate(texts)]
        return -torch.cat([values.flatten() for _, values in self._grouped_code_logps(texts, images, None)]).mean()

    def text_loss(self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Pre-training loss of understanding: mean over texts of their mean cross-entropy, nats per token.

        Args:
            seen: (I, *seen) images that texts are about; each is run once.
            owners: (B,) int64, the image of each text.
            prompts: B prompts, templates applied.
            completions: B completions.
        """
        means = []
        for part in self._scored_texts(seen, owners, prompts, completions):
            means.append(row_sums(self._logps(part), part.scored) / part.scored.sum(dim=1))
        return -torch.cat(means).mean()

    def image_session(self, prompts: Sequence[str], *, guidance: float) -> CachedImageSession:
        """Start B images; guidance w > 0 also runs the unconditional prompts."""
        texts = self.image_texts(prompts)
        sides = [self.generation_prompts(texts)] + ([self.unconditional_prompts(texts)] if guidance else [])
        with torch.inference_mode():
            return CachedImageSession(self, sides, guidance=guidance, length=self._block_length)

    def text_session(self, seen: Tensor, owners: Tensor, prompts: Sequence[str]) -> CachedTextSession:
        """Start N texts; row i is about image seen[owners[i]], (I, *seen), and starts after prompts[i]."""
        named = owners.tolist()
        different, places = unique_rows(named)
        images = seen[torch.tensor([named[i] for i in different], device=seen.device)]

        def prefill(group: list[int], trees: list[TextTree], *, cache: packing.Layers) -> Tensor:
            return self._behind(images[group], trees, cache=cache)

        return CachedTextSession(
            self.hidden,
            self.lm_head,
            prefill,
            prompted(self.tokenizer.encode(prompts), places, images=len(images), start=self.text_start),
            image_length=self.image_prefix,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
            device=self.device,
        )

    def settings(self) -> dict[str, Any]:
        """The config of transformers, and beside it what this package needs."""
        extra = {"ids": asdict(self.ids), "wording": asdict(self.wording)}
        return {**self.config.to_dict(), "hermesflow": extra}

    def image_texts(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of captions in the words that images are asked for with."""
        return self.tokenizer.encode([self.wording.image_template.format(caption) for caption in captions])

    def _grouped_code_logps(
        self, texts: Sequence[list[int]], images: Tensor, owners: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows (R,), and the log-probs of their codes (R, T)."""
        codes = images.to(self.device).long()
        for group, rows_of in grouping.image_groups(
            [len(text) for text in texts],
            owners,
            image_length=self._block_length,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
        ):
            rows = rows_of.to(self.device).flatten()
            hidden = packing.images_behind_prompts(
                self.hidden,
                [texts[i] for i in group],
                self._blocks(codes[rows]).unflatten(0, rows_of.shape),
                embed=self.embed,
                causal=True,
            ).flatten(0, 1)
            scored = hidden.index_select(1, torch.tensor(self._layout[1], device=self.device))
            values = self.code_logps(scored.flatten(0, 1), codes[rows].flatten())
            yield rows, values.unflatten(0, (len(rows), -1))

    @property
    def _layout(self) -> tuple[list[int], list[int]]:
        """Tokens of a block as places among start, forced tokens and codes, and the place in front of each code."""
        order, last, forced = [0], [0], list(self.forced)
        for code in range(1, self.num_image_tokens):
            order.append(len(forced) + code)
            if code in forced:
                order.append(1 + forced.index(code))
            last.append(len(order) - 1)
        return order, last

    def _blocks(self, codes: Tensor) -> Tensor:
        """Input states (R, L, D) of the tokens that codes (R, T) are predicted from."""
        others = self.embed(torch.tensor([self.image_start, *self.forced.values()], device=self.device))
        states = torch.cat([others.expand(len(codes), -1, -1), self.embed_codes(codes[:, :-1])], dim=1)
        return states.index_select(1, torch.tensor(self._layout[0], device=self.device))

    def _scored_texts(
        self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[Completion]
    ) -> Iterator[grouping.ScoredTexts]:
        texts = completed(
            self.tokenizer.encode(prompts),
            self.completion_tokens(completions),
            owners.tolist(),
            images=len(seen),
            start=self.text_start,
        )
        return grouping.scored_texts(
            lambda group, trees: self._behind(seen[group], trees),
            texts,
            owners,
            image_length=self.image_prefix,
            max_text_tokens=self.wording.max_text_tokens,
            together=self._together,
            device=self.device,
        )

    def _behind(self, seen: Tensor, trees: Sequence[TextTree], *, cache: packing.Layers | None = None) -> Tensor:
        """Hidden states of the texts about some images, (N, D)."""
        images = self.image_states(seen)
        return packing.texts_behind_images(self.hidden, images, trees, embed=self.embed, causal=True, cache=cache)

    def _logps(self, part: grouping.ScoredTexts) -> Tensor:
        return token_logps(part.hidden, part.targets, self.lm_head)
