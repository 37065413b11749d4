"""The first tables; catalogues that are older than the migrations have them already."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meddiff_projects",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("rebuilt", sa.DateTime()),
        if_not_exists=True)
    op.create_table(
        "meddiff_batches",
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean()),
        sa.Column("reasons", sa.String(), nullable=False),
        if_not_exists=True)
    op.create_table(
        "meddiff_samples",
        sa.Column("project", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("batch", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("background", sa.String(), nullable=False),
        sa.Column("area", sa.Double(), nullable=False),
        sa.Column("guidance_scale", sa.Double(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("generator", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["project", "batch"], ["meddiff_batches.project", "meddiff_batches.id"]),
        if_not_exists=True)
    op.create_table(
        "meddiff_decisions",
        sa.Column("project", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("similarity", sa.Double()),
        sa.Column("nearest", sa.String()),
        sa.Column("agreement", sa.Double()),
        sa.Column("contrast", sa.Double()),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["project", "id"], ["meddiff_samples.project", "meddiff_samples.id"]),
        if_not_exists=True)
    op.create_table(
        "meddiff_promotions",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.String(), nullable=False),
        sa.Column("generator", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        if_not_exists=True)
    for table, column in (("samples", "generator"), ("decisions", "verdict"), ("promotions", "project")):
        op.create_index(f"ix_meddiff_{table}_{column}", f"meddiff_{table}", [column], if_not_exists=True)
