"""The README and the pages of the manual, taken apart: prose, reference tables, links, console examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmcli.docs import pages

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = {topic: pages.FOLDER / f"{topic}.md" for topic in pages.TOPICS}
TEXTS = {"README": README, **PAGES}
TOKEN_FIELDS = {"schema", "id", "text", "bytes", "prob"}
"""The fields of a token, and the name of the schema, which no table repeats."""

_ROW = re.compile(r"\| (`.+?)(?<!\\) \|")
_SCHEMA = re.compile(r"`(llmcli\.[a-z-]+/\d+)`")
_COMMAND = re.compile(r"`(llm [a-z]+(?: [a-z]+)?)(?: [A-Z]+)? --json`")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Example:
    """A command of a ```console block, and the output that the page shows for it."""

    where: str
    command: str
    output: str


def prose(text: str) -> str:
    """`text` without code blocks, code and the targets of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`|\]\([^)]*\)", "", text)


def entries(text: str) -> Iterator[list[str]]:
    """The reference entries of a page: of each table row that begins with a code-quoted name, the code in that cell."""
    for line in text.splitlines():
        row = _ROW.match(line)
        if row:
            yield _CODE.findall(row[1])


def json_tables() -> list[tuple[tuple[str, ...], set[str]]]:
    """The tables of the page on JSON: the schemas that the text above each names, and the fields in its first column.

    An output without a schema goes by its command, such as "llm list"; events and batches by the title of their
    section.
    """
    return [(schemas, _names(code for entry in entries(table) for code in entry)) for schemas, table in _json_tables()]


def json_fields() -> dict[str, set[str]]:
    """All fields that the tables name for each schema: in their first column, and in code in the meaning of a field."""
    found: dict[str, set[str]] = {}
    for schemas, table in _json_tables():
        for schema in schemas:
            found.setdefault(schema, set()).update(_names(_CODE.findall(table)))
    return found


def json_keys(schema: str, value: object) -> set[str]:
    """The names of all fields in an output, however deep.

    The page writes `files.*` for an object whose keys are data, such as names of files: these are no fields.
    """
    if isinstance(value, list):
        return set().union(*(json_keys(schema, part) for part in value))
    if not isinstance(value, dict):
        return set()
    by_data = _keyed_by_data(schema)
    parts = ([*part.values()] if name in by_data and isinstance(part, dict) else part for name, part in value.items())
    return set(value).union(*(json_keys(schema, part) for part in parts))


def undocumented(schema: str, value: object) -> set[str]:
    """The fields of an output that its tables do not name."""
    return json_keys(schema, value) - TOKEN_FIELDS - json_fields()[schema]


def absent(schema: str, value: object) -> set[str]:
    """The fields that an output's tables name and that it does not have."""
    named = set().union(*(names for schemas, names in json_tables() if schema in schemas))
    return named - json_keys(schema, value)


@cache
def _keyed_by_data(schema: str) -> set[str]:
    tables = [table for schemas, table in _json_tables() if schema in schemas]
    codes = [code for table in tables for entry in entries(table) for code in entry]
    return _names(code for code in codes if code.endswith(".*"))


def _json_tables() -> Iterator[tuple[tuple[str, ...], str]]:
    for section in pages.sections("json"):
        schemas: tuple[str, ...] = (section.title,)
        for paragraph in section.text.split("\n\n"):
            schemas = tuple(_SCHEMA.findall(paragraph) or _COMMAND.findall(paragraph)) or schemas
            if paragraph.startswith("|"):
                yield schemas, paragraph


def _names(codes: Iterable[str]) -> set[str]:
    """The names of fields in codes such as `a[].b`, of which the last part counts."""
    return {re.split(r"[. ]", code.replace("[]", "").removesuffix(".*"))[-1] for code in codes}


def links(text: str) -> list[str]:
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(text: str) -> set[str]:
    """What links can point to in a page: its headings, as repository browsers name them."""
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def examples(*, run: bool) -> list[Example]:
    """The console examples that a test runs, or those marked ```console not-run: slow, or specific to a machine."""
    opening = "```console" if run else "```console not-run"
    found: list[Example] = []
    for where, path in TEXTS.items():
        for block in re.findall(rf"^{opening}\n(.*?)^```$", path.read_text(), flags=re.DOTALL | re.MULTILINE):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append(Example(where, command, output))
    return found
