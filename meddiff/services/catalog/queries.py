"""What is asked of the catalogue."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import MASKS, SAMPLE_COLUMNS, VERDICTS
from meddiff.outputs.sources import Source
from meddiff.outputs.tables import SAMPLES
from meddiff.params import Params
from meddiff.services.catalog.database import open_session, project_name
from meddiff.services.catalog.models import (
    BatchEntry,
    CaseEntry,
    DecisionEntry,
    DeliveryEntry,
    ExecutionEntry,
    ProjectEntry,
    PromotionEntry,
    SampleEntry,
)
from meddiff.services.catalog.records import (
    DeliveryRecord,
    ExecutionRecord,
    History,
    MadeRecord,
    PromotionRecord,
    SampleRecord,
)
from meddiff.services.catalog.writing import SCORES, promotion_record

REBUILD = "Run `meddiff catalog rebuild`"
STATUSES = (*VERDICTS, "undecided")


def outdated(layout: Layout, params: Params) -> bool:
    """Whether the project's samples or decisions were written after they were last read in; False where they never were."""
    files = [*layout.synthetic.glob("*/batch.parquet"), layout.filtered / "decisions.parquet"]
    written = max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
    with open_session(layout, params) as session:
        known = session.get(ProjectEntry, project_name(layout, params))
        read = known.rebuilt if known else None
    return read is not None and datetime.fromtimestamp(written, UTC).replace(tzinfo=None) > read


def show(layout: Layout, params: Params, id: str) -> SampleRecord:
    """Everything known of one sample; of several executions that made one of this id, the newest one's.

    Raises:
        MeddiffError: the catalogue doesn't hold it, or the database fails.
    """
    record = find_sample(layout, params, id)
    if record is None:
        raise MeddiffError(f"sample {id}", f"the catalogue holds no such sample of project {project_name(layout, params)}",
                           f"{REBUILD} if the files are newer, or mend the id")
    return record


def find_sample(layout: Layout, params: Params, id: str) -> SampleRecord | None:
    """The same, None for a sample that the catalogue doesn't hold."""
    project = project_name(layout, params)
    with open_session(layout, params) as session:
        of_id = _query(project).where(SampleEntry.id == id).order_by(ExecutionEntry.at.desc()).limit(1)
        row = session.execute(of_id).one_or_none()
        if row is None:
            return None
        query = sa.select(PromotionEntry).where(PromotionEntry.project == project, PromotionEntry.generator == row[0].generator)
        promotions = session.scalars(query.order_by(PromotionEntry.number))
        return _record(*row, promotions=[promotion_record(each) for each in promotions])


def find(layout: Layout, params: Params, status: str | None = None, limit: int = 50) -> list[SampleRecord]:
    """Samples of the newest execution that has any, in the order of their ids, at most `limit`, without their promotions.

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
        query = _query(project).where(SampleEntry.execution == _newest(session, project)).order_by(SampleEntry.id).limit(limit)
        if status is not None:
            query = query.where(sa.func.coalesce(DecisionEntry.verdict, "undecided") == status)
        return [_record(*row) for row in session.execute(query)]


def read_history(layout: Layout, params: Params) -> History:
    """All that lineage needs of a project but the samples themselves.

    Raises:
        MeddiffError: the database fails.
    """
    project = project_name(layout, params)
    with open_session(layout, params) as session:
        cases = defaultdict[str, list[Source]](list)
        images = sa.select(CaseEntry).where(CaseEntry.project == project).order_by(CaseEntry.part, CaseEntry.id)
        for row in session.scalars(images):
            cases[row.dataset].append(Source(row.id, row.part, row.labelled, row.patient, row.file))
        made = session.execute(
            sa.select(SampleEntry.execution, SampleEntry.generator, sa.func.count(),
                      sa.func.count(sa.case((DecisionEntry.verdict == "accepted", 1))))
            .outerjoin(DecisionEntry, _decided()).where(SampleEntry.project == project)
            .group_by(SampleEntry.execution, SampleEntry.generator))
        executions = session.scalars(sa.select(ExecutionEntry).where(ExecutionEntry.project == project)
                                     .order_by(ExecutionEntry.at.desc()))
        delivered = session.scalars(sa.select(DeliveryEntry).where(DeliveryEntry.project == project)
                                    .order_by(DeliveryEntry.number))
        return History(
            tuple(ExecutionRecord(row.id, row.run, row.commit, row.generator, row.segmenter, row.dataset,
                                  row.at.replace(tzinfo=UTC)) for row in executions),
            {dataset: tuple(sources) for dataset, sources in cases.items()},
            tuple(MadeRecord(*row) for row in made),
            tuple(DeliveryRecord(row.kind, row.name, row.place, tuple(json.loads(row.generators)), row.pairs,
                                 row.at.replace(tzinfo=UTC)) for row in delivered))


def painted_into(layout: Layout, params: Params, patient: str) -> list[tuple[str, str]]:
    """Execution and id of the samples that were painted into images of a patient, given by its hash."""
    query = sa.select(SampleEntry.execution, SampleEntry.id).where(
        SampleEntry.project == project_name(layout, params), SampleEntry.patient == patient).order_by(SampleEntry.id)
    with open_session(layout, params) as session:
        return [(execution, id) for execution, id in session.execute(query)]


def _newest(session: Session, project: str) -> str | None:
    """The newest execution that has samples."""
    return session.scalar(sa.select(ExecutionEntry.id).join(BatchEntry, (BatchEntry.project == ExecutionEntry.project)
                                                            & (BatchEntry.execution == ExecutionEntry.id))
                          .where(ExecutionEntry.project == project).order_by(ExecutionEntry.at.desc()).limit(1))


def _decided() -> sa.ColumnElement[bool]:
    return ((DecisionEntry.project == SampleEntry.project) & (DecisionEntry.execution == SampleEntry.execution)
            & (DecisionEntry.id == SampleEntry.id))


def _query(project: str) -> sa.Select[SampleEntry, BatchEntry, DecisionEntry, str]:
    return (sa.select(SampleEntry, BatchEntry, DecisionEntry, ExecutionEntry.generator)
            .join(BatchEntry, (BatchEntry.project == SampleEntry.project) & (BatchEntry.execution == SampleEntry.execution)
                  & (BatchEntry.id == SampleEntry.batch))
            .join(ExecutionEntry, (ExecutionEntry.project == SampleEntry.project) & (ExecutionEntry.id == SampleEntry.execution))
            .outerjoin(DecisionEntry, _decided())
            .where(SampleEntry.project == project))


def _record(sample: SampleEntry, batch: BatchEntry, decision: DecisionEntry | None, model: str,
            promotions: Sequence[PromotionRecord] = ()) -> SampleRecord:
    decision = decision or DecisionEntry(verdict="undecided", reason="the filter hasn't run")
    values = {name: getattr(sample, name) for name in (*SAMPLE_COLUMNS, "source", "patient", "execution")}
    values |= {name: getattr(decision, name) for name in SCORES} | {"model": model}
    accepted = decision.verdict == "accepted"
    return SampleRecord(**values, batch_passed=batch.passed, batch_reasons=tuple(json.loads(batch.reasons)),
                        pictures=f"synthetic/{batch.id}/{SAMPLES.name}", corroded=f"filtered/{MASKS}" if accepted else None,
                        promotions=tuple(promotions))
