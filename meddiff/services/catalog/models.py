"""The tables, prefixed so that a database may be shared with other programs. Times are in UTC, without a zone.

A change here needs a migration: a file in `migrations/versions/` that brings the tables of the one before to this form.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

FILES = "files"
VERSION_TABLE = "meddiff_schema"  # alembic's, which holds the last migration that ran


class Base(DeclarativeBase):
    """What all tables share: the catalogue's metadata."""


class ProjectEntry(Base):
    """One project folder and when its files were last read."""

    __tablename__ = "meddiff_projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    rebuilt: Mapped[datetime | None] = mapped_column(sa.DateTime)


class ExecutionEntry(Base):
    """One execution of the pipeline. `FILES` is none: it stands for the files of the project as a rebuild read them.

    `run` is MLflow's, `commit` git's; `generator` and `segmenter` are NAME/VERSION in the registry; `dataset` names the images.
    """

    __tablename__ = "meddiff_executions"
    project: Mapped[str] = mapped_column(sa.ForeignKey(ProjectEntry.name), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str]
    commit: Mapped[str]
    generator: Mapped[str]
    segmenter: Mapped[str]
    dataset: Mapped[str] = mapped_column(index=True)
    at: Mapped[datetime] = mapped_column(sa.DateTime)


class CaseEntry(Base):
    """An image of a dataset, see `outputs.sources.Source`; `patient` is a salted hash."""

    __tablename__ = "meddiff_cases"
    project: Mapped[str] = mapped_column(sa.ForeignKey(ProjectEntry.name), primary_key=True)
    dataset: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str]
    labelled: Mapped[bool]
    patient: Mapped[str] = mapped_column(index=True)
    file: Mapped[str]


class BatchEntry(Base):
    """A folder of samples and the verdict of its quality check."""

    __tablename__ = "meddiff_batches"
    __table_args__ = (sa.ForeignKeyConstraint(["project", "execution"], ["meddiff_executions.project", "meddiff_executions.id"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    execution: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    samples: Mapped[int]
    passed: Mapped[bool | None]
    reasons: Mapped[str]


class SampleEntry(Base):
    """A generated pair and what it was made from. `generator` is the hash of fine-tuned pipeline and mask model together.

    `source` is the case that was painted into, `patient` whose it is, as a salted hash.
    """

    __tablename__ = "meddiff_samples"
    __table_args__ = (sa.ForeignKeyConstraint(["project", "execution", "batch"], [
        "meddiff_batches.project", "meddiff_batches.execution", "meddiff_batches.id"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    execution: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    batch: Mapped[str]
    seed: Mapped[int] = mapped_column(sa.BigInteger)
    background: Mapped[str]
    area: Mapped[float]
    guidance_scale: Mapped[float]
    steps: Mapped[int]
    generator: Mapped[str] = mapped_column(index=True)
    source: Mapped[str]
    patient: Mapped[str] = mapped_column(index=True)


class DecisionEntry(Base):
    """The filter's scores and verdict on a sample."""

    __tablename__ = "meddiff_decisions"
    __table_args__ = (sa.ForeignKeyConstraint(["project", "execution", "id"], [
        "meddiff_samples.project", "meddiff_samples.execution", "meddiff_samples.id"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    execution: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    similarity: Mapped[float | None]
    nearest: Mapped[str | None]
    agreement: Mapped[float | None]
    contrast: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]


class PromotionEntry(Base):
    """One passing or refusal at the gate; not derivable from the project's files, so never deleted by a rebuild."""

    __tablename__ = "meddiff_promotions"
    number: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(sa.ForeignKey(ProjectEntry.name), index=True)
    model: Mapped[str]
    version: Mapped[str]
    passed: Mapped[bool]
    reasons: Mapped[str]
    generator: Mapped[str]
    at: Mapped[datetime] = mapped_column(sa.DateTime)


class ActionEntry(Base):
    """What a person did that others rely on. Rows are only ever added: triggers of the database refuse anything else."""

    __tablename__ = "meddiff_actions"
    number: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(sa.ForeignKey(ProjectEntry.name), index=True)
    at: Mapped[datetime] = mapped_column(sa.DateTime)
    person: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    reason: Mapped[str]
    before: Mapped[str]
    after: Mapped[str]


class DeliveryEntry(Base):
    """Pairs that left the project: a release or an export, and where to. `generators` is a JSON list of those of its samples."""

    __tablename__ = "meddiff_deliveries"
    number: Mapped[int] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(sa.ForeignKey(ProjectEntry.name), index=True)
    kind: Mapped[str]
    name: Mapped[str]
    place: Mapped[str]
    generators: Mapped[str]
    pairs: Mapped[int]
    at: Mapped[datetime] = mapped_column(sa.DateTime)
