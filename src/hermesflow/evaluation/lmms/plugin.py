"""The model of lmms-eval's registry: a checkpoint of this package. Imported where lmms-eval is installed."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image, ImageFile

from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import write_json, write_table
from hermesflow.core.progress import Progress
from hermesflow.evaluation.lmms import COUNTS, PROGRESS
from hermesflow.evaluation.lmms.answering import Pictures, Stopping, answers, by_picture
from hermesflow.evaluation.lmms.run import shipped
from hermesflow.evaluation.registry import benchmark_of
from hermesflow.models.backbone import load_codec, load_model
from hermesflow.models.loading import DTYPES

IMAGE_COLUMNS = ("task", "doc_id", "image")
OTHERWISE = 128  # new tokens where a task names no number


class HermesFlow(lmms):
    """A checkpoint of any backbone with its image tokenizer.

    Args:
        pretrained: folder of the checkpoint, as `UnifiedModel.save` writes it.
        tokenizer: folder of the image tokenizer, as `ImageCodec.save` writes it.
        images: parquet file that says which picture each record shows (IMAGE_COLUMNS, a digest of the pixels);
            lmms-eval's own files do not, and intervals resample pictures. None writes no file.
        precision: `no` (float32), `bf16` or `fp16`.
        device: torch device, of lmms-eval's `--device`.
        batch_size: pictures answered about together, of lmms-eval's `--batch_size`.

    Raises:
        ConfigError: an argument is not one of these, or has a wrong value.
        ArtifactError: a folder does not hold what it should.
    """

    def __init__(
        self,
        pretrained: str,
        tokenizer: str,
        images: str | None = None,
        precision: str = "no",
        device: str | None = None,
        batch_size: int | str = 1,
        **extra: object,
    ) -> None:
        super().__init__()
        extra.pop("max_batch_size", None)
        if extra or precision not in DTYPES or not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(
                f"--model_args: {extra or ''} precision={precision}, --batch_size {batch_size}: give pretrained, "
                f"tokenizer, images, precision (one of {list(DTYPES)}) and a batch size of at least 1."
            )
        place = torch.device(device or "cpu")
        self._model = load_model(Path(pretrained), device=place, precision=precision)
        self._pictures = Pictures(load_codec(Path(tokenizer), device=place))
        self._batch_size, self._images = int(batch_size), None if images is None else Path(images)
        self._digests: dict[tuple[str, int], str] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._several: set[tuple[str, int]] = set()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A greedy answer per request; as its benchmark has it read."""
        digests = self._look(requests)
        texts = [""] * len(requests)
        progress = Progress(len(requests), f"{PROGRESS}answer", "question")
        for stop, places in self._by_settings(requests).items():
            for batch in by_picture([digests[i] for i in places], together=self._batch_size):
                rows = [places[i] for i in batch]
                questions = [requests[i].args[0] for i in rows]
                replies = answers(self._model, self._pictures.seen, [digests[i] for i in rows], questions, stop)
                for i, text in zip(rows, replies, strict=True):
                    texts[i] = self._as_read(requests[i], text)
                progress.advance(len(rows))
        several = Counter(shipped(task) for task, _ in self._several)
        counts = {**self._counts, **({"questions of whose pictures the first is seen": several} if several else {})}
        if self._images is not None:
            write_json(self._images.with_name(COUNTS), counts)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Not needed by the benchmarks here, which all ask for generated answers."""
        raise NotImplementedError("likelihoods are not computed: choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not for these models, which see one picture and answer once."""
        raise NotImplementedError("the model answers once: choose a task of output_type generate_until")

    def _look(self, requests: Sequence[Instance]) -> list[str]:
        """The picture of each request, coded; `images` is written anew with them.

        Raises:
            DataError: a record shows no picture, or one that cannot be decoded.
        """
        digests = self._pictures.add(self._visuals(requests))
        for request, digest in zip(requests, digests, strict=True):
            _, _, _, doc_id, task, _ = request.args
            self._digests[task, doc_id] = digest
        if self._images is not None:
            rows = [(task, doc_id, digest) for (task, doc_id), digest in self._digests.items()]
            write_table(self._images, pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)))
        return digests

    def _visuals(self, requests: Sequence[Instance]) -> Iterator[Image.Image]:
        """One picture per request, read when its turn comes."""
        progress = Progress(len(requests), f"{PROGRESS}see the pictures of", "question")
        for request in requests:
            yield self._visual(request)
            progress.advance()

    def _visual(self, request: Instance) -> Image.Image:
        """The one picture that the model can look at, as RGB: the first, where MMMU has more.

        lmms-eval lets Pillow fill the rest of a truncated picture with grey; here that is told.
        """
        _, _, _, doc_id, task, split = request.args
        record = f"task {task}, split {split}, record {doc_id}"
        try:
            try:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                picture = self._first(request)
            except OSError as error:
                ImageFile.LOAD_TRUNCATED_IMAGES = True
                picture = self._first(request)
                print(f"{PROGRESS}{record}: {error}; what is missing is grey.", file=sys.stderr, flush=True)
                self._counts["truncated pictures, grey where they end"][shipped(task)] += 1
        except (OSError, SyntaxError, ValueError, AttributeError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{record}: its picture is missing or broken ({error}). Delete the data set from the cache (HF_HOME) "
                "and fetch it again, or mend the record of a local task."
            ) from error
        if picture is None:
            raise DataError(f"{record}: shows no image. Leave the task out: the model needs one.")
        return picture

    def _first(self, request: Instance) -> Image.Image | None:
        _, _, visuals_of, doc_id, task, split = request.args
        visuals = visuals_of(self.task_dict[task][split][doc_id])
        if visuals and len(visuals) > 1:
            self._several.add((task, doc_id))
        return visuals[0].convert("RGB") if visuals and isinstance(visuals[0], Image.Image) else None

    def _by_settings(self, requests: Sequence[Instance]) -> dict[Stopping, list[int]]:
        """Places of requests by when their answers end."""
        places: dict[Stopping, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            settings: dict[str, Any] = request.args[1]
            places[Stopping.from_settings(settings, otherwise=OTHERWISE)].append(place)
        return places

    def _as_read(self, request: Instance, answer: str) -> str:
        """What lmms-eval is given of an answer; one that it cannot read is counted."""
        _, _, _, doc_id, task, split = request.args
        if (benchmark := benchmark_of(task)) is None:
            return answer
        if benchmark.unread:
            unread = benchmark.unread(answer, self.task_dict[task][split][doc_id])
            self._counts["answers that cannot be read"][shipped(task)] += int(unread)
        return (benchmark.tasks[shipped(task)].read_answer or benchmark.read_answer)(answer)
