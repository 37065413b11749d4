"""The page of commands is what typer writes of them."""

from pathlib import Path

from typer.cli import app as typer_app
from typer.testing import CliRunner

PAGE = Path(__file__).parents[2] / "docs/reference/commands.md"
WRITE = ["meddiff.cli.app", "utils", "docs", "--name", "meddiff", "--title", "Commands"]


def test_the_page_of_commands_is_current() -> None:
    written = CliRunner().invoke(typer_app, WRITE, catch_exceptions=False).stdout
    remedy = f"Run: python -m typer {' '.join(WRITE)} --output docs/reference/commands.md"
    assert written.strip() == PAGE.read_text().strip(), remedy
    assert "## `meddiff init`" in written
    assert "### `meddiff catalog show`" in written
