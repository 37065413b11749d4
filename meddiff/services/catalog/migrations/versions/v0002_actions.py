"""The audit log, to which rows are only added."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SQLITE = """CREATE TRIGGER meddiff_actions_{event} BEFORE {event} ON meddiff_actions
BEGIN SELECT RAISE(ABORT, 'rows of the audit log stay as they are'); END"""
_FUNCTION = """CREATE FUNCTION meddiff_actions_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of the audit log stay as they are'; END $$"""
_POSTGRESQL = """CREATE TRIGGER meddiff_actions_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON meddiff_actions
FOR EACH STATEMENT EXECUTE FUNCTION meddiff_actions_stay()"""


def upgrade() -> None:
    op.create_table(
        "meddiff_actions",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("project", sa.String(), sa.ForeignKey("meddiff_projects.name"), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("person", "action", "subject", "reason", "before", "after")))
    op.create_index("ix_meddiff_actions_project", "meddiff_actions", ["project"])
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(_SQLITE.format(event=event))
    else:
        op.execute(_FUNCTION)
        op.execute(_POSTGRESQL)
