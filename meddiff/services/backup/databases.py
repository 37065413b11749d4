"""Databases as files: consistent while others write, counted, and put back."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from meddiff.errors import MeddiffError
from meddiff.services.backup.team import TeamState, find_program

_TABLES = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' " \
          "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite file by SQLite itself: a state between two transactions, also while others write.

    Raises:
        MeddiffError: it is no database.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as old, \
                closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # all in one file
    except sqlite3.Error as e:
        raise MeddiffError(source, f"it must be a SQLite database ({e})", "Restore or remove it") from e


def count_sqlite(file: Path) -> dict[str, int]:
    """Table -> number of rows."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as database:
        return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # nosec B608: the database's own names
                for name in _tables(database)}


def count_postgres(state: TeamState, database: str) -> dict[str, int]:
    """Table -> number of rows."""
    with psycopg.connect(state.url(database, "postgresql")) as connection:
        return _count(connection)


def dump_postgres(state: TeamState, database: str, target: Path) -> dict[str, int]:
    """Write a database in PostgreSQL's own archive format, and count the rows of its tables at the same instant."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with psycopg.connect(state.url(database, "postgresql")) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        snapshot = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert snapshot
        _run(state, database, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot[0]}",
             f"--file={target}")
        return _count(connection)


def load_postgres(state: TeamState, database: str, source: Path) -> None:
    """Fill an empty database from such a file, in one transaction."""
    _run(state, database, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction",
         f"--dbname={database}", str(source))


def _count(connection: psycopg.Connection[TupleRow]) -> dict[str, int]:
    counts = {}
    for schema, name in connection.execute(_TABLES).fetchall():
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))).fetchone()
        counts[str(name)] = int(row[0]) if row else 0
    return counts


def _tables(database: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return [name for name, in database.execute(query)]


def _run(state: TeamState, database: str, program: str, *words: str) -> None:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run([find_program(program), *words], env=outer | state.connection(database), capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise MeddiffError(f"database {database}", f"{program} must succeed ({' '.join(done.stderr.split())[-300:]})",
                           "Mend what it names; the programs must be of the server's version or newer")
