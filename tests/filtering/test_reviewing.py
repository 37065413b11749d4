"""People's decisions beside the filter's rules."""

import pandas as pd
import pytest

from meddiff.filtering.reviewing import Reviewed, count_reviews, heed_reviews
from meddiff.params import FilterParams

PARAMS = FilterParams(similarity_high=0.995)
TABLE = pd.DataFrame([("fine", "accepted", "", 0.5), ("odd", "rejected", "implausible", 0.5), ("copy", "rejected", "copy", 0.999),
                      ("both", "rejected", "implausible", 0.999), ("batch", "quarantined", "batch: mask size", 0.5)],
                     columns=["id", "verdict", "reason", "greatest"])


def heeded(**reviews: str) -> tuple[dict[str, tuple[str, str]], Reviewed]:
    """Verdict and reason of the samples that changed, and the counts."""
    table = heed_reviews(TABLE, reviews, PARAMS)
    rows = zip(TABLE.itertuples(), table.itertuples(), strict=True)
    changed = {new.id: (new.verdict, new.reason) for old, new in rows if old != new}
    return changed, count_reviews(table, reviews)


def test_without_decisions_nothing_changes() -> None:
    assert heed_reviews(TABLE, {}, PARAMS) is TABLE
    assert count_reviews(TABLE, {}) == Reviewed(0, 0, 0, 0, 0)
    assert (Reviewed(0, 0, 0, 0, 0).words, Reviewed(0, 0, 0, 0, 0).numbers()) == ([], {})


def test_a_person_removes_and_keeps() -> None:
    changed, counts = heeded(fine="reject", odd="accept")
    assert changed == {"fine": ("rejected", "person"), "odd": ("accepted", "person")}
    assert counts == Reviewed(kept=1, removed=1, agreed=0, refused=0, outdated=0)
    assert counts.numbers()["reviewed_kept"] == 1


@pytest.mark.parametrize("id", ["copy", "both", "batch"])
def test_no_near_copy_and_no_quarantined_sample_is_accepted_by_hand(id: str) -> None:
    """Whatever rule is told first: `both` is a copy, too."""
    changed, counts = heeded(**{id: "accept"})
    assert changed == {}
    assert counts == Reviewed(0, 0, 0, refused=1, outdated=0)


def test_who_agrees_changes_nothing_and_old_decisions_count_for_nothing() -> None:
    changed, counts = heeded(fine="accept", odd="reject", batch="reject", copy="outdated", gone="outdated")
    assert changed == {}
    assert counts == Reviewed(0, 0, agreed=3, refused=0, outdated=2)
    assert [line.split()[0] for line in counts.words] == ["3", "2"]
