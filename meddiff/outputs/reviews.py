"""What people decided on synthetic pairs: `reviews.csv` of a project, a row a pair, in the order of ids."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from filelock import FileLock

from meddiff.cases import Case, digest
from meddiff.errors import CONTROLS, MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import read_pair
from meddiff.outputs.tables import StageTable

ACCEPT, REJECT, OUTDATED = "accept", "reject", "outdated"


@dataclass(frozen=True)
class ReviewRow:
    """What a person decided on a synthetic pair.

    Attributes:
        decision: accept or reject.
        person: who decided.
        time: in UTC, ISO 8601.
        pair: `cases.digest` of the image and the mask that it was painted by: what is painted anew under the same id is another.
    """

    id: str
    decision: str
    person: str
    time: str
    pair: str


REVIEWS = StageTable("reviews.csv", ReviewRow, "filter", "the decisions of people")


def read_reviews(layout: Layout) -> dict[str, ReviewRow]:
    """The decisions by the ids of their pairs; none where nobody decided, or the file is missing.

    Raises:
        MeddiffError: the file doesn't decode, lacks a column, names a pair twice, or holds another word than accept and reject.
    """
    if not layout.reviews.is_file():
        return {}
    rows = REVIEWS.rows(layout.root)
    wrong = next((row for row in rows if row.decision not in (ACCEPT, REJECT) or not row.id), None)
    if wrong:
        raise MeddiffError(layout.reviews, f"a decision is {ACCEPT} or {REJECT}, not `{wrong.decision}` as for `{wrong.id}`",
                           "Mend the line (after a merge both sides' lines may stay), or bring the file back from git")
    found = {row.id: row for row in rows}
    if len(found) < len(rows):
        twice = next(row.id for row in rows if found[row.id] is not row)
        raise MeddiffError(layout.reviews, f"a pair has one decision, {twice} has several", "Leave the line that holds")
    return found


def decide_pair(layout: Layout, batch: str, id: str, decision: str, person: str) -> ReviewRow | None:
    """Keep a decision on a pair as it lies there now.

    Returns:
        The earlier one, whose place it takes.

    Raises:
        MeddiffError: a file of the pair is missing, or the earlier decisions can't be read.
    """
    name = " ".join(CONTROLS.sub(" ", person).split()) or "unknown"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return put_review(layout, id, ReviewRow(id, decision, name, now, _pair(layout, batch, id)))


def put_review(layout: Layout, id: str, row: ReviewRow | None) -> ReviewRow | None:
    """Put a decision back, or with None take that on a pair away: the file is then as if there had been none.

    Several people may do so at the same time; each reads and leaves a whole file.

    Returns:
        The decision that was there before.

    Raises:
        MeddiffError: as `read_reviews`.
    """
    layout.work.mkdir(exist_ok=True)
    with FileLock(layout.work / "reviews.lock"), TemporaryDirectory(dir=layout.work) as fresh:
        earlier = read_reviews(layout)
        rows: Mapping[str, ReviewRow | None] = {**earlier, id: row}
        REVIEWS.write(Path(fresh), (each for _, each in sorted(rows.items()) if each is not None))
        os.replace(Path(fresh) / REVIEWS.name, layout.reviews)
    return earlier.get(id)


def current_reviews(layout: Layout, samples: pd.DataFrame) -> dict[str, str]:
    """The decision on each pair: accept, reject, or outdated where it isn't there any more or was painted anew.

    Args:
        samples: id and batch of each.

    Raises:
        MeddiffError: as `read_reviews`, or a file of a pair is missing.
    """
    reviews = read_reviews(layout)
    batches = dict(zip(samples["id"], samples["batch"], strict=True)) if reviews else {}
    return {id: row.decision if id in batches and holds(layout, batches[id], row) else OUTDATED for id, row in reviews.items()}


def holds(layout: Layout, batch: str, row: ReviewRow) -> bool:
    """Whether a decision is on the pair that lies there now."""
    return _pair(layout, batch, row.id) == row.pair


def _pair(layout: Layout, batch: str, id: str) -> str:
    return digest([Case(id, *read_pair(layout.synthetic, batch, id))])
