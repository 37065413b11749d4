"""What people decided on samples, beside the rules: no near-copy is accepted by hand, and no sample of a quarantined batch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from meddiff.params import FilterParams

PERSON = "person"  # the reason of what a person decided otherwise than the rules


@dataclass(frozen=True)
class Reviewed:
    """How many samples people decided on, by what became of it.

    Attributes:
        kept: accepted by a person although a rule is against it.
        removed: rejected by a person although no rule is against it.
        agreed: the rules say the same.
        refused: accepted by a person, and yet not used: a near-copy of a real lesion, or of a quarantined batch.
        outdated: decisions on samples that are gone or were painted anew since; they count for nothing.
    """

    kept: int
    removed: int
    agreed: int
    refused: int
    outdated: int

    @property
    def words(self) -> list[str]:
        """One line each, without those of which there are none."""
        lines = ((self.kept, "kept by people although a rule is against them"), (self.removed, "removed by people"),
                 (self.agreed, "decided by people as by the rules"),
                 (self.refused, "accepted by people and yet left out: near-copies of real lesions, or of a quarantined batch"),
                 (self.outdated, "decisions of people not used: their pairs are gone or were painted anew; look at them again"))
        return [f"{n} {words}" for n, words in lines if n]

    def numbers(self) -> dict[str, float]:
        """For the tracker; nothing where nobody decided anything."""
        counts = asdict(self)
        return {f"reviewed_{name}": float(n) for name, n in counts.items()} if any(counts.values()) else {}


def heed_reviews(settled: pd.DataFrame, reviews: Mapping[str, str], params: FilterParams) -> pd.DataFrame:
    """What `decisions.settle` returns, with `verdict` and `reason` changed where a person's decision counts.

    Args:
        settled: one row a sample: id, verdict, reason, and `greatest`, by which it is a copy whatever its reason is.
        reviews: id -> accept, reject, or another word for a decision that doesn't count.
    """
    if not reviews:
        return settled
    given = settled["id"].map(dict(reviews))
    kept = (given == "accept") & (settled["verdict"] == "rejected") & (settled["greatest"] <= params.similarity_high)
    removed = (given == "reject") & (settled["verdict"] == "accepted")
    return settled.assign(verdict=settled["verdict"].mask(kept, "accepted").mask(removed, "rejected"),
                          reason=settled["reason"].mask(kept | removed, PERSON))


def count_reviews(heeded: pd.DataFrame, reviews: Mapping[str, str]) -> Reviewed:
    """Of what `heed_reviews` returns."""
    given, used = heeded["id"].map(dict(reviews)), heeded["verdict"] == "accepted"
    changed, accept, reject = heeded["reason"] == PERSON, given == "accept", given == "reject"
    kept, removed, agreed, refused = (int(part.sum()) for part in (
        changed & used, changed & ~used, ~changed & (accept & used | reject & ~used), accept & ~used))
    return Reviewed(kept, removed, agreed, refused, len(reviews) - kept - removed - agreed - refused)
