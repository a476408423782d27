"""Show-o: one Phi decoder over text tokens and image codes, with the parameter names of the released weights.

The decoder is transformers' own PhiForCausalLM with query/key layer norms; only the vocabulary, the rows and the
attention masks are Show-o's. It takes the released state dict strictly (prefix `showo.`).
Source: Show-o (arXiv 2408.12528).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PhiConfig, PhiForCausalLM

from hermesflow.config.sections import LanguageModel, Precision
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import atomic, read_json, read_weights, write_json, write_weights
from hermesflow.models import capacity
from hermesflow.models.kernels import Layout, linear, quicken
from hermesflow.models.loading import fill, moved, without_weights
from hermesflow.models.logps import row_sums, token_logps
from hermesflow.models.showo import grouping, packing, prompting
from hermesflow.models.showo.prompting import TokenIds, Tokenizer
from hermesflow.models.showo.sessions import ShowOImageSession, ShowOTextSession

DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
        own = {k: getattr(settings, k) for k in Shape.__annotations__ if hasattr(settings, k)}
        return Shape(**own, num_image_tokens=num_image_tokens, codebook_size=codebook_size)


class ShowO(nn.Module):
    """Show-o; implements `unified.UnifiedModel`.

    Args:
        shape: sizes of the decoder and of an image.
        tokenizer: the text tokenizer.
        caption_prompt: what the model is asked for a caption.
        question_template: how a question is put; `{}` stands for it.
    """

    def __init__(self, shape: Shape, tokenizer: Tokenizer, *, caption_prompt: str, question_template: str) -> None:
        super().__init__()
        self.shape, self.tokenizer = shape, tokenizer
        self.caption_prompt, self.question_template = caption_prompt, question_template
        self.num_image_tokens, self.codebook_size = shape.num_image_tokens, shape.codebook_size
        self.ids = TokenIds(tokenizer.size, shape.codebook_size, tokenizer.boundary)
        self.end_token = self.ids.boundary
        self.showo = PhiForCausalLM(_phi_config(shape, self.ids))
        quicken(self.showo)
        self._code_layout = Layout()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.showo.lm_head.weight.device

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

    def image_logps(
        self, captions: Sequence[str], codes: Tensor, masked: Tensor, *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum over the masked places of log p(code | caption, codes that are not masked), (B,) float32 nats.

        The soft-max runs over the WHOLE vocabulary, as in the official code, although sampling draws from the codes
        alone. The two boundary tokens, which the official code scores too, are left out: they are no choice.

        Args:
            captions: U captions; each is run once.
            codes: (B, T) int64.
            masked: (B, T) bool; these places hold the mask token in the input.
            owners: (B,) int64, the caption of each row, as many rows for each; None is one caption per row.
        """
        codes, masked = codes.to(self.device), masked.to(self.device)
        found = []
        for some in self._drawn(captions, codes, masked, owners):
            own = masked[some.rows]
            logps = self._logps(some.blocks[:, 1:-1][own], codes[some.rows][own] + self.ids.first_code)
            found.append((some.rows, row_sums(logps, F.pad(own, (1, 1)))))
        return _in_order(found)

    def text_logps(
        self, codes: Tensor, prompts: Sequence[str], completions: Sequence[str], *, owners: Tensor | None = None
    ) -> Tensor:
        """Sum of log p over the tokens of each completion and its end token, (B,) float32 nats.

        Args:
            codes: (I, T) int64 images; each is run once, and so is each different prompt about it.
            prompts: B prompts, templates applied.
            completions: B completions.
            owners: (B,) int64, the image of each row; None is one image per row.
        """
        owners = torch.arange(len(codes)) if owners is None else owners
        found = []
        for some in self._said(codes, owners, prompts, completions):
            found.append((some.rows, row_sums(self._logps(some.hidden, some.targets), some.scored)))
        return _in_order(found)

    def image_loss(self, captions: Sequence[str], codes: Tensor, masked: Tensor) -> Tensor:
        """Pre-training loss of drawing: mean cross-entropy of masked image tokens, nats per token.

        Args:
            captions: B captions; an empty one trains the unconditional prompt.
            codes: (B, T) int64.
            masked: (B, T) bool.
        """
        codes, masked = codes.to(self.device), masked.to(self.device)
        found = []
        for some in self._drawn(captions, codes, masked, None):
            own = masked[some.rows]
            found.append(self._logps(some.blocks[:, 1:-1][own], codes[some.rows][own] + self.ids.first_code).sum())
        return -torch.stack(found).sum() / masked.sum()

    def text_loss(self, codes: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Pre-training loss of describing: mean over texts of their mean cross-entropy, nats per token.

        Texts count alike, so that a one-word answer is not drowned by a caption.

        Args:
            codes: (I, T) int64, the images that texts are about; each is run once.
            owners: (B,) int64, the image of each text.
            prompts: B prompts, templates applied.
            completions: B completions.
        """
        found = []
        for some in self._said(codes, owners, prompts, completions):
            lengths = some.scored.sum(dim=1, keepdim=True).expand_as(some.scored)[some.scored]
            found.append((self._logps(some.hidden, some.targets) / lengths).sum())
        return -torch.stack(found).sum() / len(prompts)

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

    def text_session(self, codes: Tensor, owners: Tensor, prompts: Sequence[str]) -> ShowOTextSession:
        """Start N texts; row i is about image codes[owners[i]], (I, T) int64, and starts after prompts[i]."""
        return ShowOTextSession(
            self.hidden,
            self.head,
            self.ids,
            codes=codes.to(self.device),
            owners=owners.tolist(),
            prompts=self.tokenizer.encode(prompts),
            max_text_tokens=self.shape.max_text_tokens,
            together=self._together,
        )

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of sampled token ids; ids that are not text are left out."""
        return self.tokenizer.decode([i for i in ids if i < self.ids.text_vocab_size])

    def _drawn(
        self, captions: Sequence[str], codes: Tensor, masked: Tensor, owners: Tensor | None
    ) -> Iterator[grouping.Drawn]:
        return grouping.drawn(
            self.hidden,
            self.ids,
            self.tokenizer.encode(captions),
            codes,
            masked,
            owners,
            max_text_tokens=self.shape.max_text_tokens,
            together=self._together,
        )

    def _said(
        self, codes: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]
    ) -> Iterator[grouping.Said]:
        return grouping.said(
            self.hidden,
            self.ids,
            codes.to(self.device),
            owners,
            self.tokenizer.encode(prompts),
            # the space keeps byte-pair tokens at the seam as they are when prompt and completion are one text
            self.tokenizer.encode([f" {completion}" for completion in completions]),
            max_text_tokens=self.shape.max_text_tokens,
            together=self._together,
        )

    def _logps(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return token_logps(hidden, targets, self.showo.lm_head)


def recompute_activations(model: ShowO) -> None:
    """Let decoder layers keep their inputs alone and compute the rest again for the gradient: less memory, same values.

    Not transformers' own switch: that one is off in eval mode, in which Pair-DPO trains, and drops the shared prefix.
    """
    for layer in model.showo.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def save_model(model: ShowO, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write `model.safetensors`, `tokenizer.json` and, last, `config.json`; everything needed to build it again.

    Args:
        model: what to save.
        folder: made if it is not there.
        weights: of the model; its state dict if None. Of a sharded model they must be gathered first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "model.safetensors", model.state_dict() if weights is None else weights)
    describe_model(model, folder)


def describe_model(model: ShowO, folder: Path) -> None:
    """Write `tokenizer.json` and `config.json` beside the weights."""
    with atomic(folder / "tokenizer.json") as temporary:
        model.tokenizer.save(temporary)
    write_json(
        folder / "config.json",
        {
            "shape": asdict(model.shape),
            "caption_prompt": model.caption_prompt,
            "question_template": model.question_template,
            "boundary_token": model.tokenizer.boundary_token,
        },
    )


def load_model(folder: Path, *, device: torch.device | str, precision: Precision = "no") -> ShowO:
    """Read what `save_model` wrote; weights must fit exactly.

    Args:
        folder: of the model.
        device: where it goes.
        precision: of the weights, and so of all that is computed, where nothing is trained; `no` is float32.

    Raises:
        ArtifactError: a file is missing, truncated or of another model.
    """
    folder = Path(folder)
    weights, config = read_weights(folder / "model.safetensors"), read_json(folder / "config.json")
    try:
        with without_weights():
            model = ShowO(
                Shape(**config["shape"]),
                prompting.load_text_tokenizer(folder / "tokenizer.json", config["boundary_token"]),
                caption_prompt=config["caption_prompt"],
                question_template=config["question_template"],
            )
        fill(model, weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder}: config.json and model.safetensors are not of one Show-o model ({error}). "
            "Take both files from the same checkpoint."
        ) from error
    return moved(model, device, DTYPES[precision])


def _phi_config(shape: Shape, ids: TokenIds) -> PhiConfig:
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
        bos_token_id=ids.boundary,
        eos_token_id=ids.boundary,
        attn_implementation=ATTENTION,  # type: ignore[call-arg]
    )


def _in_order(found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Values by row, of parts (rows, values)."""
    if not found:
        return torch.zeros(0)
    rows, values = (torch.cat(part) for part in zip(*found, strict=True))
    return values[rows.argsort()]
