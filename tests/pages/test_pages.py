"""What all pages share: no markup in Python, every value escaped, nothing from elsewhere, and templates that ship."""

import ast
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from meddiff.pages import Picture, Table, counted, data_uri, markdown_table, points, render

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "meddiff").rglob("*.j2"))
TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(\s[^<>]*)?/?>|<!doctype|</?[a-z][a-z0-9]*\s+[a-z-]+=", re.IGNORECASE)
ALLOWED = {"</w>"}  # the end of a word in a tokenizer's vocabulary


def tags(source: str) -> list[str]:
    """HTML tags in the text constants of Python, docstrings left out."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
             and id(node) not in docs]
    return [match.group() for text in texts for match in TAG.finditer(text) if match.group() not in ALLOWED]


@pytest.mark.parametrize("path", [*(ROOT / "meddiff").rglob("*.py"), *(ROOT / "flows").rglob("*.py")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_markup_is_put_together_in_python(path: Path) -> None:
    assert not tags(path.read_text())


@pytest.mark.parametrize("line", ['"<p>"', 'f"<b>{x}</b>"', 'f\'<i class="{x}">\'', '"a<br>b"', '"<!doctype html>"',
                                  '"<svg viewBox=0>"', 'f"<div style={x}>"'])
def test_markup_in_python_would_be_seen(line: str) -> None:
    assert tags(line.join(("x = ", ""))), line


def test_what_is_no_markup_is_let_be() -> None:
    assert not tags('"""Each `<mark>`."""\nx = "a < b", "-> c", "<|endoftext|>", letter + "</w>"\n')


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_escape_and_load_nothing(path: Path) -> None:
    text = path.read_text().replace('<script nonce="{{ nonce }}">', "")  # of a server's own pages
    assert not re.search(r"\|\s*safe|autoescape|Markup", text)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert path.name.endswith((".html.j2", ".md.j2"))  # by which it is known what is escaped


def test_templates_and_the_stylesheet_ship() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    for path in (*TEMPLATES, ROOT / "meddiff/pages/style.css"):
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path
        assert (path.parent / "__init__.py").is_file(), path
    assert [path.name for path in (ROOT / "meddiff").rglob("*.css")] == ["style.css"]


def test_parts_escape_every_text() -> None:
    evil = "<script>alert('x')</script>"
    page = render("experiments/benchmark/benchmark.html.j2", **page_of(evil))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == page.count("alert(") > 15
    assert "alert('" not in page


def page_of(text: str) -> dict[str, object]:
    """Values of the benchmark's page, which uses every part, with the same text wherever there is one."""
    table = Table([text], [[text], [[text, text]]], text, text)
    return {"facts": {"datasets": [text], "budget": text, "tolerance": text}, "subtitle": text, "tone": text, "verdicts": [text],
            "missing": [text], "dropped": [text], "rivals": [table], "arms": [table], "pairs": table, "sizes": [table],
            "detection": table, "gains": [table], "fidelity": table, "cost": table, "limits": [text],
            "pictures": {f"{text}-cases": Picture(text, b"png", text)}, "outlines": [(text, text)]}


def test_a_missing_value_is_an_error() -> None:
    values = page_of("a")
    del values["subtitle"]
    with pytest.raises(UndefinedError, match="subtitle"):
        render("experiments/benchmark/benchmark.html.j2", **values)


def test_a_table_without_rows_and_a_section_without_a_body_are_left_out() -> None:
    page = render("experiments/benchmark/benchmark.html.j2", **page_of("a") | {"detection": Table(["head"], [], "t", "n")})
    assert "Detection" not in page
    assert "Gain and number of annotated images" not in page  # without its picture
    assert "What it cost" in page


def test_an_entry_of_several_lines_has_the_others_beneath() -> None:
    page = render("experiments/benchmark/benchmark.html.j2", **page_of("a") | {"cost": Table(["h"], [["x", ["1", "2", "3"]]])})
    assert "<td>x</td><td>1<small>2</small><small>3</small></td>" in page


def test_markdown_tables_keep_their_columns() -> None:
    assert markdown_table(["a", "b"], [[1, "x | y\nz"], ["", None]]) == "| a | b |\n|---|---|\n| 1 | x / y z |\n|  | None |"
    assert markdown_table(["a"], []) == "| a |\n|---|"


def test_words_for_numbers() -> None:
    assert (points(-0.0214), points(0.03)) == ("−2.1", "+3.0")
    assert (counted(1, "seed"), counted(2, "seed")) == ("1 seed", "2 seeds")
    assert data_uri(b"ab", "jpeg") == "data:image/jpeg;base64,YWI="
