"""The README and the pages: their length, their links, the files they name, and their language."""

from __future__ import annotations

import re

import pytest

from llmcli.docs import pages
from tests.support.manual import PAGES, README, ROOT, TEXTS, anchors, links, prose

# Phrases that a reader has to decode.
_PHRASES = (
    r"whoever|whomever|nobody|so many|(?:is|are|was|be) had|(?:is|are|be) told|lies|of its own|what is there"
    r"|goes on|go on|going on|gone on|as it stands|looks on"
)
# With British spellings.
IDIOMS = re.compile(
    rf"\b({_PHRASES}"
    r"|colour\w*|quantis\w*|normalis\w*|neighbour\w*|behaviour\w*|licence\w*|summaris\w*|recognis\w*)\b",
    re.IGNORECASE,
)
# "who" is for people, not for code.
PERSONS = re.compile(r"(?<!people )\bwhom?\b", re.IGNORECASE)
_PATH = re.compile(r"`((?:llmcli|tests|\.ci|\.github)/[\w./-]*[\w/-])`")


def test_every_page_is_a_topic() -> None:
    assert {path.stem for path in pages.FOLDER.glob("*.md")} == set(pages.TOPICS)
    assert len(set(pages.TOPICS)) == len(pages.TOPICS)


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 1300


@pytest.mark.parametrize("topic", pages.TOPICS)
def test_a_page_begins_with_its_title_and_one_line_about_it(topic: str) -> None:
    assert pages.page(topic).startswith("# ")
    summary = pages.summary(topic)
    assert "\n" not in summary
    assert 20 < len(summary) < 100
    assert summary.endswith(".")


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name: str) -> None:
    path = TEXTS[name]
    for link in links(path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_links_are_found() -> None:
    assert links("[a](b.md) `c`\n```\n[d](e.md)\n```\n![f](g.svg#h)") == ["b.md", "g.svg#h"]
    assert all(links(path.read_text()) for path in (README, PAGES["usage"], PAGES["inspect"]))


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_exist(name: str) -> None:
    for path in _PATH.findall(TEXTS[name].read_text()):
        assert (ROOT / path).exists(), path


def test_the_architecture_page_names_files() -> None:
    assert len(_PATH.findall(PAGES["architecture"].read_text())) > 40


@pytest.mark.parametrize("name", TEXTS)
def test_language_is_plain(name: str) -> None:
    text = prose(TEXTS[name].read_text())
    assert not [found[0] for found in IDIOMS.finditer(text)]
    assert not PERSONS.findall(text)


def test_the_language_of_the_code_is_plain() -> None:
    idioms = re.compile(rf"\b(?:{_PHRASES})\b", re.IGNORECASE)
    files = [path for path in (ROOT / "llmcli").rglob("*") if path.suffix in (".py", ".h", ".c")]
    assert len(files) > 300
    found = [(path.name, one[0]) for path in files for one in idioms.finditer(path.read_text())]
    # Sentences about facts.
    assert [one for one in found if one[0] != "paraphrases.py"] == []


def test_an_idiom_is_seen() -> None:
    assert IDIOMS.search(prose("The file lies there.\n```\nlies\n```\n`lies`"))
    assert not IDIOMS.search(prose("```\nlies\n```\nIt is in `lies`, and [here](lies.md)."))
