"""What is written into the catalogue: executions as their stages finish, promotions, deliveries, and the files anew."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.orm import Session

from meddiff.layout import Layout
from meddiff.outputs.samples import DECISION_COLUMNS, SAMPLE_COLUMNS, Records, read_records
from meddiff.outputs.sources import Source, dataset_digest, list_origins, list_sources
from meddiff.params import Params
from meddiff.services.catalog.database import claim_project, open_session, project_name, utc_now
from meddiff.services.catalog.models import (
    FILES,
    Base,
    BatchEntry,
    CaseEntry,
    DecisionEntry,
    DeliveryEntry,
    ExecutionEntry,
    PromotionEntry,
    SampleEntry,
)
from meddiff.services.catalog.records import CatalogCounts, PromotionRecord

SCORES = tuple(name for name in DECISION_COLUMNS if name not in SAMPLE_COLUMNS)
RECORDED = ("prepare", "generate", "filter", "segment", "evaluate")  # stages after which there is something to write
_WITH_SAMPLES = ("generate", "filter")
_TOGETHER = 20_000  # rows in memory as the database takes them
_Tables = dict[type[Base], pd.DataFrame]


def record_stage(layout: Layout, params: Params, stage: str, execution: str, run: str = "", commit: str = "", generator: str = "",
                 segmenter: str = "") -> None:
    """Note an execution and the images of its dataset; after `generate` and `filter` also its samples and decisions.

    Args:
        stage: that has just finished, of `RECORDED`.
        execution: its name; the rows that it wrote before are replaced.
        run: of the execution in MLflow.
        commit: of the code.
        generator, segmenter: NAME/VERSION of what it registered or used, empty while there is none.

    Raises:
        MeddiffError: a table of the stages is wrong, or the database fails; the old content is then kept.
    """
    _write(layout, params, ExecutionEntry(id=execution, run=run, commit=commit, generator=generator, segmenter=segmenter),
           stage in _WITH_SAMPLES)


def rebuild(layout: Layout, params: Params) -> CatalogCounts:
    """Write down what the project's files say, in one transaction, in place of what an earlier rebuild did.

    Raises:
        MeddiffError: a file is missing or doesn't fit the others, or the database fails; the old content is then kept.
    """
    return _write(layout, params, ExecutionEntry(id=FILES, run="", commit="", generator="", segmenter=""), True)


def _write(layout: Layout, params: Params, own: ExecutionEntry, samples: bool) -> CatalogCounts:
    project, sources = project_name(layout, params), list_sources(layout)
    tables = _tables(layout, sources) if samples else {}
    own.project, own.dataset, own.at = project, dataset_digest(sources), utc_now()
    with open_session(layout, params) as session:
        claim_project(session, project, own.at if samples else None)
        _note(session, own)
        if own.dataset and not session.scalar(sa.select(CaseEntry.id).where(
                CaseEntry.project == project, CaseEntry.dataset == own.dataset).limit(1)):
            keys = {"project": project, "dataset": own.dataset}
            session.execute(sa.insert(CaseEntry), [keys | asdict(each) for each in sources])
        for table in (DecisionEntry, SampleEntry, BatchEntry) if samples else ():
            session.execute(sa.delete(table).where(table.project == project, table.execution == own.id))
        for kind, table in tables.items():
            for values in _rows(table, {"project": project, "execution": own.id}):
                session.execute(sa.insert(kind), values)
        promotions = session.scalar(sa.select(sa.func.count(PromotionEntry.number)).where(PromotionEntry.project == project)) or 0
    batches, made, decided = (len(tables.get(kind, ())) for kind in (BatchEntry, SampleEntry, DecisionEntry))
    return CatalogCounts(batches, made, decided, promotions)


def _note(session: Session, own: ExecutionEntry) -> None:
    """Write an execution's row; what is known of it already stays where nothing new is."""
    known = session.get(ExecutionEntry, (own.project, own.id))
    if known is None:
        session.add(own)
    else:
        for name in ("run", "commit", "generator", "segmenter", "dataset", "at"):
            setattr(known, name, getattr(own, name) or getattr(known, name))
    session.flush()


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
        return promotion_record(row)


def record_delivery(layout: Layout, params: Params, kind: str, name: str, place: str, generators: Sequence[str],
                    pairs: int) -> None:
    """Keep that pairs left the project, see `DeliveryRecord`."""
    project = project_name(layout, params)
    with open_session(layout, params) as session:
        claim_project(session, project)
        session.add(DeliveryEntry(project=project, kind=kind, name=name, place=place, generators=json.dumps(sorted(generators)),
                                  pairs=pairs, at=utc_now()))


def promotion_record(row: PromotionEntry) -> PromotionRecord:
    reasons = tuple(json.loads(row.reasons))
    return PromotionRecord(row.model, row.version, row.passed, reasons, row.generator, row.at.replace(tzinfo=UTC))


def _tables(layout: Layout, sources: Sequence[Source]) -> _Tables:
    """The three tables of samples, in the order of insertion."""
    records: Records = read_records(layout.synthetic, layout.filtered)
    origins, patients = list_origins(layout), {source.id: source.patient for source in sources}
    sizes = records.samples.groupby("batch").size()
    names = [str(batch) for batch in sizes.index]
    batches = pd.DataFrame({
        "id": names, "samples": sizes.to_numpy(), "reasons": [json.dumps(records.reasons.get(batch, ())) for batch in names],
        "passed": [not records.reasons[batch] if batch in records.reasons else None for batch in names]})
    source = [origins.get(background, (background, ""))[0] for background in records.samples["background"]]
    samples = records.samples.assign(source=source, patient=[patients.get(id, "") for id in source])
    return {BatchEntry: batches, SampleEntry: samples, DecisionEntry: records.decisions[["id", *SCORES]]}


def _rows(table: pd.DataFrame, keys: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Its rows, some at a time, with `keys` before them; a score that isn't a number becomes NULL."""
    for start in range(0, len(table), _TOGETHER):
        part = table.iloc[start:start + _TOGETHER].astype(object)
        yield [keys | row for row in part.where(part.notna(), None).to_dict("records")]
