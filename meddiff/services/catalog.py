"""The catalogue of batches, samples, decisions and promotions in SQLite or PostgreSQL, the only module that imports sqlalchemy.

All but the promotions is derived: `rebuild` reads it from the files again at any time. Several projects may share a database;
each row carries its project (`project_name`). Writers may work in parallel: a rebuild first writes its project's row in
`meddiff_projects`, which makes other rebuilds of that project wait until it has committed.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import (
    DECISION_COLUMNS,
    SAMPLE_COLUMNS,
    VERDICTS,
    Counts,
    PromotionRecord,
    Records,
    SampleRecord,
    read_records,
)
from meddiff.params import Params

URL_VARIABLE = "MEDDIFF_CATALOG_URL"
UNDECIDED = "undecided"
STATUSES = (*VERDICTS, UNDECIDED)
SCORES = tuple(name for name in DECISION_COLUMNS if name not in SAMPLE_COLUMNS)
REBUILD = "Run `meddiff catalog rebuild`"


class Base(DeclarativeBase):
    """The tables, prefixed so that a database may be shared with other programs. Times are in UTC, without a zone."""


class Project(Base):
    """One project folder and when its files were last read."""

    __tablename__ = "meddiff_projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    rebuilt: Mapped[datetime | None] = mapped_column(sa.DateTime)


class Batch(Base):
    """A folder of samples and the verdict of its quality check."""

    __tablename__ = "meddiff_batches"
    project: Mapped[str] = mapped_column(sa.ForeignKey(Project.name), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    samples: Mapped[int]
    passed: Mapped[bool | None]
    reasons: Mapped[str]


class Sample(Base):
    """A generated pair and what it was made from. `generator` is the hash of fine-tuned pipeline and mask model together."""

    __tablename__ = "meddiff_samples"
    __table_args__ = (sa.ForeignKeyConstraint(["project", "batch"], ["meddiff_batches.project", "meddiff_batches.id"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    batch: Mapped[str]
    seed: Mapped[int] = mapped_column(sa.BigInteger)
    background: Mapped[str]
    area: Mapped[float]
    guidance_scale: Mapped[float]
    steps: Mapped[int]
    generator: Mapped[str] = mapped_column(index=True)


class Decision(Base):
    """The filter's scores and verdict on a sample."""

    __tablename__ = "meddiff_decisions"
    __table_args__ = (sa.ForeignKeyConstraint(["project", "id"], ["meddiff_samples.project", "meddiff_samples.id"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    similarity: Mapped[float | None]
    nearest: Mapped[str | None]
    agreement: Mapped[float | None]
    contrast: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]


class Promotion(Base):
    """One passing or refusal at the gate; not derivable from the project's files, so never deleted by a rebuild."""

    __tablename__ = "meddiff_promotions"
    number: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(sa.ForeignKey(Project.name), index=True)
    model: Mapped[str]
    version: Mapped[str]
    passed: Mapped[bool]
    reasons: Mapped[str]
    generator: Mapped[str]
    at: Mapped[datetime] = mapped_column(sa.DateTime)


def project_name(layout: Layout, params: Params) -> str:
    """Name that a project's rows carry: `catalog.project`, or that of its folder, also in a work tree below its `.work/`."""
    root = layout.root.resolve()
    return params.catalog.project or (root.parts[root.parts.index(".work") - 1] if ".work" in root.parts else root.name)


def rebuild(layout: Layout, params: Params) -> Counts:
    """Replace the project's batches, samples and decisions by what the files say, in one transaction; promotions stay.

    Raises:
        MeddiffError: a file is missing or doesn't fit the others, or the database fails; the old content is then kept.
    """
    project = project_name(layout, params)
    rows = _rows(read_records(layout.synthetic, layout.filtered), project)
    with _session(layout, params) as session:
        _claim(session, project, _now())
        for table in (Decision, Sample, Batch):
            session.execute(sa.delete(table).where(table.project == project))
        for kind, values in rows.items():
            if values:
                session.execute(sa.insert(kind), values)
        promotions = session.scalar(sa.select(sa.func.count()).select_from(Promotion).where(Promotion.project == project)) or 0
    return Counts(len(rows[Batch]), len(rows[Sample]), len(rows[Decision]), promotions)


def outdated(layout: Layout, params: Params) -> bool:
    """Whether the project's samples or decisions were written after they were last read in; False where they never were."""
    files = [*layout.synthetic.glob("*/batch.parquet"), layout.filtered / "decisions.parquet"]
    written = max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
    with _session(layout, params) as session:
        known = session.get(Project, project_name(layout, params))
        read = known.rebuilt if known else None
    return read is not None and datetime.fromtimestamp(written, UTC).replace(tzinfo=None) > read


def show(layout: Layout, params: Params, id: str) -> SampleRecord:
    """Everything known of one sample.

    Raises:
        MeddiffError: the catalogue doesn't hold it, or the database fails.
    """
    project = project_name(layout, params)
    with _session(layout, params) as session:
        row = session.execute(_query(project).where(Sample.id == id)).one_or_none()
        if row is None:
            raise MeddiffError(f"sample {id}", f"the catalogue holds no such sample of project {project}",
                               f"{REBUILD} if the files are newer, or mend the id")
        promotions = sa.select(Promotion).where(Promotion.project == project, Promotion.generator == row[0].generator)
        return _record(*row, promotions=[_promotion(each) for each in session.scalars(promotions.order_by(Promotion.number))])


def find(layout: Layout, params: Params, status: str | None = None, limit: int = 50) -> list[SampleRecord]:
    """Samples in the order of their ids, at most `limit`, without their promotions.

    Args:
        status: one of `STATUSES`; None for all.

    Raises:
        MeddiffError: an unknown status, a project that was never read in, or a database that fails.
    """
    if status is not None and status not in STATUSES:
        raise MeddiffError(f"status `{status}`", f"a status is one of {', '.join(STATUSES)}", "Choose one of them")
    project = project_name(layout, params)
    with _session(layout, params) as session:
        known = session.get(Project, project)
        if known is None or known.rebuilt is None:
            raise MeddiffError(f"project {project}", "its files were never read into the catalogue", REBUILD)
        query = _query(project).order_by(Sample.id).limit(limit)
        if status is not None:
            query = query.where(sa.func.coalesce(Decision.verdict, UNDECIDED) == status)
        return [_record(*row) for row in session.execute(query)]


def record_promotion(layout: Layout, params: Params, model: str, version: str, passed: bool, reasons: Sequence[str],
                     generator: str = "") -> PromotionRecord:
    """Keep one decision of the gate; `generator` is the model's hash as the samples carry it, where it is known."""
    project = project_name(layout, params)
    row = Promotion(project=project, model=model, version=version, passed=passed, reasons=json.dumps(list(reasons)),
                    generator=generator, at=_now())
    with _session(layout, params) as session:
        _claim(session, project)
        session.add(row)
        session.flush()
        return _promotion(row)


def _query(project: str) -> sa.Select[Sample, Batch, Decision]:
    return (sa.select(Sample, Batch, Decision)
            .join(Batch, (Batch.project == Sample.project) & (Batch.id == Sample.batch))
            .outerjoin(Decision, (Decision.project == Sample.project) & (Decision.id == Sample.id))
            .where(Sample.project == project))


def _record(sample: Sample, batch: Batch, decision: Decision | None,
            promotions: Sequence[PromotionRecord] = ()) -> SampleRecord:
    decision = decision or Decision(verdict=UNDECIDED, reason="the filter hasn't run")
    values = {name: getattr(sample, name) for name in SAMPLE_COLUMNS} | {name: getattr(decision, name) for name in SCORES}
    accepted = decision.verdict == "accepted"
    return SampleRecord(**values, batch_passed=batch.passed, batch_reasons=tuple(json.loads(batch.reasons)),
                        image=f"synthetic/{batch.id}/images/{sample.id}.png",
                        mask=f"synthetic/{batch.id}/masks/{sample.id}.png",
                        corroded=f"filtered/masks/{sample.id}.png" if accepted else None, promotions=tuple(promotions))


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _promotion(row: Promotion) -> PromotionRecord:
    reasons = tuple(json.loads(row.reasons))
    return PromotionRecord(row.model, row.version, row.passed, reasons, row.generator, row.at.replace(tzinfo=UTC))


def _rows(records: Records, project: str) -> dict[type[Base], list[dict[str, Any]]]:
    """Rows of the three derived tables, in the order of insertion; a score that isn't a number becomes NULL."""
    def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
        return [{"project": project} | row for row in table.astype(object).where(table.notna(), None).to_dict("records")]

    batches = [{"project": project, "id": str(batch), "samples": int(n), "reasons": json.dumps(records.reasons.get(batch, ())),
                "passed": not records.reasons[batch] if batch in records.reasons else None}
               for batch, n in records.samples.groupby("batch").size().items()]
    return {Batch: batches, Sample: plain(records.samples), Decision: plain(records.decisions[["id", *SCORES]])}


def _claim(session: Session, project: str, rebuilt: datetime | None = None) -> None:
    """Write the project's row first, so that another writer of the project waits here until this transaction ends."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(Project).values(name=project, rebuilt=rebuilt)
    session.execute(row.on_conflict_do_update(index_elements=[Project.name],
                                              set_={"rebuilt": sa.func.coalesce(row.excluded.rebuilt, Project.rebuilt)}))


@contextmanager
def _session(layout: Layout, params: Params) -> Iterator[Session]:
    """A session in one transaction: committed when the block succeeds, rolled back and told as a `MeddiffError` otherwise."""
    url = _url(layout, params)
    engine = None
    try:
        engine = _engine(url)
        _create_tables(engine)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as e:
        if isinstance(e, sa.exc.ProgrammingError) or " column " in _cause(e):
            raise MeddiffError(url, f"the tables must be those of this meddiff ({_cause(e)})",
                               f"Drop the tables named meddiff_*, then {REBUILD[0].lower()}{REBUILD[1:]}") from e
        raise MeddiffError(url, f"the catalogue's database must answer ({_cause(e)})",
                           f"Start it, or correct `catalog.url` or {URL_VARIABLE}") from e
    finally:
        if engine:
            engine.dispose()


def _url(layout: Layout, params: Params) -> sa.URL:
    text = os.environ.get(URL_VARIABLE) or params.catalog.url or f"sqlite:///{layout.work.resolve() / 'catalog.db'}"
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


def _create_tables(engine: sa.Engine) -> None:
    for attempt in (1, 2, 3):
        try:
            return Base.metadata.create_all(engine)
        except sa.exc.DBAPIError as e:
            # Another process may be creating the same tables; then they are there at the next look.
            if attempt == 3 or not (isinstance(e, sa.exc.ProgrammingError | sa.exc.IntegrityError) or "already exists" in str(e)):
                raise
    return None


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]
