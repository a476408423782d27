"""Every reader of a benchmark's file and of a judge's words, on generated inputs: a clear error or right rows.

Rows that go in come out, or are counted. No other error than the one a user can mend.
"""

import csv
import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermesflow.core.errors import DataError
from hermesflow.data.geneval import COLORS, OBJECTS
from hermesflow.evaluation.benchmarks.coco import KEYS, read_list
from hermesflow.evaluation.benchmarks.dpg import CSV_COLUMNS, parse_prompts, read_prompts
from hermesflow.evaluation.benchmarks.geneval import RELATIONS, TAGS, grade, image_row, read_metadata, strongest
from hermesflow.evaluation.benchmarks.geneval2 import SKILLS
from hermesflow.evaluation.benchmarks.geneval2 import read_prompts as read_geneval2
from hermesflow.evaluation.graders.geneval_objects import Detection
from hermesflow.evaluation.judges.instructions import CANNOT_TELL, read_choice

TWO_HUNDRED = settings(max_examples=200)
TEXTS = st.one_of(
    st.sampled_from(["a cat", "A dog, red.", "café\u2028x", "x\r\ny", '"', " ", "", "\ufeffa", "{}"]), st.text()
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


def mostly(usual, odd):
    """A value of the usual kind eleven times of twelve."""
    return st.integers(0, 11).flatmap(lambda number: odd if number == 5 else usual)


def damaged(content, edits):
    """Bytes of a file with some cut out and others put in."""
    for place, gone, new in edits:
        at = int(place * len(content))
        content = content[:at] + new + content[at + gone :]
    return content


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 9),
        st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b",", b"\n", b"{", b"\\ud800"])),
    ),
    max_size=3,
)


def outcome(read, path):
    """What a reader gives, or None after an error that names the file."""
    try:
        return read(path)
    except DataError as error:
        assert str(path) in str(error) and len(str(error)) > len(str(path)) + 20
        return None


DPG_ROW = st.tuples(
    mostly(st.sampled_from(["p", "q"]), TEXTS),
    mostly(st.just("A text, of both."), TEXTS),
    TEXTS,
    mostly(st.integers(1, 6).map(str), TEXTS),
    mostly(st.sampled_from(["0", "1", "1, 2", " 1 ,3"]), TEXTS),
    mostly(st.sampled_from(["entity", "other"]), TEXTS),
    TEXTS,
    TEXTS,
    mostly(st.sampled_from(["Is it there?", "Is it red?"]), TEXTS),
)


@TWO_HUNDRED
@given(rows=st.lists(DPG_ROW, max_size=8), edits=EDITS)
def test_dpg(folder, rows, edits):
    path = folder / "dpg.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([CSV_COLUMNS, *rows])
    if found := outcome(parse_prompts, path):
        prompts, faults, counts = found
        left_out = {fault.prompt for fault in faults}
        assert counts == Counter(row[0].strip() for row in rows) and not {one.id for one in prompts} & left_out
        wanted = [tuple(cell.strip() for cell in row) for row in rows]
        assert sum(len(one.questions) for one in prompts) + sum(counts[one] for one in left_out) == len(rows)
        for one in prompts:
            own = [(r[1], int(r[3]), r[8], r[5], r[6]) for r in wanted if r[0] == one.id]
            assert own == [(one.text, q.number, q.text, q.category, q.detail) for q in one.questions]
            assert {p for q in one.questions for p in q.parents} <= {q.number for q in one.questions}
        told = outcome(read_prompts, path)
        assert told == (None if faults else prompts)
    else:  # a question of several lines is one whose quote is not closed
        assert not rows or any(re.search(r"[\r\n]", row[-1].strip()) for row in rows)
    path.write_bytes(damaged(path.read_bytes(), edits))
    if found := outcome(parse_prompts, path):
        prompts, faults, counts = found
        left_out = {fault.prompt for fault in faults}
        assert sum(counts.values()) == sum(len(one.questions) for one in prompts) + sum(counts[one] for one in left_out)


IMAGE = st.integers(0, 10**12 - 1)
COCO_KEY = st.one_of(
    IMAGE.map(lambda n: (n, str(n))),
    IMAGE.map(lambda n: (n, f"{n:012d}")),
    IMAGE.map(lambda n: (n, f"{n}_mscoco_{n % 5}")),
    IMAGE.map(lambda n: (n, f"val2014/COCO_val2014_{n:012d}.jpg")),
)
COCO_ROW = st.tuples(
    mostly(COCO_KEY, TEXTS.map(lambda text: (None, text))), mostly(st.sampled_from(["A dog.", "Cats, two"]), TEXTS)
)


@TWO_HUNDRED
@given(
    rows=st.lists(COCO_ROW, max_size=6),
    names=st.tuples(
        st.sampled_from(["image_id", *KEYS["image_id"], "id"]), st.sampled_from(["caption", *KEYS["caption"], "label"])
    ),
    ending=st.sampled_from(["csv", "tsv", "json", "jsonl"]),
    edits=EDITS,
)
def test_coco_lists(folder, rows, names, ending, edits):
    path = folder / f"list.{ending}"
    objects = [dict(zip(names, (key, text), strict=True)) for (_, key), text in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        if ending == "json":
            json.dump(objects, file)
        elif ending == "jsonl":
            file.writelines(f"{json.dumps(one)}\n" for one in objects)
        else:
            cells = [names, *([key, text] for (_, key), text in rows)]
            csv.writer(file, delimiter="\t" if ending == "tsv" else ",").writerows(cells)
    known = {number for (number, _), _ in rows}
    right = names[0] != "id" and names[1] != "label" and all(text.strip() for _, text in rows)
    right &= None not in known and len(rows) > 1 and len(known) == len(rows)
    found = outcome(read_list, path)
    if right:
        assert [(one.image_id, one.caption) for one in found[0]] == sorted((n, text.strip()) for (n, _), text in rows)
        assert tuple(found[1].values()) == names
    elif found:  # odd keys that are numbers or names after all
        assert len(found[0]) == len(rows)
    path.write_bytes(damaged(path.read_bytes(), edits))
    outcome(read_list, path)


CLAUSE = st.fixed_dictionaries(
    {"class": mostly(st.sampled_from(OBJECTS), JSON), "count": mostly(st.integers(1, 4), JSON)},
    optional={
        "color": mostly(st.sampled_from(COLORS), JSON),
        "position": mostly(st.tuples(st.sampled_from(RELATIONS), st.just(0)).map(list), JSON),
        "colour": st.just("red"),
    },
)
GENEVAL = st.fixed_dictionaries(
    {
        "tag": mostly(st.sampled_from(TAGS), JSON),
        "include": mostly(st.lists(CLAUSE, max_size=3), JSON),
        "prompt": mostly(st.just("a photo of a cat"), JSON),
    },
    optional={"exclude": mostly(st.lists(CLAUSE, max_size=1), JSON)},
)


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8", newline="")


@TWO_HUNDRED
@given(rows=st.lists(mostly(GENEVAL, JSON), max_size=3), edits=EDITS)
def test_geneval_prompts(folder, rows, edits):
    path = folder / "geneval.jsonl"
    write_lines(path, rows)
    if found := outcome(read_metadata, path):
        assert len(found) == len(rows)
        for one, row in zip(found, rows, strict=True):
            assert (one.tag, one.prompt) == (row["tag"], row["prompt"])
            for clauses, key in ((one.include, "include"), (one.exclude, "exclude")):
                plain = [(c.name, c.count, c.color, c.position and list(c.position)) for c in clauses]
                assert plain == [(c["class"], c["count"], c.get("color"), c.get("position")) for c in row.get(key, ())]
    path.write_bytes(damaged(path.read_bytes(), edits))
    outcome(read_metadata, path)


EDGE = st.floats(0, 512)
DETECTION = st.builds(Detection, st.tuples(EDGE, EDGE, EDGE, EDGE), st.floats(0, 1))
SOME = st.sampled_from(["cat", "dog", "bench"])


@TWO_HUNDRED
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "tag": st.sampled_from(TAGS),
                "include": st.lists(
                    st.fixed_dictionaries(
                        {"class": SOME, "count": st.integers(1, 3)}, optional={"color": st.sampled_from(COLORS[:2])}
                    ),
                    min_size=1,
                    max_size=3,
                ),
                "exclude": st.lists(st.fixed_dictionaries({"class": SOME, "count": st.integers(1, 3)}), max_size=1),
                "prompt": st.just("a photo"),
            }
        ),
        min_size=1,
        max_size=2,
    ),
    relations=st.lists(st.sampled_from(RELATIONS), min_size=2, max_size=2),
    detections=st.dictionaries(SOME, st.lists(DETECTION, max_size=20)),
)
def test_geneval_verdicts(folder, rows, relations, detections):
    """An image is right, or a reason says what is wrong, a line for each clause."""
    for row in rows:
        for clause, relation in zip(row["include"][1:], relations, strict=False):
            clause["position"] = [relation, 0]
    write_lines(folder / "verdicts.jsonl", rows)
    for number, metadata in enumerate(read_metadata(folder / "verdicts.jsonl")):
        colour_of = lambda name, objects: ["red" if one.score > 0.5 else "orange" for one in objects]  # noqa: E731
        kept = strongest(detections, metadata.confidence)
        right, reason = grade(metadata, kept, colour_of)
        assert right == (reason == "") and len(reason.splitlines()) <= len(metadata.include) + len(metadata.exclude)
        enough = all(len(kept.get(one.name, ())) >= one.count for one in metadata.include)
        few = all(len(kept.get(one.name, ())) < one.count for one in metadata.exclude)
        assert (enough and few) or not right
        *_, caption, accepted, told, boxes = image_row(number, 0, metadata, detections, colour_of)
        assert (caption, accepted, told) == ("a photo", right, reason)
        assert {name: len(some) for name, some in json.loads(boxes).items()} == {k: len(v) for k, v in kept.items()}
        assert all(len(some) <= 16 for some in kept.values())


QUESTION = st.one_of(
    st.tuples(st.sampled_from(["Is there a cat?", "Is it red?"]), mostly(st.just("Yes"), JSON)),
    st.tuples(st.just("How many cats are there?"), mostly(st.sampled_from(["two", "ten"]), JSON)),
    st.tuples(TEXTS, TEXTS, TEXTS),
).map(list)
GENEVAL2 = st.lists(QUESTION, max_size=3).flatmap(
    lambda asked: st.fixed_dictionaries(
        {
            "prompt": mostly(st.just("two cats"), JSON),
            "atom_count": mostly(st.integers(1, 10), JSON),
            "vqa_list": mostly(st.just(asked), JSON),
            "skills": mostly(st.lists(st.sampled_from(SKILLS), min_size=len(asked), max_size=len(asked)), JSON),
        }
    )
)


@TWO_HUNDRED
@given(rows=st.lists(mostly(GENEVAL2, JSON), max_size=3), edits=EDITS)
def test_geneval2(folder, rows, edits):
    path = folder / "geneval2.jsonl"
    write_lines(path, rows)
    if found := outcome(read_geneval2, path):
        assert len(found) == len(rows)
        for one, row in zip(found, rows, strict=True):
            assert (one.text, one.atom_count) == (row["prompt"], row["atom_count"])
            asked = [[q.text, q.answer, q.skill] for q in one.questions]
            assert asked == [[*pair, skill] for pair, skill in zip(row["vqa_list"], row["skills"], strict=True)]
            assert all(form.strip() for q in one.questions for form in q.forms)
    path.write_bytes(damaged(path.read_bytes(), edits))
    outcome(read_geneval2, path)


CHOICES = st.lists(
    st.sampled_from(["red", "Blue", "2", "two dogs", "yes", "no", CANNOT_TELL, "1e400"]),
    min_size=2,
    max_size=4,
    unique=True,
)
SAID = st.one_of(
    TEXTS,
    JSON.map(json.dumps),
    st.fixed_dictionaries({"choice": st.one_of(JSON, st.sampled_from(["red", "BLUE ", 2, 2.0, CANNOT_TELL]))}).map(
        json.dumps
    ),
)


@TWO_HUNDRED
@given(
    choices=CHOICES,
    parts=st.lists(
        st.one_of(
            SAID,
            st.sampled_from(["```json\n", "```", '{"choice": "red"', "{" * 2000, '{"choice": ' + "1" * 5000 + "}"]),
        ),
        max_size=4,
    ),
    cut=st.booleans(),
    place=st.integers(0, 3),
)
def test_what_a_judge_writes(choices, parts, cut, place):
    verdict, choice = read_choice(" ".join(parts), choices, cut=cut)
    assert (choice in choices) if verdict == "chosen" else choice is None
    assert verdict in ("chosen", "cannot tell", "unreadable", "cut short") and (cut or verdict != "cut short")
    wanted = choices[place % len(choices)]
    told = read_choice(json.dumps({"choice": wanted}), choices, cut=cut)
    assert told == ("chosen", wanted)
