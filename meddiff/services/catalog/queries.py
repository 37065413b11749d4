"""What is written into the catalogue, and what is asked of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import DECISION_COLUMNS, SAMPLE_COLUMNS, VERDICTS, Records, read_records
from meddiff.params import Params
from meddiff.services.catalog.database import claim_project, open_session, project_name, utc_now
from meddiff.services.catalog.models import Base, BatchEntry, DecisionEntry, ProjectEntry, PromotionEntry, SampleEntry
from meddiff.services.catalog.records import CatalogCounts, PromotionRecord, SampleRecord

REBUILD = "Run `meddiff catalog rebuild`"
STATUSES = (*VERDICTS, "undecided")
_SCORES = tuple(name for name in DECISION_COLUMNS if name not in SAMPLE_COLUMNS)


def rebuild(layout: Layout, params: Params) -> CatalogCounts:
    """Replace the project's batches, samples and decisions by what the files say, in one transaction; promotions stay.

    Raises:
        MeddiffError: a file is missing or doesn't fit the others, or the database fails; the old content is then kept.
    """
    project = project_name(layout, params)
    rows = _rows(read_records(layout.synthetic, layout.filtered), project)
    with open_session(layout, params) as session:
        claim_project(session, project, utc_now())
        for table in (DecisionEntry, SampleEntry, BatchEntry):
            session.execute(sa.delete(table).where(table.project == project))
        for kind, values in rows.items():
            if values:
                session.execute(sa.insert(kind), values)
        promotions = session.scalar(sa.select(sa.func.count(PromotionEntry.number)).where(PromotionEntry.project == project)) or 0
    return CatalogCounts(len(rows[BatchEntry]), len(rows[SampleEntry]), len(rows[DecisionEntry]), promotions)


def outdated(layout: Layout, params: Params) -> bool:
    """Whether the project's samples or decisions were written after they were last read in; False where they never were."""
    files = [*layout.synthetic.glob("*/batch.parquet"), layout.filtered / "decisions.parquet"]
    written = max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
    with open_session(layout, params) as session:
        known = session.get(ProjectEntry, project_name(layout, params))
        read = known.rebuilt if known else None
    return read is not None and datetime.fromtimestamp(written, UTC).replace(tzinfo=None) > read


def show(layout: Layout, params: Params, id: str) -> SampleRecord:
    """Everything known of one sample.

    Raises:
        MeddiffError: the catalogue doesn't hold it, or the database fails.
    """
    project = project_name(layout, params)
    with open_session(layout, params) as session:
        row = session.execute(_query(project).where(SampleEntry.id == id)).one_or_none()
        if row is None:
            raise MeddiffError(f"sample {id}", f"the catalogue holds no such sample of project {project}",
                               f"{REBUILD} if the files are newer, or mend the id")
        query = sa.select(PromotionEntry).where(PromotionEntry.project == project, PromotionEntry.generator == row[0].generator)
        promotions = session.scalars(query.order_by(PromotionEntry.number))
        return _record(*row, promotions=[_promotion(each) for each in promotions])


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
    with open_session(layout, params) as session:
        known = session.get(ProjectEntry, project)
        if known is None or known.rebuilt is None:
            raise MeddiffError(f"project {project}", "its files were never read into the catalogue", REBUILD)
        query = _query(project).order_by(SampleEntry.id).limit(limit)
        if status is not None:
            query = query.where(sa.func.coalesce(DecisionEntry.verdict, "undecided") == status)
        return [_record(*row) for row in session.execute(query)]


def record_promotion(layout: Layout, params: Params, model: str, version: str, passed: bool, reasons: Sequence[str],
                     generator: str = "") -> PromotionRecord:
    """Keep one decision of the gate; `generator` is the model's hash as the samples carry it, where it is known."""
    project = project_name(layout, params)
    row = PromotionEntry(project=project, model=model, version=version, passed=passed, reasons=json.dumps(list(reasons)),
                       generator=generator, at=utc_now())
    with open_session(layout, params) as session:
        claim_project(session, project)
        session.add(row)
        session.flush()
        return _promotion(row)


def _query(project: str) -> sa.Select[SampleEntry, BatchEntry, DecisionEntry]:
    return (sa.select(SampleEntry, BatchEntry, DecisionEntry)
            .join(BatchEntry, (BatchEntry.project == SampleEntry.project) & (BatchEntry.id == SampleEntry.batch))
            .outerjoin(DecisionEntry, (DecisionEntry.project == SampleEntry.project) & (DecisionEntry.id == SampleEntry.id))
            .where(SampleEntry.project == project))


def _record(sample: SampleEntry, batch: BatchEntry, decision: DecisionEntry | None,
            promotions: Sequence[PromotionRecord] = ()) -> SampleRecord:
    decision = decision or DecisionEntry(verdict="undecided", reason="the filter hasn't run")
    values = {name: getattr(sample, name) for name in SAMPLE_COLUMNS} | {name: getattr(decision, name) for name in _SCORES}
    accepted = decision.verdict == "accepted"
    return SampleRecord(**values, batch_passed=batch.passed, batch_reasons=tuple(json.loads(batch.reasons)),
                        image=f"synthetic/{batch.id}/images/{sample.id}.png",
                        mask=f"synthetic/{batch.id}/masks/{sample.id}.png",
                        corroded=f"filtered/masks/{sample.id}.png" if accepted else None, promotions=tuple(promotions))


def _promotion(row: PromotionEntry) -> PromotionRecord:
    reasons = tuple(json.loads(row.reasons))
    return PromotionRecord(row.model, row.version, row.passed, reasons, row.generator, row.at.replace(tzinfo=UTC))


def _rows(records: Records, project: str) -> dict[type[Base], list[dict[str, Any]]]:
    """Rows of the three derived tables, in the order of insertion; a score that isn't a number becomes NULL."""
    def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
        return [{"project": project} | row for row in table.astype(object).where(table.notna(), None).to_dict("records")]

    batches = [{"project": project, "id": str(batch), "samples": int(n), "reasons": json.dumps(records.reasons.get(batch, ())),
                "passed": not records.reasons[batch] if batch in records.reasons else None}
               for batch, n in records.samples.groupby("batch").size().items()]
    return {BatchEntry: batches, SampleEntry: plain(records.samples), DecisionEntry: plain(records.decisions[["id", *_SCORES]])}
