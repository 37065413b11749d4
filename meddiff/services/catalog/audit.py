"""The audit log: who promoted, withdrew, released, tuned or restored what, when and why."""

import getpass
import os
from datetime import UTC
from typing import Literal, get_args

import sqlalchemy as sa

from meddiff.errors import redacted
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.catalog.database import claim_project, open_session, project_name, utc_now
from meddiff.services.catalog.models import ActionEntry
from meddiff.services.catalog.records import ActionRecord

PERSON_VARIABLE = "MEDDIFF_PERSON"
Action = Literal["promoted", "refused", "rolled back", "withdrew", "released", "tuned", "backed up", "restored"]
ACTIONS: tuple[Action, ...] = get_args(Action)


def person_of(params: Params) -> str:
    """Who acts: MEDDIFF_PERSON in the environment, else `catalog.person`, else the account of this process."""
    return os.environ.get(PERSON_VARIABLE, "").strip() or params.catalog.person or _account()


def _account() -> str:
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        account = f"user {os.getuid()}"
    asked = os.environ.get("SUDO_USER", "")
    return f"{asked} as {account}" if asked and asked != account else account


def record_action(layout: Layout, params: Params, action: Action, subject: str, reason: str = "", before: str = "",
                  after: str = "", person: str = "") -> ActionRecord:
    """Add a row to the audit log; call it before the action takes effect, so that nothing happens unrecorded.

    Args:
        layout, params: the project.
        action: what is done.
        subject: to what.
        reason: why, in a person's words or the gate's; secrets in it are hidden.
        before, after: version or state that it changes.
        person: who does it; empty for `person_of` the settings.

    Raises:
        MeddiffError: the database fails; the action shouldn't take place then.
    """
    texts = {"person": person.strip() or person_of(params), "subject": subject, "reason": reason, "before": before,
             "after": after}
    row = ActionEntry(project=project_name(layout, params), at=utc_now(), action=action,
                      **{name: redacted(text) for name, text in texts.items()})
    with open_session(layout, params) as session:
        claim_project(session, row.project)
        session.add(row)
        session.flush()
        return _action(row)


def list_actions(layout: Layout, params: Params, subject: str = "", limit: int = 50,
                 everywhere: bool = False) -> list[ActionRecord]:
    """The last `limit` rows of the audit log, the oldest of them first.

    Args:
        layout, params: the project.
        subject: what the subject contains; empty for all.
        limit: rows at most.
        everywhere: those of all projects in the database.

    Raises:
        MeddiffError: the database fails.
    """
    query = sa.select(ActionEntry).order_by(ActionEntry.number.desc()).limit(limit)
    if subject:
        query = query.where(ActionEntry.subject.contains(subject, autoescape=True))
    if not everywhere:
        query = query.where(ActionEntry.project == project_name(layout, params))
    with open_session(layout, params) as session:
        return [_action(row) for row in session.scalars(query)][::-1]


def _action(row: ActionEntry) -> ActionRecord:
    return ActionRecord(row.project, row.at.replace(tzinfo=UTC), row.person, row.action, row.subject, row.reason, row.before,
                        row.after)
