"""Defects of the official scoring scripts, each with the property that keeps it out."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from hermesflow.config.sections import Encoder, Scoring
from hermesflow.core.images import ImageForm
from hermesflow.data.worlds.questions import Question
from hermesflow.selfplay.sharding import IMAGE_TYPES, sorted_candidates
from hermesflow.stages.score import score_captions, score_images

IDS = ["1", "2", "10"]  # sorted as strings: 1, 10, 2
RIGHT = {"1": 0, "2": 1, "10": 2}  # candidate that answers rightly


class Words:
    """Encodes a text as itself: texts are alike or not at all."""

    def encode(self, texts):
        words = sorted(set(texts))
        return torch.nn.functional.one_hot(torch.tensor([words.index(t) for t in texts]), len(words)).float()


def candidates():
    rows = [(i, k, f"caption of {i}" if k == RIGHT[i] else "other") for i in IDS for k in range(3)]
    return pd.DataFrame(rows, columns=["id", "candidate", "caption"])


def chosen(table):
    best = table.loc[table.groupby("id")["score"].idxmax()]
    return dict(zip(best["id"], best["candidate"], strict=True))


def test_caption_scores_follow_their_id_however_files_are_ordered():
    references = {i: f"caption of {i}" for i in IDS}
    for order in (candidates(), candidates().sample(frac=1, random_state=1), candidates().sort_values("id")):
        scores = score_captions(order, references, measure="embedding", encoder=Words())
        assert chosen(scores) == RIGHT
        gathered = sorted_candidates([scores.iloc[4:], scores.iloc[:4]], IDS, {"id": "str", "candidate": "int64",
                                                                                "score": "float64"})  # fmt: skip
        assert chosen(gathered) == RIGHT and list(gathered["id"].unique()) == IDS


def test_image_scores_follow_their_id_however_files_are_ordered(monkeypatch):
    settings = Scoring(
        caption_measure="embedding",
        encoder=Encoder(source="none", pooling="mean"),
        vqa_method="generate",
        max_answer_tokens=1,
        batch_images=9,
        agreement_pairs=0,
    )
    # the image says which pair it belongs to, and whether it is the good candidate
    codes = {i: np.array([[int(i), k == RIGHT[i]] for k in range(3)]) for i in IDS}
    questions = {i: [Question(f"pair {i} ?", ("yes", "no"), "yes", "existence")] for i in IDS}

    def answer(model, codes, owners, questions, **_):
        rows = zip(codes[owners].tolist(), questions, strict=True)
        return np.array([float(good and q.question == f"pair {pair} ?") for (pair, good), q in rows])

    monkeypatch.setattr("hermesflow.stages.score.answer_credits", answer)
    form = ImageForm("codes", (2,), "uint16")
    model = SimpleNamespace(seen=form, generated=form, device=torch.device("cpu"))
    for order in (["1", "2", "10"], ["1", "10", "2"], ["10", "2", "1"]):
        shuffled = {i: codes[i] for i in reversed(order)}
        asked = {i: questions[i] for i in order}
        table = score_images(model, None, shuffled, asked, method="generate", settings=settings, encoder=Words())
        assert chosen(table) == RIGHT
        assert chosen(sorted_candidates([table], IDS, IMAGE_TYPES)) == RIGHT
