"""The pages for readers: README short enough, links that lead somewhere, a glossary with one line a word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md"))
    if path.name != "answer.md"
)


def test_readme_fits_two_screens():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1100
    assert 6 <= len(re.findall(r'^ +\w+\["', text, re.MULTILINE)) <= 10  # nodes of the DAG


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_page_of_docs_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]
    names = [path.relative_to(ROOT / "docs").as_posix() for path in pages if path.name != "README.md"]
    assert [name for name in names if f"({name})" not in index] == []


def test_glossary_has_one_line_a_word_in_order():
    lines = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    words = [line.split("|")[1].strip().lower() for line in lines if line.startswith("| ")][1:]
    assert words == sorted(words) and len(words) == len(set(words)) > 40
