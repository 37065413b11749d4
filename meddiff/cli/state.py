"""Commands on a project's state: backup and restore."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meddiff.cli.project import project

if TYPE_CHECKING:
    from meddiff.services.backup import Contents


def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, best on another disk.")],
    releases: Annotated[Path | None, typer.Option(help="A folder of releases that shall be in it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier backup there.")] = False,
) -> None:
    """Save databases, models, results, DVC's cache and buckets, while the platform runs or stands still; needs no Docker."""
    from meddiff.services.backup import make_backup

    print(f"{folder}: {_told(make_backup(project()[0], folder, releases, force))}")
    print("it holds passwords and images of patients: keep it as safe as the project")


def restore(
    folder: Annotated[Path, typer.Argument(help="What `meddiff backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the state that the project has.")] = False,
) -> None:
    """Put a backup into a project whose platform stands still; hashes and the rows of every table are compared."""
    from meddiff.services.backup import restore_backup

    print(f"restored and compared: {_told(restore_backup(project()[0], folder, force))}")
    print("`dvc checkout` brings the outputs; the platform starts as ever")


def _told(contents: "Contents") -> str:
    rows = ", ".join(f"{name} {sum(tables.values())}" for name, tables in contents.rows.items())
    return f"{contents.files} files, {contents.bytes / 1e6:.1f} MB, of {contents.created}; rows: {rows or 'no database'}"
