"""Pages for people: templates filled with words, numbers and pictures.

A page's template lies beside the module that fills it (`evaluation/report.html.j2`); the frame of all pages, their parts and
their stylesheet lie here. A page is one file that loads nothing from elsewhere.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

Entry = str | Sequence[str]  # of a table; of several lines the first counts, the others stand small beneath


@dataclass(frozen=True)
class Picture:
    """One picture of a page.

    Attributes:
        name: file stem, such as `gain`; the page puts each into its section by it.
        png: the encoded file.
        caption: one sentence under it.
    """

    name: str
    png: bytes
    caption: str

    @property
    def uri(self) -> str:
        """The whole picture as an address."""
        return data_uri(self.png)


@dataclass(frozen=True)
class Table:
    """A table of a page; without rows nothing of it is shown.

    Attributes:
        heads: of the columns.
        rows: entries of each row.
        title: above it.
        note: below it.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    title: str = ""
    note: str = ""


def render(template: str, **values: Any) -> str:
    """Fill a template, given by its path below `meddiff/`; what is missing is an error, and HTML escapes every value."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parents[1]), undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True, keep_trailing_newline=True,
                        autoescape=select_autoescape(default=True, disabled_extensions=("md.j2",)))
    environment.globals["counted"] = counted
    return environment


def data_uri(picture: bytes, kind: str = "png") -> str:
    """An encoded picture as an address that holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; line breaks and bars inside of entries are replaced."""
    lines = [[" ".join(str(entry).split()).replace("|", "/") for entry in row] for row in [heads, *rows]]
    top, *others = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([top, "|---" * len(heads) + "|", *others])


def points(value: float) -> str:
    """A difference of Dice, 0 to 1, as signed points."""
    return signed(value * 100, 1)


def signed(value: float, digits: int) -> str:
    """A number with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def counted(n: int, thing: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"
