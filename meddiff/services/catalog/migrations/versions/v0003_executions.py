"""Executions, the images of datasets and deliveries; samples are keyed by execution. Those of before are the files' own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "meddiff_executions",
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("run", "commit", "generator", "segmenter", "dataset")),
        sa.Column("at", sa.DateTime(), nullable=False))
    op.create_index("ix_meddiff_executions_dataset", "meddiff_executions", ["dataset"])
    op.create_table(
        "meddiff_cases",
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), primary_key=True),
        sa.Column("dataset", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("labelled", sa.Boolean(), nullable=False),
        sa.Column("patient", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False))
    op.create_index("ix_meddiff_cases_patient", "meddiff_cases", ["patient"])
    op.create_table(
        "meddiff_deliveries",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "name", "place", "generators")),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False))
    op.create_index("ix_meddiff_deliveries_project", "meddiff_deliveries", ["project"])
    _key_by_execution()


def _key_by_execution() -> None:
    """No database changes a primary key in place alike: the tables are made anew, and their rows copied."""
    for table, column in (("samples", "generator"), ("decisions", "verdict")):
        op.drop_index(f"ix_meddiff_{table}_{column}", f"meddiff_{table}")
    for table in ("batches", "samples", "decisions"):
        op.rename_table(f"meddiff_{table}", f"meddiff_old_{table}")
    op.create_table(
        "meddiff_batches",
        *(sa.Column(name, sa.String(), primary_key=True) for name in ("project", "execution", "id")),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean()),
        sa.Column("reasons", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["project", "execution"], ["meddiff_executions.project", "meddiff_executions.id"]))
    op.create_table(
        "meddiff_samples",
        *(sa.Column(name, sa.String(), primary_key=True) for name in ("project", "execution", "id")),
        sa.Column("batch", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("background", sa.String(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("area", "guidance_scale")),
        sa.Column("steps", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("generator", "source", "patient")),
        sa.ForeignKeyConstraint(["project", "execution", "batch"], [
            "meddiff_batches.project", "meddiff_batches.execution", "meddiff_batches.id"]))
    op.create_table(
        "meddiff_decisions",
        *(sa.Column(name, sa.String(), primary_key=True) for name in ("project", "execution", "id")),
        sa.Column("similarity", sa.Double()),
        sa.Column("nearest", sa.String()),
        *(sa.Column(name, sa.Double()) for name in ("agreement", "contrast")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("verdict", "reason")),
        sa.ForeignKeyConstraint(["project", "execution", "id"], [
            "meddiff_samples.project", "meddiff_samples.execution", "meddiff_samples.id"]))
    for table, column in (("samples", "generator"), ("samples", "patient"), ("decisions", "verdict")):
        op.create_index(f"ix_meddiff_{table}_{column}", f"meddiff_{table}", [column])
    op.execute('INSERT INTO meddiff_executions (project, id, run, "commit", generator, segmenter, dataset, at) '
               "SELECT name, 'files', '', '', '', '', '', rebuilt FROM meddiff_projects WHERE rebuilt IS NOT NULL")
    op.execute("INSERT INTO meddiff_batches (project, execution, id, samples, passed, reasons) "
               "SELECT project, 'files', id, samples, passed, reasons FROM meddiff_old_batches")
    op.execute("INSERT INTO meddiff_samples (project, execution, id, batch, seed, background, area, guidance_scale, steps, "
               "generator, source, patient) SELECT project, 'files', id, batch, seed, background, area, guidance_scale, steps, "
               "generator, background, '' FROM meddiff_old_samples")
    scores = "id, similarity, nearest, agreement, contrast, verdict, reason"  # names of ours alone
    op.execute(f"INSERT INTO meddiff_decisions (project, execution, {scores}) SELECT project, 'files', {scores} "  # nosec B608
               "FROM meddiff_old_decisions")
    for table in ("decisions", "samples", "batches"):
        op.drop_table(f"meddiff_old_{table}")
