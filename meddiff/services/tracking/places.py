"""Where files of runs lie beside a SQLite database: MLflow notes whole paths, which a moved or copied project leaves behind."""

import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

_FOLDER = "mlartifacts"
_NOTED = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
          ("model_versions", "source"), ("model_versions", "storage_location"))


def files_beside(database: Path) -> Path:
    """The folder of the files of the runs in a database."""
    return database.resolve().parent / _FOLDER


def settle_files(database: Path) -> None:
    """Let a database that was moved or copied with its files name those beside it, and say so; nothing is done otherwise.

    Else the copy of a project would write into the folder of the first, and a moved one would not find its champion.
    Files that didn't come along keep their place; new ones go beside the database.
    """
    here = files_beside(database)
    # What is no database, or can't be written, MLflow tells in its own words.
    address = f"{database.resolve().as_uri()}?mode=rw"
    with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in known:
            return
        noted = {str(row[0]) for row in connection.execute("SELECT DISTINCT artifact_location FROM experiments")}
        for old in sorted(place for place in noted if place.startswith("file:") and place.endswith(f"/{_FOLDER}")):
            if old == here.as_uri():
                continue
            for table, column in _NOTED if here.is_dir() else _NOTED[:1]:
                if table in known:  # names from `_NOTED` alone
                    connection.execute(f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ? "  # nosec B608
                                       f"AND substr({column}, ?, 1) IN ('', '/')",
                                       (here.as_uri(), len(old) + 1, len(old), old, len(old) + 1))
            print(f"MLflow: the project was moved or copied; the files of its runs are in {here}, no more in {old}",
                  file=sys.stderr)
