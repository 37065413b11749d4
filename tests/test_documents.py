"""The documents: what the README may be, that every link leads somewhere, and that every page is found from the README."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = ("docs", "infra", "benchmarks", "meddiff")
PAGES = sorted({README, *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))})
LINK = re.compile(r"(!?)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.M | re.S)
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


@cache
def prose(page: Path) -> str:
    return CODE.sub("", page.read_text())


def links(page: Path) -> Iterator[tuple[bool, Path, str]]:
    """Whether it is a picture, the file and the anchor of each link into the project."""
    for picture, target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield bool(picture), (page.parent / path).resolve() if path else page, anchor


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of the headings, as GitHub makes them."""
    fenceless = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                     for heading in re.findall(r"^#+ +(.+?) *$", fenceless, re.M))


def test_the_readme_is_short_with_one_table_of_results_and_two_pictures() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 160
    (table,) = TABLE.findall(text)
    assert "BUSI" in table
    assert "`combined`" in table
    assert sum(picture for picture, _, _ in links(README)) == 2
    assert all(command in text for command in ("make demo", "make test"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    missing = [f"{target}#{anchor}" for _, target, anchor in links(page)
               if not target.exists() or (anchor and anchor not in anchors(target))]
    assert not missing


def test_every_page_is_found_from_the_readme() -> None:
    seen, new = set(), {README}
    while new:
        seen |= new
        new = {target for page in new for _, target, _ in links(page) if target.suffix == ".md" and target.is_file()} - seen
    assert not set(PAGES) - seen
    pictures = {target for page in PAGES for picture, target, _ in links(page) if picture or target.suffix == ".jpg"}
    assert not set((ROOT / "docs/images").iterdir()) - pictures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"\b((?:meddiff|flows|infra|benchmarks|tests)/[a-z0-9_/]+\.(?:py|yaml|md))\b", page.read_text())
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_broken_links_would_be_seen() -> None:
    assert "2-lay-out-your-images" in anchors(ROOT / "docs/getting-started.md")
    assert LINK.findall("[a](b.md) ![c](d.png) [e [f]](g.md#h)") == [("", "b.md"), ("!", "d.png"), ("", "g.md#h")]
    assert len([link for page in PAGES for link in links(page)]) > 100
