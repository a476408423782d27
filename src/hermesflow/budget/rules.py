"""What every rule lets the models do, and the memory it takes.

Not counted, for they are small beside the decoder: sentence encoders, the image-text extractor, the judge, and what
other models do for stage `data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hermesflow.budget import graders
from hermesflow.budget.benchmarks import drawings, tasks_of
from hermesflow.budget.disk import split_sizes
from hermesflow.budget.family import costs_of
from hermesflow.config.experiment import Config, has_judge
from hermesflow.config.sections import Training
from hermesflow.config.tree import training_of
from hermesflow.core.images import PIXELS_TOGETHER
from hermesflow.evaluation.registry import image_benchmark
from hermesflow.evaluation.worlds.generation import _ROWS as IMAGES_TOGETHER
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import FLOAT, FLOAT32, Load, Pass
from hermesflow.selfplay.scoring import VQA_METHODS
from hermesflow.selfplay.sharding import pairs_per_batch
from hermesflow.stages.encode import SPLITS
from hermesflow.stages.evaluate import SAMPLES
from hermesflow.training.distributed import micro_batch_size
from hermesflow.training.pretraining import text_steps

JUDGED_TOGETHER = 64  # images, of stage `judge`
QUESTIONS_OF_BENCHMARKS = 20
"""POPE's and MME's different questions about an image, at most."""
OPTIMISER_BYTES = 28  # per parameter: weight, gradient and two moments read, all but the gradient written


@dataclass(frozen=True)
class Rules:
    """The loads of a config on a machine of so many GPUs.

    Training takes one process per GPU, of as many GPUs as can share its batch.
    """

    config: Config
    lengths: Lengths
    gpus: int

    @property
    def costs(self) -> Any:
        """The arithmetic of the backbone."""
        return costs_of(self.config)

    @property
    def decoder(self) -> Any:
        """The language model."""
        return self.costs.Decoder.of(self.config)

    @property
    def batches(self) -> Any:
        """What a batch of each kind costs."""
        return self.costs.Batches(self.config, self.decoder, self.lengths)

    def load(self, rule: str, checkpoint: str | None, benchmark: str | None = None) -> Load | None:
        """The load of a rule; None where it needs no GPU."""
        plain: dict[str, Callable[[], Load]] = {
            "tokenizer": self.tokenizer,
            "encode": self.encode,
            "judge": self.judge,
            "base": self.base,
            "sample": self.sample,
            "score": self.score,
            "agreement": self.agreement,
            "evaluate": self.evaluate,
        }
        if rule in plain:
            return plain[rule]()
        measured: dict[str, Callable[[str], Load]] = {
            "draw": self.draw,
            "grade": self.grade,
            "understand": self.understand,
        }
        if rule in measured:
            assert benchmark is not None
            return measured[rule](benchmark)
        if rule in ("reference", "train"):
            assert checkpoint is not None
            return self.reference(checkpoint) if rule == "reference" else self.train(checkpoint)
        return None

    def tokenizer(self) -> Load:
        """Training of the image tokenizer from scratch; none of it where released weights are taken."""
        settings = self.config.tokenizer_training
        if settings is None:
            return Load([], 0, FLOAT32)
        encoder, decoder = self.batches.pixels()
        flops = 3 * (encoder.flops + decoder.flops) / encoder.tiles * settings.batch_size
        parameters = encoder.parameters + decoder.parameters
        activations = 3 * (sum(encoder.maps) + sum(decoder.maps))
        passes = [Pass(settings.steps, flops, (12 + OPTIMISER_BYTES) * parameters)]
        return Load(passes, FLOAT * (4 * parameters + activations * settings.batch_size), FLOAT32)

    def encode(self) -> Load:
        """Codes of the real images."""
        encoder, _ = self.batches.pixels()
        images = sum(split_sizes(self.config)[split] for split in SPLITS)
        together = max(PIXELS_TOGETHER // self.config.data.image_size**2, 1)
        return Load(encoder.passes(images, together=together), self.batches.pixel_peak(together), FLOAT32)

    def judge(self) -> Load:
        """Reconstructions of the held-out images, where a judge reads them."""
        if not has_judge(self.config):
            return Load([], 0, FLOAT32)
        encoder, decoder = self.batches.pixels()
        count = self.config.data.gap_pairs
        passes = [one for way in (encoder, decoder) for one in way.passes(count, together=JUDGED_TOGETHER)]
        return Load(passes, self.batches.pixel_peak(JUDGED_TOGETHER), FLOAT32)

    def base(self) -> Load:
        """Pre-training from scratch; none of it where released weights are taken."""
        settings, decoder, length = self.config.base_training, self.decoder, self.lengths
        if settings is None:
            return Load([], 0, FLOAT32)
        rows = settings.mmu_batch_size
        texts: dict[str, int] = {
            "images": math.ceil(rows / settings.texts_per_image),
            "prompts": rows,
            "prompt_length": 2,
            "rows": rows,
            "scored": length.text - 2,
        }
        images = {"prompts": settings.t2i_batch_size, "prompt_length": length.drawing, "rows": settings.t2i_batch_size}
        masked = self.costs.expected_masked("cosine", tokens=decoder.image_tokens)
        passes = [
            self.batches.trained(self.costs.text_scoring(decoder, **texts)).repeated(settings.steps),
            self.batches.trained(self.costs.image_scoring(decoder, **images, scored=masked)).repeated(
                settings.steps - text_steps(settings)
            ),
            Pass(settings.steps, 0, OPTIMISER_BYTES * decoder.parameters),
        ]
        calls = [
            *self.costs.text_calls(decoder, **texts),
            *self.costs.image_calls(decoder, **images, scored=decoder.image_tokens),
        ]
        return Load(
            passes, self.batches.training_peak(calls, precision=FLOAT32, processes=1, accumulated=False), FLOAT32
        )

    def sample(self) -> Load:
        """Candidates of all pairs."""
        settings, length = self.config.sampling, self.lengths
        pairs, n = settings.batch_pairs, len(settings.captions.decodings)
        texts, text_peak = self.batches.written(
            pairs, pairs, length.describing, pairs * n, settings.captions.max_new_tokens
        )
        images, peak = self.batches.generated(pairs * settings.images.n, pairs)
        batches = self.config.data.pairs / pairs
        return Load([one.repeated(batches) for one in (*texts, *images)], max(text_peak, peak), self.batches.precision)

    def score(self) -> Load:
        """Self-VQA on all candidate images."""
        pairs = pairs_per_batch(self.config)
        return self.batches.self_vqa(self.config.scoring.vqa_method, pairs, self.config.data.pairs)

    def agreement(self) -> Load:
        """Self-VQA by the other methods, and pixels for the judge."""
        pairs = self.config.scoring.agreement_pairs
        if not pairs:
            return Load([], 0, FLOAT32)
        n, (_, back) = self.config.sampling.images.n, self.batches.pixels()
        others = [method for method in VQA_METHODS if method != self.config.scoring.vqa_method]
        loads = [self.batches.self_vqa(method, min(pairs_per_batch(self.config), pairs), pairs) for method in others]
        passes = [one for load in loads for one in load.passes]
        return Load(
            [*passes, *back.passes(pairs * n, together=n)], max(load.memory for load in loads), self.batches.precision
        )

    def reference(self, checkpoint: str) -> Load:
        """Log-probs of the parent on every row of training."""
        training = training_of(self.config, checkpoint)
        pairs = self.micro_batch(training)
        batches = training.steps * training.batch_size / pairs
        passes = [self.batches.scored(work) for work in self.batches.pair_scoring(training, pairs)]
        precision = self.config.runtime.precision
        peak = self.costs.scoring_peak(self.decoder, self.batches.pair_calls(pairs, "pair"), precision=precision)
        return Load([one.repeated(batches) for one in passes], peak, precision)

    def train(self, checkpoint: str) -> Load:
        """Pair-DPO; a skill that the objective does not train is scored without gradient."""
        training, decoder = training_of(self.config, checkpoint), self.decoder
        pairs, processes = self.micro_batch(training), self.processes(training)
        objective = self.config.checkpoints[checkpoint].objective
        texts, image_work = self.batches.pair_scoring(training, pairs)
        passes = [
            self.batches.scored(work) if objective == idle else self.batches.trained(work, dpo=True)
            for work, idle in ((texts, "generation"), (image_work, "understanding"))
        ]
        batches = training.steps * training.batch_size / pairs
        trained = decoder.adapter_parameters(training.lora) if training.lora else decoder.parameters
        update = Pass(training.steps * processes, 0, OPTIMISER_BYTES * trained)
        if stopping := training.stopping:  # an upper bound: as if none ended early
            images = math.ceil(training.steps / stopping.every) * stopping.prompts
            generation = self.batches.generated(IMAGES_TOGETHER, IMAGES_TOGETHER)[0]
            passes += [one.repeated(images / IMAGES_TOGETHER / batches) for one in generation]
        peak = self.batches.training_peak(
            self.batches.pair_calls(pairs, objective),
            precision=self.config.runtime.precision,
            processes=processes,
            accumulated=training.batch_size > pairs * processes,
            dpo=True,
        )
        return Load([*(one.repeated(batches) for one in passes), update], peak, self.config.runtime.precision)

    def evaluate(self) -> Load:
        """Images of all prompts and of pairs; captions and answers about real images, answers for the gap.

        Where no judge reads the images, those of the gap and a few samples are drawn, and the gap is asked twice.
        """
        settings, sizes, length = self.config.evaluation, split_sizes(self.config), self.lengths
        judged = has_judge(self.config)
        if judged:
            images = sizes["prompts"] * settings.geneval_images
            images += min(max(settings.fid_images, sizes["gap"]), sizes["gap"] + sizes["understanding"])
        else:
            images = sizes["gap"] + min(SAMPLES, sizes["prompts"])
        more = QUESTIONS_OF_BENCHMARKS if judged else 0
        generation, peak = self.batches.generated(IMAGES_TOGETHER, IMAGES_TOGETHER)
        passes = [one.repeated(images / IMAGES_TOGETHER) for one in generation]
        together = max(PIXELS_TOGETHER // self.config.data.image_size**2, 1)
        passes += self.batches.pixels()[1].passes(images if judged else 0, together=together)
        peaks = [peak, self.batches.size * self.decoder.parameters + self.batches.pixel_peak(together)]
        most, longest = self.config.scoring.batch_images, self.config.sampling.captions.max_new_tokens
        for count, questions, prompt, tokens in (
            (sizes["understanding"], 1, length.describing, longest),
            (sizes["understanding"], more + length.questions, length.asking, length.answer - 1),
            (sizes["gap"] * (1 if judged else 2), length.questions, length.asking, length.answer - 1),
        ):
            together = min(most, count)
            texts, peak = self.batches.written(together, together * questions, prompt, together * questions, tokens)
            passes += [one.repeated(count / together) for one in texts]
            peaks.append(peak)
        return Load(passes, max(peaks), self.batches.precision)

    def draw(self, benchmark: str) -> Load:
        """Images of all prompts of a benchmark."""
        one = drawings(self.config)[benchmark]
        generation, peak = self.batches.generated(one.together * one.images, one.together)
        return Load([each.repeated(one.prompts / one.together) for each in generation], peak, self.batches.precision)

    def grade(self, benchmark: str) -> Load:
        """Pixels of these images, what the graders make of them, and answers about real ones if it asks for them."""
        drawing, length = drawings(self.config)[benchmark], self.lengths
        together = max(PIXELS_TOGETHER // self.config.data.image_size**2, 1)
        grading = graders.grading(self.config, benchmark, length)
        passes = [*self.batches.pixels()[1].passes(drawing.total, together=together), *grading.passes]
        peak = self.batches.pixel_peak(together) + grading.weights
        one = image_benchmark(benchmark)
        precision = self.batches.precision if one.half_precision else FLOAT32
        if one.answers:
            together = min(self.config.scoring.batch_images, drawing.prompts)
            texts, answering = self._answered(together, length.questions, length.answer - 1)
            passes += [each.repeated(drawing.prompts / together) for each in texts]
            peak = max(peak, answering)
        return Load(passes, peak, precision)

    def understand(self, column: str) -> Load:
        """Codes of the pictures of a column's tasks, and an answer to every question."""
        assert self.config.benchmarks and self.config.benchmarks.understanding
        settings = self.config.benchmarks.understanding
        together = max(PIXELS_TOGETHER // self.config.data.image_size**2, 1)
        passes: list[Pass] = []
        peaks: list[float] = [self.batches.size * self.decoder.parameters + self.batches.pixel_peak(together)]
        for task in tasks_of(self.config, (column,)):
            passes += self.batches.pixels()[0].passes(task.pictures, together=together)
            size = min(settings.batch_size, task.pictures)
            texts, peak = self._answered(size, task.each, task.tokens)
            passes += [one.repeated(task.questions / (size * task.each)) for one in texts]
            peaks.append(peak)
        return Load(passes, max(peaks), self.batches.precision)

    def _answered(self, images: int, each: int, tokens: int) -> tuple[list[Pass], float]:
        """Passes and peak of answers to so many questions about each of some images."""
        return self.batches.written(images, images * each, self.lengths.asking, images * each, tokens)

    def processes(self, training: Training) -> int:
        """GPUs that can share the batch of a step."""
        fitting = [
            count
            for count in range(1, self.gpus + 1)
            if training.batch_size % (micro_batch_size(training, processes=count) * count) == 0
        ]
        return max(fitting, default=1)

    def micro_batch(self, training: Training) -> int:
        """Pairs of a forward pass."""
        return micro_batch_size(training, processes=self.processes(training))
