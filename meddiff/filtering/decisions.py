"""Scores of synthetic samples against the real ones and an independent segmenter, and what is accepted by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from meddiff.cases import Pixels
from meddiff.filtering.duplicates import repeats
from meddiff.filtering.similarity import RealLesions
from meddiff.lesions.appearance import Scalars, erode
from meddiff.params import FilterParams
from meddiff.progress import Report, silent
from meddiff.segmentation.inspector import predicted
from meddiff.segmentation.metrics import class_dice
from meddiff.segmentation.segmenter import Segmenter

if TYPE_CHECKING:
    from meddiff.filtering.checks import BatchVerdict

_REASONS = ("implausible", "copy", "agreement", "contrast", "duplicate")


@dataclass(frozen=True, eq=False)
class Scores:
    """Measurements of N synthetic samples.

    Attributes:
        table: one row a sample: similarity (of its least plausible lesion, see `similarity.Measure.similarity`; 0 where the mask
            is empty), greatest (how sure it is a copy of a real lesion, see `similarity.Likeness`), nearest (id of the case it
            is most like), agreement (see there), contrast (see there), area (the mask's share of the image).
        identity: for each sample its lesions' `[l, 257]` float64, see `lesions.describe`.
    """

    table: pd.DataFrame
    identity: Sequence[Scalars]


def score(images: Pixels, masks: Pixels, real: RealLesions, segmenter: Segmenter) -> Scores:
    """Measure samples `[N, H, W, 3]` uint8 with their masks `[N, H, W]` of 0 to K.

    Args:
        segmenter: trained on real cases alone, so that it judges the samples independently of the generator.
    """
    likeness = real.compare(images, masks)
    table = pd.DataFrame({"similarity": likeness.least, "greatest": likeness.greatest, "nearest": likeness.nearest,
                          "agreement": agreement(images, masks, segmenter), "contrast": contrast(images, masks),
                          "area": (masks > 0).mean(axis=(1, 2))})
    return Scores(table, likeness.identity)


def fitted(pixels: Pixels, size: int) -> Pixels:
    """An image `[H, W, 3]` or a mask `[H, W]` at `size`×`size` pixels."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)


def agreement(images: Pixels, masks: Pixels, segmenter: Segmenter) -> Scalars:
    """Dice of each mask `[N, H, W]` and what a segmenter trained on `inspector.reduced` cases predicts; 0 where both are empty.

    Where the segmenter tells classes apart it is the mean over the classes that either shows.
    """
    classes = segmenter.architecture.classes
    return np.nan_to_num([class_dice(p, m, classes) for p, m in zip(predicted(images, segmenter), masks, strict=True)])


def contrast(images: Pixels, masks: Pixels) -> Scalars:
    """Absolute difference of mean gray between the rings inside and outside each mask's border (ours: 4 px wide at 128 px).

    Args:
        images: `[N, H, W, 3]` uint8 RGB.
        masks: `[N, H, W]` uint8 of 0 to K; the classes count as one.

    Returns:
        `[N]` in [0, 255]; 0 where either ring is empty.
    """
    inside, width = (masks > 0).astype(np.uint8), max(1, round(masks.shape[1] / 32))
    gray = images.sum(axis=3, dtype=np.uint16)
    levels = []
    for ring in (inside - erode(inside, width), (1 - erode(1 - inside, width)) - inside):
        n = ring.sum(axis=(1, 2), dtype=np.int64)
        levels.append(np.where(n > 0, (gray * ring).sum(axis=(1, 2), dtype=np.int64) / (3 * np.maximum(n, 1)), np.nan))
    return np.asarray(np.nan_to_num(np.abs(levels[0] - levels[1])))


def decide(scores: Scores, real: RealLesions, params: FilterParams, report: Report = silent) -> list[str]:
    """Reason of each rejection, one of `_REASONS` in that order of precedence, or an empty text for an accepted sample.

    Samples come in the order of their ids: of near-duplicates that pass every other rule, all but the first are rejected. A rule
    is off at its open bound: `similarity_low` 0, `agreement` 0, `min_contrast` 0; copies and duplicates by `keep_copies`.
    """
    table = scores.table
    rules = [table["similarity"] < params.similarity_low, table["greatest"] > copy_bound(params),
             table["agreement"] < params.agreement, table["contrast"] < params.min_contrast]
    reasons: list[str] = np.select(rules, _REASONS[:4], default="").tolist()
    passed = [i for i, reason in enumerate(reasons) if not reason]
    repeated = repeats([scores.identity[i] for i in passed], real.same_within(copy_bound(params)), report)
    for i, repeat in zip(passed, repeated, strict=True):
        reasons[i] = "duplicate" if repeat else ""
    return reasons


def copy_bound(params: FilterParams) -> float:
    """`Likeness.greatest` above which a sample is a copy; 1, which none reaches, where copies are kept."""
    return 1.0 if params.keep_copies else params.similarity_high


def settle(table: pd.DataFrame, verdicts: Sequence["BatchVerdict"]) -> pd.DataFrame:
    """`table` with `verdict` and `reason` of each sample: those on samples under those on batches.

    Args:
        table: one row a sample, with its batch and the `rule` that it broke, of `decide`.
    """
    failures = {verdict.batch: f"batch: {', '.join(verdict.failures)}" for verdict in verdicts if not verdict.passed}
    failed = table["batch"].map(failures).astype("str")
    verdict = np.where(failed.notna(), "quarantined", np.where(table["rule"] == "", "accepted", "rejected"))
    both = failed + table["rule"].map(lambda rule: f"; {rule}" if rule else "")
    return table.assign(verdict=verdict, reason=both.fillna(table["rule"]))


def count_decisions(decided: pd.DataFrame, real: RealLesions, params: FilterParams) -> dict[str, float]:
    """Numbers by which the filter is judged, from what `settle` returns.

    Shares by rule count the samples of quarantined batches too: a generator that copies must not hide behind a bad batch.
    """
    quarantined = decided["verdict"] == "quarantined"
    return {**{f"share_{reason}": float((decided["rule"] == reason).mean()) for reason in _REASONS},
            "share_quarantined": float(quarantined.mean()),
            "batches_quarantined": float(decided.loc[quarantined, "batch"].nunique()),
            "bound_similarity_low": params.similarity_low, "bound_similarity_high": copy_bound(params),
            "bound_agreement": params.agreement, "bound_contrast": params.min_contrast,
            "real_implausible": float((real.own < params.similarity_low).mean()),
            "real_copies": float((real.own_copies > copy_bound(params)).mean())}
