"""The plain path of models that write token by token: keys and values are kept, and nothing is shared.

It is what transformers' `generate` does with a batch of n, and training with separate passes of a second model: every
row has its own image, prompt, keys and values. The decoder is transformers' own, with its kernels and the model's
weights; input states, prompts and heads are the model's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from bench import plain
from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.data.worlds.questions import Question
from hermesflow.models.backbone import Completion
from hermesflow.models.next_token import generation
from hermesflow.models.next_token.base import NextTokenModel
from hermesflow.training.logps import Logps
from hermesflow.training.pairs import PairBatch

BARS = {"captioning": 3.0, "image_decoding": 1.0, "pair_dpo_step": 1.5}
"""Times faster than this that issue 21 asks for."""


class Cached:
    """The plain path of a model.

    Args:
        model: whose weights are used; gradients reach it.
    """

    def __init__(self, model: NextTokenModel) -> None:
        config: Any = copy.deepcopy(model.decoder.config)
        config._attn_implementation = "sdpa"
        self.model, self.decoder = model, type(model.decoder)(config).eval()  # type: ignore[call-arg]
        self.decoder.load_state_dict(model.decoder.state_dict(keep_vars=True), assign=True)

    @torch.inference_mode()
    def write_texts(
        self,
        image: Tensor,
        prompt: str,
        *,
        decodings: Sequence[Decoding],
        max_new_tokens: int,
        generators: Sequence[torch.Generator],
    ) -> list[list[int]]:
        """Texts about one image (*seen,), one for each decoding: their tokens; none ends early."""
        model, uniforms = self.model, [torch.rand(max_new_tokens, generator=generator) for generator in generators]
        before = model.embed(torch.tensor([model.text_start, *model.tokenizer.encode([prompt])[0]]))
        images = model.image_states(image.expand(len(decodings), *image.shape))
        rows = Rows(self.decoder, torch.cat([images, before.expand(len(images), -1, -1)], dim=1))
        written: list[list[int]] = [[] for _ in decodings]
        for place in range(max_new_tokens):
            logits = torch.nn.functional.linear(rows.last, model.lm_head.weight)
            logits[:, list(model.no_text)] = -torch.inf
            for row, decoding in enumerate(decodings):
                written[row].append(plain.drawn_token(logits[row], decoding, uniforms[row][place]))
            if place + 1 < max_new_tokens:
                rows.append(model.embed(torch.tensor([text[-1] for text in written])))
        return written

    def answer(self, image: Tensor, question: str, *, max_answer_tokens: int) -> list[int]:
        """The greedy answer to a question about one image, as tokens."""
        options: dict[str, Any] = {"decodings": [plain.GREEDY], "generators": [torch.Generator()]}
        prompt = self.model.question_template.format(question)
        return self.write_texts(image, prompt, max_new_tokens=max_answer_tokens, **options)[0]

    @torch.inference_mode()
    def likeliest_choice(self, image: Tensor, question: Question) -> str:
        """The choice of the highest log-likelihood, end token included; the first of equals."""
        count = len(question.choices)
        prompts = [self.model.question_template.format(question.question)] * count
        found = self.text_logps(image.expand(count, *image.shape), prompts, question.choices)
        return question.choices[int(found.argmax())]

    def text_logps(self, seen: Tensor, prompts: Sequence[str], completions: Sequence[Completion]) -> Tensor:
        """Log p of each completion and its end token, (B,) nats, of images (B, *seen)."""
        model, images = self.model, self.model.image_states(seen)
        asked, told = model.tokenizer.encode(prompts), model.completion_tokens(completions)
        texts = [torch.tensor([model.text_start, *p, *c]) for p, c in zip(asked, told, strict=True)]
        rows = pad_sequence(texts, batch_first=True)
        hidden = self._states(torch.cat([images, model.embed(rows[:, :-1])], dim=1))[:, images.shape[1] :]
        logps = torch.nn.functional.linear(hidden, model.lm_head.weight).log_softmax(dim=2)
        values = logps.gather(2, rows[:, 1:, None])[..., 0]
        return torch.stack([v[len(p) :][: len(c)].sum() for v, p, c in zip(values, asked, told, strict=True)])

    @torch.inference_mode()
    def draw_images(
        self, captions: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One image for each of equal captions, (B, T) codes; both sides of the guidance in one batch if as long."""
        model, size = self.model, len(captions)
        uniforms = torch.stack([torch.rand(model.num_image_tokens, generator=one) for one in generators], dim=1)
        texts = model.image_texts(captions)
        sides = [model.generation_prompts(texts), model.unconditional_prompts(texts)]
        starts = [model.embed(torch.tensor(side)) for side in sides]
        if starts[0].shape == starts[1].shape:
            starts = [torch.cat(starts)]
        batches, codes = [Rows(self.decoder, start) for start in starts], torch.zeros(size, 0, dtype=torch.int64)

        def append(states: Tensor) -> None:
            for rows in batches:
                rows.append(states.repeat(len(rows.last) // size, 1))

        append(model.embed(torch.tensor([model.image_start] * size)))
        for place in range(model.num_image_tokens):
            states = torch.cat([rows.last for rows in batches])
            conditional, unconditional = model.code_logits(model.code_states(states)).chunk(2)
            logits = (1 + settings.guidance) * conditional - settings.guidance * unconditional
            codes = torch.cat([codes, generation.draw(logits, uniforms[place], settings)[:, None]], dim=1)
            if place + 1 < model.num_image_tokens:
                append(model.embed_codes(codes[:, -1]))
                if place + 1 in model.forced:
                    append(model.embed(torch.tensor([model.forced[place + 1]] * size)))
        return codes

    def image_logps(self, captions: Sequence[str], codes: Tensor) -> Tensor:
        """Log p of the codes (B, T), (B,) nats."""
        model, blocks, places = self.model, self.model._blocks(codes), torch.tensor(self.model._layout[1])
        prompts = model.generation_prompts(model.image_texts(captions))
        rows = [torch.cat([model.embed(torch.tensor(p)), block]) for p, block in zip(prompts, blocks, strict=True)]
        hidden = self._states(pad_sequence(rows, batch_first=True))
        scored = torch.cat([states[len(p) + places] for states, p in zip(hidden, prompts, strict=True)])
        return model.code_logps(scored, codes.flatten()).unflatten(0, codes.shape).sum(dim=1)

    def pair_logps(self, batch: PairBatch) -> Logps:
        """Chosen and rejected of both skills in four passes."""
        prompts, seen = [self.model.caption_prompt] * len(batch.rows), batch.seen
        return Logps(
            self.text_logps(seen, prompts, batch.chosen_captions),
            self.text_logps(seen, prompts, batch.rejected_captions),
            self.image_logps(batch.captions, batch.chosen_images.long()),
            self.image_logps(batch.captions, batch.rejected_images.long()),
        )

    def _states(self, states: Tensor) -> Tensor:
        return self.decoder(inputs_embeds=states, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


class Rows:
    """Rows of one length, and their keys and values."""

    def __init__(self, decoder: torch.nn.Module, states: Tensor) -> None:
        self._decoder, self._cache = decoder, DynamicCache()
        self._run(states)

    def append(self, states: Tensor) -> None:
        """One token to every row, by its input state (B, D)."""
        self._run(states[:, None])

    def _run(self, states: Tensor) -> None:
        output = self._decoder(inputs_embeds=states, past_key_values=self._cache, use_cache=True)
        self.last = output.last_hidden_state[:, -1]
