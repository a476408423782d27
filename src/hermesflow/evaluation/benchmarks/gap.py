"""The gap on real data, where an outside judge sees what the pixel judge of the micro world cannot.

The protocols are those of `worlds.gap`, and so are the columns of their tables. `paper`: understanding is the model's
answer on the real image, mapped to the nearest choice; generation is the judge's answer on the drawn image.
`same-judge`: the judge's reading is the rule on both sides. It answers the question about the real image, and says,
from the text alone, which choice the model's answer means: both must be one choice. And what it answers about the
drawn image must be the right choice. What the judge cannot see costs both sides then, not generation alone.
The micro world compares the model's words with the judge's reading as strings; free words of real answers ("two dogs
are running") need a reader, and who reads is the judge again. An answer that is one of the choices letter by letter is
that choice, and no judge is asked; an empty one means none.
Source: HermesFlow section 4.3 and Table 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from hermesflow.config.judges import HOW, AnyJudge, Endpoint, LocalVlm, check_endpoint
from hermesflow.config.sections import section
from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmark import ABLATION, GAP, Column, ImageBenchmark, Note, Plan
from hermesflow.evaluation.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd

    from hermesflow.core.files import Layout
    from hermesflow.evaluation.grading import Graded, Job
    from hermesflow.evaluation.judges.endpoint import EndpointJudge
    from hermesflow.evaluation.judges.local import LocalJudge
    from hermesflow.evaluation.judges.protocol import Item, Judge, Verdict
    from hermesflow.evaluation.worlds.gap import PairQuestion

EVIDENCE = {"drawn": "generated", "real": "real", "said": "answers"}
"""What the judge is asked about, as the results call it: the generated image, the real one, what the model said of it.
Each with its field of `Judged`."""


@dataclass(frozen=True)
class Judged:
    """Verdicts of Q questions on each kind of evidence."""

    generated: Sequence[Verdict]
    real: Sequence[Verdict]
    answers: Sequence[Verdict]


def ask(
    judge: Judge,
    questions: Sequence[PairQuestion],
    *,
    free: Sequence[str],
    real: Mapping[str, bytes],
    generated: Mapping[str, bytes],
) -> Judged:
    """Put all three kinds of questions to a judge, in one call.

    Args:
        judge: who answers.
        questions: Q questions.
        free: Q free answers of the model on the real image.
        real: id -> PNG of the real image.
        generated: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the judge does not answer.
    """
    on_images = about_images(questions, real=real, generated=generated)
    literal = [literal_verdict(one, text) for one, text in zip(questions, free, strict=True)]
    on_answers = [_item(one, text) for one, text, known in zip(questions, free, literal, strict=True) if known is None]
    verdicts = iter(judge.judge([*on_images, *on_answers]))
    first = [next(verdicts) for _ in questions]
    second = [next(verdicts) for _ in questions]
    return Judged(first, second, [known or next(verdicts) for known in literal])


def about_images(
    questions: Sequence[PairQuestion], *, real: Mapping[str, bytes], generated: Mapping[str, bytes]
) -> list[Item]:
    """The 2 x Q items with images: Q about the drawn ones, then Q about the real ones.

    Args:
        questions: Q questions.
        real: id -> PNG of the real image.
        generated: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing.
    """
    return _about(questions, generated, "drawn") + _about(questions, real, "real")


def literal_verdict(entry: PairQuestion, text: str) -> Verdict | None:
    """What needs no judge: an answer that is one of its choices but for letter case and spaces, or no answer at all."""
    from hermesflow.data.questions.rows import plain
    from hermesflow.evaluation.judges.protocol import Verdict

    if not text.strip():
        return Verdict(entry.id, "unreadable", None, text)
    choice = next((one for one in entry.question.choices if plain(one) == plain(text)), None)
    return None if choice is None else Verdict(entry.id, "chosen", choice, text)


def gap_table(
    questions: Sequence[PairQuestion], *, free: Sequence[str], nearest: Sequence[str], judged: Judged
) -> pd.DataFrame:
    """Grade both sides of every question.

    Args:
        questions: Q questions.
        free: Q free answers of the model on the real image.
        nearest: Q choices nearest to them.
        judged: what the judge made of them.

    Returns:
        One row per question: id, kind, question, answer, free, nearest, judge_real, judge_said, judge_drawn (None: no
        choice, which is wrong), their outcomes real_outcome, said_outcome, drawn_outcome, and the booleans
        understanding_paper, understanding_same_judge, generation. `evaluation.worlds.gap.gap_units` takes it as it is.
    """
    import pandas as pd

    rows = []
    columns = zip(questions, free, nearest, judged.real, judged.answers, judged.generated, strict=True)
    for one, text, choice, real, answer, generated in columns:
        question = one.question
        rows.append(
            {
                "id": one.id,
                "kind": question.kind,
                "question": question.question,
                "answer": question.answer,
                "free": text,
                "nearest": choice,
                "judge_real": real.choice,
                "judge_said": answer.choice,
                "judge_drawn": generated.choice,
                "real_outcome": real.outcome,
                "said_outcome": answer.outcome,
                "drawn_outcome": generated.outcome,
                "understanding_paper": choice == question.answer,
                "understanding_same_judge": real.choice is not None and answer.choice == real.choice,
                "generation": generated.choice == question.answer,
            }
        )
    return pd.DataFrame(rows)


def answer_counts(questions: Sequence[PairQuestion], free: Sequence[str]) -> dict[str, int]:
    """How many of the model's answers were one of their choices, were taken for the nearest one, or were empty.

    An empty answer, too, is taken for the nearest choice by protocol `paper`.
    """
    literal = [literal_verdict(one, text) for one, text in zip(questions, free, strict=True)]
    chosen, empty = (sum(one is not None and (one.choice is not None) == c for one in literal) for c in (True, False))
    return {"a choice": chosen, "taken for the nearest": len(questions) - chosen - empty, "empty": empty}


def judge_facts(questions: Sequence[PairQuestion], judged: Judged) -> dict[str, dict[str, float]]:
    """What the tables say about the judge, per kind of evidence.

    Returns:
        `drawn`, `real` and `said`, each with `questions` and the number of each outcome; `real` with `accuracy` too:
        how often the judge is right about real images, below which neither side of the gap can be trusted.
    """
    from hermesflow.evaluation.judges.protocol import outcome_counts

    facts: dict[str, dict[str, float]] = {}
    for kind, field in EVIDENCE.items():
        verdicts: Sequence[Verdict] = getattr(judged, field)
        facts[kind] = {"questions": len(verdicts)}
        facts[kind].update({str(outcome): count for outcome, count in outcome_counts(verdicts).items()})
    right = sum(v.choice == one.question.answer for one, v in zip(questions, judged.real, strict=True))
    facts["real"]["accuracy"] = right / len(questions) if questions else 0.0
    return facts


def _about(questions: Sequence[PairQuestion], images: Mapping[str, bytes], kind: str) -> list[Item]:
    missing = sorted({one.id for one in questions} - set(images))
    if missing:
        raise DataError(
            f"pair {missing[0]} of split gap has no {kind} image ({len(missing)} pairs in all). Run the step that "
            "makes it again."
        )
    return [_item(one, images[one.id]) for one in questions]


def _item(entry: PairQuestion, evidence: bytes | str) -> Item:
    from hermesflow.evaluation.judges.protocol import Item

    question = entry.question
    return Item(entry.id, evidence, question.question, tuple(question.choices), question.answer)


@section
class Gap:
    """Table 4 with a judge of real images, by the paper's protocol and with the same judge on both sides."""

    judge: AnyJudge
    """Who answers questions about images. See its own table below."""


def read_all(settings: Gap, layout: Layout) -> Prompts:
    """Captions of the held-out pairs."""
    from hermesflow.data.pairs import read_pairs

    pairs = read_pairs(layout.data("gap")).remove_columns("image")
    return Prompts(BENCHMARK.name, tuple(pairs["id"]), tuple(pairs["caption"]), 1)


def check(settings: Gap) -> None:
    """Look at an endpoint's address, and for secrets where none belong.

    Raises:
        ConfigError: the address or the key's variable is wrong.
    """
    if isinstance(settings.judge, Endpoint):
        check_endpoint(settings.judge)


def grade_images(job: Job) -> Graded:
    """Both protocols: what the checkpoint says of the real images, and what the judge makes of all."""
    from hermesflow.evaluation.graders.pretrained import name_of
    from hermesflow.evaluation.judges.canary import try_judge
    from hermesflow.evaluation.judges.protocol import png_bytes
    from hermesflow.evaluation.worlds import held_out
    from hermesflow.models.backbone import load_model
    from hermesflow.models.sentence_encoder import load_encoder
    from hermesflow.selfplay.scoring import nearest_choice

    config, runtime, settings = job.config, job.config.runtime, job.settings
    split = held_out.read_split(job.layout, "gap")
    questions = held_out.questions_of(split)
    real = {id_: png_bytes(image) for id_, image in zip(split.ids, split.images, strict=True)}
    generated = {id_: png_bytes(job.images.pixels(i, i + 1)[0]) for i, id_ in enumerate(job.prompts.ids)}
    check_judge(settings.judge, questions, real=real, generated=generated)
    judge = None
    if isinstance(settings.judge, Endpoint):
        judge = job.tried(judge_of(settings.judge, device=runtime.device), try_judge)
    model = load_model(job.model, device=runtime.device, precision=runtime.inference_precision)
    free = held_out.ask(config, model, split.seen, split, questions)
    del model  # a local judge needs the room
    choices = config.scoring.choice_encoder or config.scoring.encoder
    nearest = nearest_choice(
        free, [one.question.choices for one in questions], load_encoder(choices, device=runtime.device)
    )
    judge = judge or job.tried(judge_of(settings.judge, device=runtime.device), try_judge)
    scorers = {"nearest choice": name_of(choices.source)}
    captions = split.captions
    graded = grade_gap(judge, questions, captions, free=free, nearest=nearest, real=real, generated=generated)
    return replace(graded, scorers=scorers)


def judge_of(settings: AnyJudge, *, device: str) -> EndpointJudge | LocalJudge:
    """The judge that a config names.

    Raises:
        ConfigError: a local one cannot be read.
        FetchError: a source cannot be had.
    """
    from hermesflow.evaluation.judges.endpoint import EndpointJudge
    from hermesflow.evaluation.judges.local import LocalJudge

    return EndpointJudge(settings) if isinstance(settings, Endpoint) else LocalJudge(settings, device=device)


def check_judge(
    settings: AnyJudge, questions: Sequence[PairQuestion], *, real: Mapping[str, bytes], generated: Mapping[str, bytes]
) -> None:
    """Look, before the model answers anything, whether an endpoint can be asked; a local judge is not loaded for it.

    Args:
        settings: of the judge.
        questions: Q questions.
        real: id -> PNG of the real image.
        generated: id -> PNG of the image drawn from its caption.

    Raises:
        ConfigError: images must be asked about, and there is no key or no address.
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the estimate for the images alone is beyond `max_cost`.
    """
    from hermesflow.evaluation.judges.endpoint import EndpointJudge

    if isinstance(settings, Endpoint):
        EndpointJudge(settings).check(about_images(questions, real=real, generated=generated))


def grade_gap(
    judge: Judge,
    questions: Sequence[PairQuestion],
    captions: Mapping[str, str],
    *,
    free: Sequence[str],
    nearest: Sequence[str],
    real: Mapping[str, bytes],
    generated: Mapping[str, bytes],
) -> Graded:
    """Both protocols of the gap.

    Args:
        judge: who looks at the images.
        questions: Q questions.
        captions: by pair id; pairs of one caption are one unit.
        free: Q free answers of the model on the real image.
        nearest: Q choices nearest to them.
        real: id -> PNG of the real image.
        generated: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the judge does not answer.
    """
    from hermesflow.evaluation.grading import Graded
    from hermesflow.evaluation.judges.endpoint import EndpointJudge
    from hermesflow.evaluation.judges.local import LocalJudge
    from hermesflow.evaluation.worlds.gap import gap_units

    judged = ask(judge, questions, free=free, real=real, generated=generated)
    table = gap_table(questions, free=free, nearest=nearest, judged=judged)
    notes: dict[str, Any] = {
        "questions": len(questions),
        "own answers": answer_counts(questions, free),
        "verdicts": judge_facts(questions, judged),
    }
    if isinstance(judge, EndpointJudge):
        notes |= {"models": list(judge.models), "cost": asdict(judge.bill) if judge.bill else {}}
    elif isinstance(judge, LocalJudge):
        notes["digest of the judge"] = judge.digest[:16]
    protocol = (
        f"{len(questions):,} questions about {len(captions):,} held-out pairs, one image drawn for each; paper: own "
        "answers on real images, the judge's on drawn ones; same-judge: the judge reads both"
    )
    return Graded(table, gap_units(table, captions), protocol, notes=notes)


def cost(plan: Plan) -> None:
    """A local judge's answers about generated images, real images, and what was said."""
    from hermesflow.evaluation.judges.cost import CHARACTERS_PER_TOKEN
    from hermesflow.evaluation.judges.instructions import OF_IMAGE

    judge = plan.settings.judge
    if isinstance(judge, LocalVlm):
        prompt = len(OF_IMAGE) // CHARACTERS_PER_TOKEN + plan.asking
        questions = 3 * plan.images * plan.questions
        plan.ask(judge.model, questions, prompt=prompt, written=judge.max_new_tokens, dtype=judge.dtype)


_JUDGE_KEYS = sorted({one.name for kind in (Endpoint, LocalVlm) for one in fields(kind)} - set(HOW))

BENCHMARK = ImageBenchmark(
    name="gap",
    order=100,
    paper=True,
    section=Gap,
    meaning="Table 4.",
    check=check,
    read_prompts=read_all,
    grade=grade_images,
    split="gap",
    models=("judge.model",),
    keys=tuple(f"judge.{name}" for name in _JUDGE_KEYS),
    config_keys=("scoring",),
    one_at_a_time=True,  # an endpoint's pace is that of one process
    columns={
        ABLATION: (
            Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3),
            Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3),
        ),
    },
    notes=(
        Note(
            GAP,
            "The paper's judge of drawn images is GPT-4o; it prints neither seeds nor the number of questions.",
        ),
    ),
    cost=cost,
    half_precision=True,
    answers=True,
)
