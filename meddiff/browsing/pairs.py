"""Synthetic pairs as people see them: what the filter said of each, what a person decided, and its pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from meddiff.browsing.pictures import FINAL, INVENTED, outlined_png
from meddiff.cases import read_image, read_mask
from meddiff.errors import MeddiffError
from meddiff.evaluation.page import REASONS
from meddiff.layout import Layout
from meddiff.outputs.reviews import ACCEPT, REJECT, ReviewRow, holds, read_reviews
from meddiff.outputs.samples import final_mask, read_pair, read_records
from meddiff.outputs.tables import DECISIONS


@dataclass(frozen=True)
class PairView:
    """A synthetic pair.

    Attributes:
        background: id of the image that it was painted into.
        verdict: accepted, rejected, quarantined, or undecided before the filter ran; `reason` as in `decisions.parquet`.
        nearest: the real case whose lesion it is likest to, or empty.
        scores: names and values, as they are shown.
        review: a person's decision on the pair as it is now.
    """

    id: str
    batch: str
    background: str
    verdict: str = "undecided"
    reason: str = ""
    nearest: str = ""
    scores: tuple[tuple[str, str], ...] = ()
    review: ReviewRow | None = None

    @property
    def words(self) -> str:
        """What the filter said, in a sentence."""
        if self.verdict == "quarantined":
            return f"Its batch failed the quality check ({self.reason.removeprefix('batch: ')})"
        if self.verdict == "accepted":
            return "Kept by a person although a rule is against it" if self.reason else "Passes every rule of the filter"
        return REASONS.get(self.reason, self.reason).capitalize() if self.reason else "The filter hasn't run yet"

    @property
    def barred(self) -> str:
        """Why nobody can accept it by hand; empty where one can."""
        if self.verdict == "quarantined":
            return "The batch failed the quality check: its pairs can't be accepted by hand."
        return "A near-copy of a real lesion can't be accepted by hand." if self.reason == "copy" else ""

    @property
    def waits(self) -> bool:
        """Whether the filter has still to heed the person's decision."""
        decision = self.review.decision if self.review else ""
        return (decision == ACCEPT and self.verdict != "accepted" and not self.barred) or (
            decision == REJECT and self.verdict in ("accepted", "undecided"))


_SCORES = {"similarity": "{:.3f}", "agreement": "{:.2f}", "contrast": "{:.1f}", "area": "{:.1%}"}  # and how they are shown
# What can be looked at: its words, and which pairs belong to it.
SHOWS: dict[str, tuple[str, Callable[[PairView], bool]]] = {
    "all": ("All", lambda pair: True),
    "accepted": ("Accepted", lambda pair: pair.verdict == "accepted"),
    "rejected": ("Rejected", lambda pair: pair.verdict == "rejected"),
    "quarantined": ("Quarantined", lambda pair: pair.verdict == "quarantined"),
    "open": ("Not yet decided by a person", lambda pair: pair.review is None),
    "decided": ("Decided by people", lambda pair: pair.review is not None),
}
PICTURES = ("image", "masks", "background", "nearest")


def list_pairs(layout: Layout) -> list[PairView]:
    """All pairs in the order of their ids, as the files are now.

    Raises:
        MeddiffError: no sample is there, or tables can't be read.
    """
    reviews, stamp = read_reviews(layout), _stamp(layout)
    return [replace(view, review=row) if (row := reviews.get(view.id)) and _holds(layout, view.batch, row, stamp) else view
            for view in _undecided(layout, stamp)]


def pair_picture(layout: Layout, pair: PairView, kind: str, classes: int) -> bytes:
    """PNG of one of `PICTURES`: the image alone, with the outlines of its masks, what it was painted into, its nearest real case.

    Raises:
        MeddiffError: the file isn't there.
    """
    if kind == "background":
        return outlined_png(read_image(layout.backgrounds / "images" / f"{pair.background}.png"))
    if kind == "nearest":
        real = layout.cases("train")
        return outlined_png(read_image(real / "images" / f"{pair.nearest}.png"),
                            [(read_mask(real / "masks" / f"{pair.nearest}.png"), INVENTED)], classes)
    image, mask = read_pair(layout.synthetic, pair.batch, pair.id)
    if kind == "image":
        return outlined_png(image)
    used = [(read_mask(final_mask(layout.filtered, pair.id)), FINAL)] if pair.verdict == "accepted" else []
    return outlined_png(image, [(mask, INVENTED), *used] if classes == 1 else used or [(mask, INVENTED)], classes)


def find_pair(pairs: Sequence[PairView], id: str) -> PairView:
    """The pair of an id; raises a MeddiffError where there is none."""
    for pair in pairs:
        if pair.id == id:
            return pair
    raise MeddiffError(id, "there is no such pair", "Go back to the list")


def _stamp(layout: Layout) -> tuple[int, ...]:
    """Changes when samples or decisions are written anew: both folders are swapped in whole."""
    files = (layout.synthetic, *sorted(layout.synthetic.glob("*/batch.parquet")), layout.filtered / DECISIONS.name)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


@lru_cache(maxsize=2)
def _undecided(layout: Layout, stamp: tuple[int, ...]) -> list[PairView]:
    """All pairs, without people's decisions."""
    records = read_records(layout.synthetic, layout.filtered)
    decided = {row["id"]: row for row in records.decisions.to_dict("records")}
    views = []
    for sample in records.samples[["id", "batch", "background"]].to_dict("records"):
        row = decided.get(sample["id"], {})
        known = ((name, digits) for name, digits in _SCORES.items() if not math.isnan(row.get(name, math.nan)))
        scores = tuple((name, digits.format(row[name])) for name, digits in known)
        verdict, reason, nearest = (str(row.get(name, default)) for name, default in
                                    (("verdict", "undecided"), ("reason", ""), ("nearest", "")))
        views.append(PairView(sample["id"], sample["batch"], sample["background"], verdict, reason, nearest, scores))
    return views


@lru_cache(maxsize=20_000)
def _holds(layout: Layout, batch: str, row: ReviewRow, stamp: tuple[int, ...]) -> bool:
    return holds(layout, batch, row)
