"""Write the tables of the documentation from the tables in benchmarks/results, and check the numbers in its sentences.

    python benchmarks/pages/write.py

A table of a page stands between `<!-- table: NAME -->` and `<!-- end of table -->`: `tables.py` has a function for each
name. Sentences with numbers from a table are in `sentences.py`: the page must have them as they are written there.
Status 1 if a sentence is not in its page, or if a page has a number that neither file knows. The pages in `REPEATED`
may also repeat, in their sentences, the numbers of the tables in the same section.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sentences import GIVEN, REPEATED, sentences
from tables import TABLES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)
CODE = re.compile(r"^```.*?^```$|^(?: {4}[^\n]*\n)+|`[^`\n]+`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
SECTION = re.compile(r"^(?=##+ )", re.MULTILINE)
MEASURED = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+| %|%)(?!\w)")  # a number that looks like a measurement


def pages() -> dict[str, str]:
    """The text of each page that has tables or sentences with numbers."""
    found = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "benchmarks").rglob("*.md")]:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("docs/api/generated", "benchmarks/.")):
            text = path.read_text()
            if BLOCK.search(text) or name in sentences():
                found[name] = text
    return found


def with_tables(text: str) -> str:
    """The text of a page with its tables written anew."""
    return BLOCK.sub(lambda block: f"<!-- table: {block[1]} -->\n\n{TABLES[block[1]]()}\n\n<!-- end of table -->", text)


def plain(text: str) -> str:
    """The words of a text, without emphasis and with single spaces."""
    return " ".join(text.replace("**", "").split())


def faults(name: str, text: str) -> list[str]:
    """What is wrong with the numbers in the sentences of a page."""
    known = sentences().get(name)
    if known is None:
        return []
    words = plain(BLOCK.sub("", text))
    found = [f"{name} should say: {sentence}" for sentence in known if plain(sentence) not in words]
    for section in SECTION.split(text):
        tables = " ".join(block[0] for block in BLOCK.finditer(section))
        repeated = set(MEASURED.findall(tables)) if name in REPEATED else set()
        rest = plain(CODE.sub("", BLOCK.sub("", section)))
        for sentence in [*known, *GIVEN.get(name, ())]:
            rest = rest.replace(plain(CODE.sub("", sentence)), "")
        for number in MEASURED.finditer(rest):
            if number[0] not in repeated:
                around = rest[max(0, number.start() - 50) : number.end() + 30]
                found.append(f"{name} has a number that no table gives: ... {around} ...")
    return found


def main() -> int:
    """Write the tables, and report what is wrong."""
    wrong = []
    for name, text in pages().items():
        written = with_tables(text)
        if written != text:
            (ROOT / name).write_text(written)
            print(f"Wrote the tables of {name}.")
        wrong += faults(name, written)
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
