"""Held-out real pairs, their images as understanding reads them, and what a model answers about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout
from hermesflow.core.images import as_tensor, read_images
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.data.worlds.questions import Question
from hermesflow.evaluation.worlds.gap import PairQuestion
from hermesflow.models.backbone import UnifiedModel
from hermesflow.selfplay.scoring import free_answers, question_texts
from hermesflow.selfplay.sharding import check_ids


@dataclass(frozen=True)
class Split:
    """Real pairs and their images."""

    rows: list[dict[str, Any]]
    images: np.ndarray
    """(N, H, W, 3) uint8."""
    seen: Tensor
    """(N, *seen), the same as understanding reads them."""

    @property
    def ids(self) -> list[str]:
        """Pair ids in the order of rows and images."""
        return [row["id"] for row in self.rows]

    @property
    def captions(self) -> dict[str, str]:
        """Captions by id."""
        return {row["id"]: row["caption"] for row in self.rows}


def read_split(layout: Layout, split: str) -> Split:
    """Read pairs and images of a split.

    Raises:
        ArtifactError: an input is missing, truncated, or its ids are not those of the pairs.
    """
    pairs = read_pairs(layout.data(split))
    ids, seen = read_images(layout.seen(split))
    check_ids(layout.seen(split), ids, list(pairs["id"]))
    place = {key: i for i, key in enumerate(ids)}
    ordered = seen[[place[key] for key in pairs["id"]], 0]
    return Split(list(pairs.remove_columns("image")), images_of(pairs), as_tensor(ordered))


def questions_of(split: Split) -> list[PairQuestion]:
    """Every question about every pair, in their order."""
    return [
        PairQuestion(row["id"], Question(q["question"], tuple(q["choices"]), q["answer"], q["kind"]))
        for row in split.rows
        for q in row["questions"]
    ]


def ask(
    config: Config, model: UnifiedModel, seen: Tensor, split: Split, questions: Sequence[PairQuestion]
) -> list[str]:
    """The model's free answers about images in the order of a split: (N, *seen), Q questions to Q texts."""
    place = {key: i for i, key in enumerate(split.ids)}
    owners = torch.tensor([place[one.id] for one in questions], dtype=torch.long)
    texts = question_texts([one.question for one in questions], config.scoring.vqa_prompt)
    return answer(config, model, seen, owners, texts)


def answer(config: Config, model: UnifiedModel, seen: Tensor, owners: Tensor, questions: Sequence[str]) -> list[str]:
    """Free answers, images in batches.

    Args:
        config: batch and length of answers are read.
        model: who answers.
        seen: (N, *seen) images.
        owners: (Q,) int64, the image of each question.
        questions: Q texts.
    """
    answers = [""] * len(questions)
    size = config.scoring.batch_images
    for start in range(0, len(seen), size):
        rows = ((owners >= start) & (owners < start + size)).nonzero()[:, 0].tolist()
        batch_answers = free_answers(
            model,
            seen[start : start + size].to(config.runtime.device),
            owners[rows] - start,
            [questions[i] for i in rows],
            max_answer_tokens=config.scoring.max_answer_tokens,
        )
        for i, text in zip(rows, batch_answers, strict=True):
            answers[i] = text
    return answers
