"""A user's own pairs in every form that is read."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
from huggingface_hub import constants

from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError, DataError, FetchError
from hermesflow.data.pairs import read_pairs
from hermesflow.data.sources.drawing import Candidate, Rejected, readable
from hermesflow.data.sources.folder import ImageSource, TableSource, TarSource, open_source
from tests.support.folder_world import (
    ENOUGH,
    FORMS,
    QUESTIONS,
    everything,
    json_line,
    rows,
    run,
    table,
    with_metadata,
    with_parquet,
    with_tars,
    write_images,
)
from tests.support.hub_server import HubServer
from tests.support.journeydb_world import SIZES, TOTAL, jpeg, write_config


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(form, tmp_path):
    with_metadata(tmp_path / "reference", rows())
    FORMS[form](tmp_path / "own", rows())
    reference, layout = run(tmp_path / "reference", tmp_path / "a"), run(tmp_path / "own", tmp_path / "b")
    assert everything(layout) == everything(reference)
    assert {split: len(read_pairs(layout.data(split))) for split in SIZES} == SIZES
    row = everything(layout)[0]
    assert row["questions"] == [{**QUESTIONS[0], "kind": "folder"}] and row["kind"] == "folder"


@pytest.mark.parametrize("form", FORMS)
def test_bad_records_are_set_aside_and_replaced(form, tmp_path):
    FORMS[form](tmp_path / "own", rows(bad=True))
    layout = run(tmp_path / "own", tmp_path, base_pairs=1)
    assert len(everything(layout)) == TOTAL + 1
    table = pd.read_csv(layout.root / "data" / "rejected.csv")
    assert set(table["id"]) <= {"set/002", "set/005"} and table["file"].notna().all() and (table["record"] > 0).all()
    with pytest.raises(DataError, match=r"only 16 of the 18 .*1 empty caption") as error:
        run(tmp_path / "own", tmp_path / "more", base_pairs=3)
    assert "1 corrupt image" in str(error.value)


def test_text_files_beside_images(tmp_path):
    own = rows()
    write_images(tmp_path / "own", own)
    for record in own:
        (tmp_path / "own" / f"{record['name']}.txt").write_text(record["caption"] + "\n")
    with pytest.raises(DataError, match=r"no questions.*data\.questions"):
        run(tmp_path / "own", tmp_path)


def test_metadata_csv(tmp_path):
    write_images(tmp_path, rows())
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file_name", "text"), *((f"{r['name']}.jpg", r["caption"]) for r in rows())])
    found = list(ImageSource(tmp_path).records())
    assert [(c.id, c.caption) for c in found] == [(r["name"], r["caption"]) for r in rows()]
    assert dict(ImageSource(tmp_path).images("", {found[3].member, "../config.yaml"})) == {found[3].member: jpeg(3)}


def test_broken_lines_and_samples_are_set_aside_with_their_place(tmp_path):
    with_metadata(tmp_path / "own", rows())
    path = tmp_path / "own" / "metadata.jsonl"
    path.write_text("{broken\n" + path.read_text() + '\n{"caption": "no file"}\n')
    table = pd.read_csv(run(tmp_path / "own", tmp_path).root / "data" / "rejected.csv")
    assert table["record"].tolist() == [1, ENOUGH + 2] and set(table["file"]) == {"metadata.jsonl"}


def test_a_truncated_tar_is_named(tmp_path):
    with_tars(tmp_path / "own", rows())
    path = tmp_path / "own" / "00001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"00001\.tar: truncated"):
        run(tmp_path / "own", tmp_path)


def test_a_folder_of_splits_and_a_table_without_captions_are_said(tmp_path):
    datasets.DatasetDict({"train": table(rows()), "test": table(rows())}).save_to_disk(str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"several splits.*test, train"):
        run(tmp_path / "own", tmp_path)
    table(rows()).rename_column("caption", "words").save_to_disk(str(tmp_path / "words"))
    with pytest.raises(DataError, match=r"no column of captions among .*docs/data\.md"):
        run(tmp_path / "words", tmp_path)


def test_a_dataset_on_the_hub_is_read_by_the_datasets_library(tmp_path, monkeypatch):
    with_parquet(tmp_path / "own", rows())
    content = (tmp_path / "own" / "part.parquet").read_bytes()
    with HubServer() as hub:
        commit = hub.add("someone/cats", {"data/train-00000-of-00001.parquet": content}, kind="datasets")
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        layout = run("someone/cats", tmp_path, revision=commit)
        with pytest.raises(DataError, match=r"data\.split"):
            run("someone/cats", tmp_path / "other", split="nothing", revision=commit)
        with pytest.raises(FetchError, match=r"no such repository.*data\.path"):
            run("someone/dogs", tmp_path / "third", revision=commit)
    assert everything(layout) == everything(run(tmp_path / "own", tmp_path / "b"))
    selection = json.loads((layout.root / "data" / "selection.json").read_text())
    assert selection["origin"] == {"source": "folder", "repository": "someone/cats", "commit": commit}


def test_keys_of_another_source_are_refused(tmp_path):
    file = write_config(tmp_path / "config.yaml", source="folder", path="x", shards=["000"])
    with pytest.raises(ConfigError, match=r"unknown key `data\.shards`"):
        load_config(file)
    file = write_config(tmp_path / "config.yaml", source="microworld", selection="x")
    with pytest.raises(ConfigError, match=r"unknown key `data\.selection`"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"`data`: .*journeydb"):
        load_config(write_config(tmp_path / "config.yaml", source="laion"))


def test_the_source_parquet_names_what_takes_its_place(tmp_path):
    file = write_config(tmp_path / "config.yaml", source="parquet", path="x")
    with pytest.raises(ConfigError, match=r"`data\.source`: `parquet` is gone; `folder` reads parquet"):
        load_config(file)


CASES = Path(__file__).parent / "cases"
LINE = {"file_name": "1.jpg", "caption": "A cat, on a mat."}


def opened(folder: Path, path: Path | None = None) -> TarSource | TableSource | ImageSource:
    config = load_config(write_config(folder / "config.yaml", source="folder", path=str(path or folder)))
    return open_source(config.data, downloads=folder / "downloads")


def record_of(folder: Path, content: bytes, name: str = "metadata.csv") -> Candidate | Rejected:
    (folder / name).write_bytes(content)
    (record,) = opened(folder).records()
    return record


def reason_of(folder: Path, content: bytes, name: str = "metadata.csv") -> str:
    record = record_of(folder, content, name)
    assert isinstance(record, Rejected)
    return record.reason


SAVED = {
    "utf-8-sig": 'file_name,caption\r\n1.jpg,"Größe, 5 €"\r\n',
    "utf-8": "file_name;caption;;\n1.jpg;Größe, 5 €;;\n",
    "utf-16": "file_name\tcaption\r\n1.jpg\tGröße, 5 €\r\n",
    "utf-16-le": '\ufefffile_name,caption\r1.jpg,"Größe, 5 €"\r',
}


@pytest.mark.parametrize("encoding", SAVED)
def test_a_table_is_read_as_spreadsheets_save_it(encoding, tmp_path):
    record = record_of(tmp_path, SAVED[encoding].encode(encoding))
    assert (record.id, record.caption) == ("1", "Größe, 5 €")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lines_and_texts_may_have_a_byte_order_mark(encoding, tmp_path):
    assert record_of(tmp_path, json.dumps(LINE).encode(encoding), "metadata.jsonl").caption == "A cat, on a mat."
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    assert record_of(tmp_path, "A cat, on a mat.".encode(encoding), "1.txt").caption == "A cat, on a mat."


@pytest.mark.parametrize("case", ["folder-csv-with-bom", "folder-csv-questions"])
def test_the_tables_of_two_users_are_read(case):
    (record,) = ImageSource(CASES / case).records()
    assert (record.id, record.caption) == ("1", "A cat.")
    if "questions" in case:
        rows, dropped = ImageSource(CASES / case).own_questions(record)
        assert not dropped and rows == [
            {"question": "What?", "choices": ["a cat", "a dog"], "answer": "a cat", "kind": "folder"}
        ]


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ("[{", "questions that are not JSON"),
        ("[" * 100_000, "questions that are not JSON"),
        ("7", "questions that are not a list"),
        ('{"question": "Is it?"}', "questions that are not a list"),
        ('["Is it?"]', "not a question with choices and answer"),
        ('[{"question": "Is it \\ud800?", "choices": ["a", "b"], "answer": "a"}]', "text that is not UTF-8"),
    ],
)
def test_questions_that_cannot_be_read_are_counted(questions, reason, tmp_path):
    cell = questions.replace('"', '""')
    record = record_of(tmp_path, f'file_name,caption,questions\n1.jpg,A cat.,"{cell}"\n'.encode())
    assert ImageSource(tmp_path).own_questions(record) == ([], {reason: 1})


def test_why_a_record_has_no_questions_is_said(tmp_path):
    own = rows()
    own[0]["questions"] = [{"question": "What?", "choices": ["a"], "answer": "a"}] * 2
    with_metadata(tmp_path / "own", own)
    rejected = pd.read_csv(run(tmp_path / "own", tmp_path, base_pairs=2).root / "data" / "rejected.csv")
    assert list(rejected["reason"]) == ["no questions: 2 dropped, fewer than two different choices"]


def test_a_folder_without_images_and_a_path_to_a_file_are_said(tmp_path):
    with pytest.raises(DataError, match=r"holds no images.*1 other files"):
        opened(tmp_path, CASES / "folder-prompts-alone")
    with pytest.raises(DataError, match=r"color\.txt: is a file; name its folder"):
        opened(tmp_path, CASES / "folder-prompts-alone" / "color.txt")
    with pytest.raises(DataError, match=r"/nowhere: is not there\. Correct data\.path"):
        opened(tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "found"),
    [("image,text\n1.jpg,a\n", "image"), ("file_name,prompt\n1.jpg,a\n", "prompt"), ("", r"\[\]")],
)
def test_a_table_with_other_columns_is_refused_once(content, found, tmp_path):
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=rf"metadata\.csv: its columns are .*{found}.*one must be called file_name"):
        list(opened(tmp_path).records())


def test_two_columns_of_one_name_are_refused_with_it(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,caption,Caption \n1.jpg,a,b\n")
    with pytest.raises(DataError, match=r"metadata\.csv: .*columns file_name, caption, caption two .*each column once"):
        list(opened(tmp_path).records())


def test_a_quote_that_is_not_closed_does_not_swallow_the_rest(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,caption\n1.jpg,"A cat\n2.jpg,A dog\n')
    with pytest.raises(DataError, match=r"metadata\.csv: cannot be read \(unexpected end of data\)"):
        list(opened(tmp_path).records())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("[1]", "JSON that is not an object"),
        ('{"caption": "a"}', "no file_name: its keys are caption"),
        ('{"file_name": ".", "caption": "a"}', "no file_name: its keys are file_name, caption"),
        ('{"file_name": "1.jpg", "caption": 3}', "a caption that is no text"),
        ('{"file_name": "1.jpg", "caption": ["a", 3]}', "a caption that is no text"),
        ('{"file_name": "1.jpg", "caption": "[\'a\', \'b\']"}', "a list of captions that is not JSON"),
        ('{"file_name": "1.jpg", "caption": "[\'a\' \'b\']"}', "a list of captions that is not JSON"),
    ],
)
def test_lines_that_are_no_records_are_set_aside(line, reason, tmp_path):
    assert reason_of(tmp_path, line.encode(), "metadata.jsonl") == reason


def test_a_comma_in_a_caption_without_quotes_does_not_cut_it(tmp_path):
    reason = reason_of(tmp_path, b"file_name,caption\n1.jpg,A cat, on a mat.\n")
    assert reason == "more cells than columns: put the caption in quotes"


def test_images_without_text_and_texts_without_image_are_set_aside(tmp_path):
    for name in ("1.jpg", "2.jpg", "3.gif"):
        (tmp_path / name).write_bytes(jpeg(1))
    (tmp_path / "1.txt").write_text("A cat.")
    (tmp_path / "4.txt").write_text("A dog.")
    records = list(opened(tmp_path).records())
    assert [record.reason for record in records if isinstance(record, Rejected)] == [
        "no caption: 2.txt is not there",
        "no caption: 3.txt is not there",
        "a text without its image",
    ]
    assert [record.caption for record in records if isinstance(record, Candidate)] == ["A cat."]


CAPTION_LISTS = [["A cat.", "A dog."], ["", "A cat."], ["A cat."]]


def with_lists(folder: Path, form: str, captions: list[str]) -> None:
    """One record with several captions."""
    (folder / "1.jpg").write_bytes(jpeg(1))
    if form == "csv":
        cell = json.dumps(captions).replace('"', '""')
        (folder / "metadata.csv").write_text(f'file_name,caption\n1.jpg,"{cell}"\n')
    elif form == "jsonl":
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.jpg", "captions": captions}))
    elif form == "tar":
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name, content in (("1.jpg", jpeg(1)), ("1.json", json.dumps({"caption": captions}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        pd.DataFrame({"image": [{"bytes": jpeg(1)}], "caption": [captions]}).to_parquet(folder / "0.parquet")


@pytest.mark.parametrize("form", ["csv", "jsonl", "tar", "parquet"])
@pytest.mark.parametrize("captions", CAPTION_LISTS)
def test_of_a_list_of_captions_the_first_is_taken_and_told(form, captions, tmp_path):
    with_lists(tmp_path, form, captions)
    source = opened(tmp_path)
    (record,) = source.records()
    assert record.caption == "A cat."
    assert record.changes == (("first of several captions",) if captions[0] and captions[1:] else ())
    assert dict(source.images(record.shard, {record.member})) == {record.member: jpeg(1)}


def test_two_images_of_one_name_are_two_images(tmp_path):
    """The store keeps images by their place, not by the record's id."""
    own = rows()
    own[1]["name"] = own[0]["name"]
    write_images(tmp_path / "own", own[2:])
    lines = [json_line(one) for one in own[2:]]
    for ending, one in (("jpg", own[0]), ("png", own[1])):
        (tmp_path / "own" / f"{one['name']}.{ending}").write_bytes(one["image"])
        lines.append(json.dumps({**json.loads(json_line(one)), "file_name": f"{one['name']}.{ending}"}))
    (tmp_path / "own" / "metadata.jsonl").write_text("\n".join(lines))
    layout = run(tmp_path / "own", tmp_path / "a", base_pairs=2)
    (tmp_path / "own" / "metadata.jsonl").write_text("\n".join(lines[:-1]))
    assert everything(layout) == everything(run(tmp_path / "own", tmp_path / "b", base_pairs=2))


def test_a_table_that_was_mended_gives_each_row_its_own_image(tmp_path):
    """A run that had too few pairs keeps the images it took; then a row is put before all others."""
    own = tmp_path / "own"
    own.mkdir()
    full = table(rows()).remove_columns("id")
    full.select(range(2, ENOUGH)).to_parquet(str(own / "0.parquet"))
    with pytest.raises(DataError, match="only 16 of the 17"):
        run(own, tmp_path / "a", base_pairs=2)
    full.to_parquet(str(own / "0.parquet"))
    found = [everything(run(own, tmp_path / name, base_pairs=2)) for name in ("a", "b")]
    assert found[0] == found[1] and len(found[0]) == 17


def test_a_table_whose_images_are_names_is_refused(tmp_path):
    pd.DataFrame({"image": ["1.jpg"], "caption": ["A cat."]}).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"column `image` holds .*string.*, not images"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["0.parquet", "state.json"])
def test_a_broken_table_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"its files cannot be read"):
        opened(tmp_path)


def test_samples_of_a_tar_are_all_told(tmp_path):
    """Hidden files are none."""
    names = ["./1.jpg", "./1.txt", "2.cls", "3.jpg", "3.png", "3.txt", "._4.jpg", "5.json", "5.jpg"]
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        for name in names:
            content = b"[]" if name.endswith("json") else b"A cat."
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    first, *others = opened(tmp_path).records()
    assert (first.id, first.caption, first.member) == ("1", "A cat.", "1.jpg")
    assert [(one.id, one.reason) for one in others] == [
        ("2", "no image in the sample"),
        ("3", "2 images in the sample"),
        ("5", "JSON that is not an object"),
    ]


@pytest.mark.parametrize("damage", ["header", "end"])
def test_a_tar_that_is_broken_between_two_files_is_named(damage, tmp_path):
    """tarfile takes a broken header for the end of the tar."""
    with_tars(tmp_path / "own", rows())
    path = tmp_path / "own" / "00000.tar"
    with tarfile.open(path) as tar:
        place = tar.getmembers()[4].offset
    content = path.read_bytes()
    path.write_bytes(content[:place] if damage == "end" else content[:place] + b"\1" * 512 + content[place + 512 :])
    with pytest.raises(DataError, match=r"00000\.tar: truncated"):
        run(tmp_path / "own", tmp_path)


ENCODINGS = {"utf-32": "", "utf-16-le": "", "utf-16-be": "", "utf-32-be": "", "utf-8-sig": "\ufeff"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "1.txt"])
def test_texts_of_other_encodings_are_read_and_never_with_zeros_between_their_letters(name, encoding, tmp_path):
    """With and without a byte order mark, and with two."""
    texts = {"metadata.csv": 'file_name,caption\n1.jpg,"A cat, on a mat."\n', "metadata.jsonl": json.dumps(LINE)}
    content = (ENCODINGS[encoding] + texts.get(name, "A cat, on a mat.")).encode(encoding)
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    if (name, encoding) == ("metadata.jsonl", "utf-8-sig"):
        return  # no program writes JSON with two marks
    assert record_of(tmp_path, content, name).caption == "A cat, on a mat."


def test_a_text_with_zeros_is_set_aside(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "1.txt").write_bytes(b"A cat\0 on a mat.")
    (record,) = readable(opened(tmp_path).records())
    assert isinstance(record, Rejected) and record.reason == "text that is not UTF-8"


ASKED = {"Question": "What?", "Choices": ["a cat", "a dog"], "ANSWER": "a cat"}


@pytest.mark.parametrize("form", ["csv", "jsonl", "tar", "parquet"])
def test_letter_case_and_spaces_of_names_do_not_matter(form, tmp_path):
    """A column `Questions` was dropped without a word, a key `Caption` was an empty caption."""
    row = {"Caption ": "A cat.", "Questions": [ASKED]}
    if form == "csv":
        cell = json.dumps([ASKED]).replace('"', '""')
        (tmp_path / "metadata.csv").write_text(f'File_Name, Caption,Questions\n1.jpg,A cat.,"{cell}"\n')
    elif form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"File_Name": "1.jpg", **row}))
    elif form == "tar":
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name, content in (("1.jpg", jpeg(1)), ("1.json", json.dumps(row).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        pd.DataFrame({"Image": [jpeg(1)], **{name: [value] for name, value in row.items()}}).to_parquet(
            tmp_path / "0.parquet"
        )
    source = opened(tmp_path)
    (record,) = source.records()
    assert record.caption == "A cat."
    assert source.own_questions(record) == ([{**QUESTIONS[0], "question": "What?", "kind": "folder"}], {})


def test_of_two_names_that_are_one_none_is_guessed(tmp_path):
    assert reason_of(tmp_path, b'{"file_name": "1.jpg", "caption": "a", "Caption": "b"}', "metadata.jsonl") == (
        "two keys are called caption"
    )
    (tmp_path / "table").mkdir()
    pd.DataFrame({"image": [jpeg(1)], "caption": ["a"], "Caption": ["b"]}).to_parquet(tmp_path / "table" / "0.parquet")
    with pytest.raises(DataError, match=r"two keys are called caption\. Rename one"):
        opened(tmp_path, tmp_path / "table")


def test_a_caption_under_another_name_is_not_an_empty_one(tmp_path):
    reason = reason_of(tmp_path, b'{"file_name": "1.jpg", "title": "A cat."}', "metadata.jsonl")
    assert reason == "no caption: its keys are file_name, title"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_where_one_caption_column_is_empty_the_other_is_read(form, tmp_path):
    if form == "csv":
        (tmp_path / "metadata.csv").write_text("file_name,caption,text\n1.jpg,,A cat.\n")
    elif form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.jpg", "caption": [], "text": "A cat."}')
    else:
        pd.DataFrame({"image": [jpeg(1)], "caption": [""], "text": ["A cat."]}).to_parquet(tmp_path / "0.parquet")
    (record,) = opened(tmp_path).records()
    assert record.caption == "A cat."


@pytest.mark.parametrize("name", ["train/metadata.csv", "Metadata.csv", "captions.csv", "metadata.tsv", "all.json"])
def test_a_list_of_captions_that_is_not_read_is_named(name, tmp_path):
    own = tmp_path / "own"
    (own / "train").mkdir(parents=True)
    (own / "train" / "1.jpg").write_bytes(jpeg(1))
    (own / name).write_text("file_name,caption\n1.jpg,A cat.\n")
    with pytest.raises(DataError, match=rf"no image has a text file beside it.*If {name} holds the captions"):
        opened(tmp_path, own)


def test_endings_in_capitals_and_accents_written_otherwise_are_found(tmp_path):
    (tmp_path / "1.JPG").write_bytes(jpeg(1))
    assert record_of(tmp_path, b"A cat.", "1.TXT").caption == "A cat."
    (tmp_path / "cafe\u0301.jpg").write_bytes(jpeg(2))
    assert dict(opened(tmp_path).images("", ["caf\u00e9.jpg"])) == {"caf\u00e9.jpg": jpeg(2)}


def test_blank_lines_do_not_shift_the_numbers_of_records(tmp_path):
    assert record_of(tmp_path, b"file_name,caption\n\n\n1.jpg,A, cat.\n").record == 4
