"""Show-o: one Phi decoder over text tokens and image codes, with the parameter names of the released weights.

The decoder is transformers' own PhiForCausalLM with query/key layer norms; only the vocabulary, the rows and the
attention masks are Show-o's. It takes the released state dict strictly (prefix `showo.`).
Source: Show-o (arXiv 2408.12528).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PhiConfig, PhiForCausalLM

from hermesflow.config.experiment import Config
from hermesflow.config.sections import ImageSampling, LanguageModel, Training
from hermesflow.core.images import ImageForm
from hermesflow.models import capacity, grouping, packing
from hermesflow.models.backbone import Completion, NoiseName, UnifiedModel
from hermesflow.models.kernels import Layout, linear, quicken
from hermesflow.models.logps import row_sums, token_logps
from hermesflow.models.showo import FAMILY, generation, prompting
from hermesflow.models.showo.masking import draw_mask, pair_mask
from hermesflow.models.showo.prompting import TokenIds
from hermesflow.models.showo.sessions import ShowOImageSession, ShowOTextSession
from hermesflow.models.text_tokenizers import Tokenizer, text_tokenizer

ATTENTION = "hermesflow"
AttentionInterface.register(ATTENTION, packing.attention)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes that a Show-o model is built from, apart from its text tokenizer."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    partial_rotary_factor: float
    rope_theta: float
    layer_norm_eps: float
    max_text_tokens: int
    num_image_tokens: int
    codebook_size: int

    @staticmethod
    def of(settings: LanguageModel, *, num_image_tokens: int, codebook_size: int) -> Shape:
        """The shape a config asks for."""
        sizes = {k: getattr(settings, k) for k in Shape.__annotations__ if hasattr(settings, k)}
        return Shape(**sizes, num_image_tokens=num_image_tokens, codebook_size=codebook_size)


class ShowO(UnifiedModel):
    """Show-o; implements `backbone.UnifiedModel`. An image is (T,) codes, read and generated alike.

    Args:
        shape: sizes of the decoder and of an image.
        tokenizer: the text tokenizer.
        caption_prompt: what the model is asked for a caption.
        question_template: how a question is put; `{}` stands for it.
        initializer_range: standard deviation of random weights; None is .02.
    """

    family = FAMILY

    def __init__(
        self,
        shape: Shape,
        tokenizer: Tokenizer,
        *,
        caption_prompt: str,
        question_template: str,
        initializer_range: float | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.tokenizer = shape, tokenizer
        self.caption_prompt, self.question_template = caption_prompt, question_template
        self.num_image_tokens, self.codebook_size = shape.num_image_tokens, shape.codebook_size
        self.seen = self.generated = ImageForm("codes", (shape.num_image_tokens,), "uint16")
        self.ids = TokenIds(tokenizer.size, shape.codebook_size, tokenizer.boundary)
        self.end_token = self.ids.boundary
        self.showo = PhiForCausalLM(_phi_config(shape, self.ids, initializer_range or 0.02))
        quicken(self.showo)
        self._code_layout = Layout()

    @property
    def text_rows(self) -> int:
        """Texts that one session has room for."""
        names = ("layers", "hidden_size", "num_image_tokens", "max_text_tokens")
        sizes = {name: getattr(self.shape, name) for name in names}
        return capacity.text_rows(**sizes, element_size=self.showo.lm_head.weight.element_size())

    @property
    def image_rows(self) -> int:
        """Images that one session has room for."""
        return capacity.image_rows(num_image_tokens=self.num_image_tokens, codebook_size=self.codebook_size)

    @property
    def _together(self) -> int:
        return capacity.tokens_together(
            intermediate_size=self.shape.intermediate_size,
            element_size=self.showo.lm_head.weight.element_size(),
            on_cpu=self.device.type == "cpu",
        )

    def hidden(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        attend: packing.Attend | None = None,
    ) -> Tensor:
        """Last hidden states, after the final norm.

        Args:
            tokens: (B, L) int64 token ids.
            mask: boolean, broadcastable to (B, 1, L, L), True = may attend.
            positions: (B or 1, L) int64 rotary positions; counted from 0 if None.
            attend: does the attention in the mask's stead.

        Returns:
            (B, L, D).
        """
        output = self.showo.model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False, attend=attend
        )
        return output.last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the whole vocabulary, (..., V)."""
        return self.showo.lm_head(hidden)

    def code_head(self, hidden: Tensor) -> Tensor:
        """Logits over the image codes alone, (..., codebook_size)."""
        head, codes = self.showo.lm_head, slice(self.ids.first_code, self.ids.mask)
        return linear(hidden, head.weight[codes], head.bias[codes], self._code_layout)

    @property
    def decoder(self) -> nn.Module:
        """The Phi decoder."""
        return self.showo

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """Its layers."""
        return list(self.showo.model.layers)

    def generate_images(
        self, prompts: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One image per prompt by MaskGIT, (B, T) int64 codes on the CPU; see `generation.generate_images`."""
        return generation.generate_images(self, prompts, settings=settings, generators=generators)

    def is_cut(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than `max_text_tokens`, both boundary tokens counted (`generation_prompts`)."""
        return [len(ids) + 2 > self.shape.max_text_tokens for ids in self.tokenizer.encode(prompts)]

    def noise(self, names: Sequence[NoiseName], settings: Training) -> Tensor:
        """The masks of B pairs, (B, T) bool; see `masking.pair_mask`."""
        tokens, schedule, ratios = self.num_image_tokens, settings.mask_schedule, settings.mask_ratios
        masks = [pair_mask(name, num_tokens=tokens, schedule=schedule, mask_ratios=ratios) for name in names]
        return torch.stack(masks)

    def scored_tokens(self, noise: Tensor, rows: int) -> Tensor:
        """Masked tokens of each pair, (B,)."""
        return noise.sum(dim=1)

    def training_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Masks of a pre-training batch, (rows, T) bool, by the cosine schedule."""
        masks = [draw_mask(self.num_image_tokens, generator, schedule="cosine") for _ in range(rows)]
        return torch.stack(masks) if masks else torch.zeros(0, self.num_image_tokens, dtype=torch.bool)

    def image_logps(
        self, prompts: Sequence[str], images: Tensor, noise: Tensor, *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum over the masked places of log p(code | prompt, codes that are not masked), (B,) float32 nats.

        The soft-max runs over the WHOLE vocabulary, as in the official code, although sampling draws from the codes
        alone. The two boundary tokens, which the official code scores too, are left out: they are no choice.

        Args:
            prompts: U prompts; each is run once.
            images: (B, T) int64 codes.
            noise: (U, T) bool; these places hold the mask token in the input.
            owners: (B,) int64, the prompt and mask of each row, as many rows for each; None is one row per prompt.
        """
        codes = images.to(self.device).long()
        masked = (noise if owners is None else noise[owners]).to(self.device)
        targets = codes + self.ids.first_code
        parts = []
        for rows, blocks in self._image_states(prompts, codes, masked, owners):
            scored = masked[rows]
            values = self._logps(blocks[:, 1:-1][scored], targets[rows][scored])
            # columns of the boundaries, where nothing is scored, decide the order of the sum and so its rounding
            parts.append((rows, row_sums(values, F.pad(scored, (1, 1)))))
        return grouping.in_order(parts)

    def text_logps(
        self, seen: Tensor, prompts: Sequence[str], completions: Sequence[Completion], *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum of log p over the tokens of each completion and its end token, (B,) float32 nats; none after a cut.

        Args:
            seen: (I, T) codes of images; each is run once, and so is each different prompt about it.
            prompts: B prompts, templates applied.
            completions: B texts, or token ids as they were sampled.
            owners: (B,) int64, the image of each row; None is one image per row.
        """
        owners = torch.arange(len(seen)) if owners is None else owners
        parts = []
        for part in self._scored_texts(seen, owners, prompts, completions):
            parts.append((part.rows, row_sums(self._logps(part.hidden, part.targets), part.scored)))
        return grouping.in_order(parts)

    def image_loss(self, prompts: Sequence[str], images: Tensor, noise: Tensor) -> Tensor:
        """Pre-training loss of generation: mean cross-entropy of masked image tokens, nats per token.

        Args:
            prompts: B captions; an empty one trains the unconditional prompt.
            images: (B, T) codes.
            noise: (B, T) bool, of `training_noise`.
        """
        codes, masked = images.to(self.device).long(), noise.to(self.device)
        sums = []
        for rows, blocks in self._image_states(prompts, codes, masked, None):
            scored = masked[rows]
            targets = codes[rows][scored] + self.ids.first_code
            sums.append(self._logps(blocks[:, 1:-1][scored], targets).sum())
        return -torch.stack(sums).sum() / masked.sum()

    def text_loss(self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Pre-training loss of understanding: mean over texts of their mean cross-entropy, nats per token.

        Texts count alike, so that a one-word answer is not drowned by a caption.

        Args:
            seen: (I, T) codes of the images that texts are about; each is run once.
            owners: (B,) int64, the image of each text.
            prompts: B prompts, templates applied.
            completions: B completions.
        """
        sums = []
        for part in self._scored_texts(seen, owners, prompts, completions):
            lengths = part.scored.sum(dim=1, keepdim=True).expand_as(part.scored)[part.scored]
            sums.append((self._logps(part.hidden, part.targets) / lengths).sum())
        return -torch.stack(sums).sum() / len(prompts)

    def image_session(self, captions: Sequence[str], *, guidance: float) -> ShowOImageSession:
        """Start B images; guidance w > 0 also runs the empty prompt."""
        return ShowOImageSession(
            self.hidden,
            self.code_head,
            self.ids,
            texts=self.tokenizer.encode(captions),
            guidance=guidance,
            num_image_tokens=self.num_image_tokens,
            max_text_tokens=self.shape.max_text_tokens,
            together=max(self._together // (self.num_image_tokens + 2), 1),
            device=self.device,
        )

    def text_session(self, seen: Tensor, owners: Tensor, prompts: Sequence[str]) -> ShowOTextSession:
        """Start N texts; row i is about image seen[owners[i]], (I, T) codes, and starts after prompts[i]."""
        return ShowOTextSession(
            self.hidden,
            self.head,
            self.ids,
            codes=seen.to(self.device).long(),
            owners=owners.tolist(),
            prompts=self.tokenizer.encode(prompts),
            max_text_tokens=self.shape.max_text_tokens,
            together=self._together,
        )

    def room(self, prompt: str) -> int:
        """Tokens that are left of `max_text_tokens` behind the start token and a prompt."""
        return max(self.shape.max_text_tokens - 1 - len(self.tokenizer.encode([prompt])[0]), 0)

    def settings(self) -> dict[str, Any]:
        """Sizes and prompts."""
        return {
            "shape": asdict(self.shape),
            "caption_prompt": self.caption_prompt,
            "question_template": self.question_template,
        }

    def _image_states(
        self, captions: Sequence[str], codes: Tensor, masked: Tensor, owners: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows (R,), and last hidden states of their image blocks, boundaries included, (R, T + 2, D)."""
        texts, longest, length = self.tokenizer.encode(captions), self.shape.max_text_tokens, codes.shape[1] + 2
        for group, rows_of in grouping.image_groups(
            [len(text) for text in texts],
            owners,
            image_length=length,
            max_text_tokens=longest,
            together=self._together,
        ):
            prompts = prompting.generation_prompts(self.ids, [texts[i] for i in group], max_text_tokens=longest)
            rows = rows_of.to(codes.device).flatten()
            blocks = prompting.image_block(self.ids, codes[rows], masked[rows]).unflatten(0, rows_of.shape)
            yield rows, packing.images_behind_prompts(self.hidden, prompts, blocks).flatten(0, 1)

    def _scored_texts(
        self, codes: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[Completion]
    ) -> Iterator[grouping.ScoredTexts]:
        images = codes.to(self.device).long()
        texts = prompting.understanding_texts(
            self.ids,
            self.tokenizer.encode(prompts),
            self.completion_tokens(completions),
            owners.tolist(),
            images=len(images),
            max_text_tokens=self.shape.max_text_tokens,
        )
        return grouping.scored_texts(
            lambda group, trees: packing.texts_behind_images(
                self.hidden, prompting.understanding_images(self.ids, images[group]), trees
            ),
            texts,
            owners,
            image_length=codes.shape[1] + 3,
            max_text_tokens=self.shape.max_text_tokens,
            together=self._together,
            device=images.device,
        )

    def _logps(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return token_logps(hidden, targets, self.showo.lm_head)


def build(config: Config) -> ShowO:
    """The model that a config asks for."""
    settings = config.language_model
    return ShowO(
        Shape.of(settings, num_image_tokens=config.num_image_tokens, codebook_size=config.codebook_size),
        text_tokenizer(settings.text_tokenizer),
        caption_prompt=settings.caption_prompt,
        question_template=settings.question_template,
        initializer_range=settings.initializer_range,
    )


def rebuild(settings: Mapping[str, Any], tokenizer: Tokenizer) -> ShowO:
    """The model that `ShowO.settings` describes."""
    prompts = {key: settings[key] for key in ("caption_prompt", "question_template")}
    return ShowO(Shape(**settings["shape"]), tokenizer, **prompts)


def _phi_config(shape: Shape, ids: TokenIds, initializer_range: float) -> PhiConfig:
    return PhiConfig(
        vocab_size=ids.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        layer_norm_eps=shape.layer_norm_eps,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": shape.rope_theta,
            "partial_rotary_factor": shape.partial_rotary_factor,
        },
        hidden_act="gelu_pytorch_tanh",  # gelu_new in one kernel
        qk_layernorm=True,
        initializer_range=initializer_range,
        bos_token_id=ids.boundary,
        eos_token_id=ids.boundary,
        attn_implementation=ATTENTION,  # type: ignore[call-arg]
    )
