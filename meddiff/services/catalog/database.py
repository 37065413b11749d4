"""Opening the catalogue's database: its address, its tables in this version's form, and a session in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from meddiff.errors import MeddiffError, ServiceError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.catalog.models import VERSION_TABLE, ProjectEntry

URL_VARIABLE = "MEDDIFF_CATALOG_URL"
_ANOTHER = f"or name another database by `catalog.url` or {URL_VARIABLE}"
# Makes other processes that open the same old or empty database wait until its tables have their new form.
_LOCK = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7305467)"}


@contextmanager
def open_session(layout: Layout, params: Params) -> Iterator[Session]:
    """A session in one transaction: committed when the block succeeds, rolled back and told as a `MeddiffError` otherwise.

    The tables are made, or brought to this version's form with the rows they hold, before it begins.
    """
    url = _url(layout, params)
    engine = None
    try:
        engine = _engine(url)
        _migrate(engine)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as e:
        if isinstance(e, sa.exc.ProgrammingError) or " column " in _cause(e):
            raise MeddiffError(url, f"the tables must be as meddiff made them ({_cause(e)})", f"Restore them, {_ANOTHER}") from e
        raise ServiceError(url, f"the catalogue's database must answer ({_cause(e)})",
                           f"Start it, or correct `catalog.url` or {URL_VARIABLE}") from e
    finally:
        if engine:
            engine.dispose()


def check(layout: Layout, params: Params) -> str:
    """Open the database, and bring its tables to this version's form; its address, without a password.

    Raises:
        MeddiffError: see `open_session`.
    """
    with open_session(layout, params):
        return str(_url(layout, params).render_as_string(hide_password=True))


def reach_database(address: str, named: str) -> str:
    """Connect to a database that others keep their tables in; its address, without a password.

    Args:
        named: the settings that the address is from.

    Raises:
        MeddiffError: it is no address, or nothing answers there.
    """
    try:
        url = sa.make_url(address)
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect():
            return str(url.render_as_string(hide_password=True))
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as e:
        raise MeddiffError(address, f"the database must answer ({_cause(e)})", f"Start it, or correct {named}") from e


def _url(layout: Layout, params: Params) -> sa.URL:
    text = os.environ.get(URL_VARIABLE) or params.catalog.url or f"sqlite:///{layout.home / '.work/catalog.db'}"
    form = "a database URL has the form sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as e:
        raise MeddiffError(f"`catalog.url` or {URL_VARIABLE}", form, "Correct it") from e
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise MeddiffError(url, form, f"Correct `catalog.url` or {URL_VARIABLE}")
    return url


def _engine(url: sa.URL) -> sa.Engine:
    if url.drivername != "sqlite":
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 10})
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    return engine


def _migrate(engine: sa.Engine) -> None:
    """Run the migrations that the database hasn't seen, all in one transaction; alembic asks what it has seen once it is alone.

    Raises:
        MeddiffError: the database has seen a migration that this meddiff doesn't know.
    """
    config = Config()
    config.set_main_option("script_location", "meddiff.services.catalog:migrations")
    newest = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        seen = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        if seen == newest:
            return
        connection.exec_driver_sql(_LOCK[engine.dialect.name])
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as e:
            raise MeddiffError(engine.url, f"the catalogue must not be newer (schema {seen}) than this meddiff (schema {newest})",
                               f"Upgrade meddiff, {_ANOTHER}") from e


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def project_name(layout: Layout, params: Params) -> str:
    """Name that a project's rows carry: `catalog.project`, or that of its folder, also in a work tree below its `.work/`."""
    return params.catalog.project or layout.home.name


def claim_project(session: Session, project: str, rebuilt: datetime | None = None) -> None:
    """Write the project's row first, so that another writer of the project waits here until this transaction ends."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(ProjectEntry).values(name=project, rebuilt=rebuilt)
    session.execute(row.on_conflict_do_update(index_elements=[ProjectEntry.name],
                                              set_={"rebuilt": sa.func.coalesce(row.excluded.rebuilt, ProjectEntry.rebuilt)}))


def utc_now() -> datetime:
    """The time as the tables hold it: in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)
