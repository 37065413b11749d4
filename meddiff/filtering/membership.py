"""Whether painted lesions repeat the training lesions, and give away which real ones were trained on. Ours."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from meddiff.lesions.shapes import Floats

_NORMAL = 1.96  # standard errors on either side of a 95 % interval


@dataclass(frozen=True)
class Membership:
    """How well training lesions are told from held-back ones.

    Attributes:
        auc: how often a training lesion lies nearer to its nearest sample than a held-back one does; 0.5 is chance.
        lower, upper: its 95 % interval (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).
        members, others: training lesions and held-back ones.
    """

    auc: float
    lower: float
    upper: float
    members: int
    others: int


@dataclass(frozen=True)
class Copies:
    """How strange lesions are to the training lesions, by what tells the filter's copies (`Likeness.strangeness`).

    Attributes:
        share: of the samples less strange than every held-back real one is; NaN where there are none.
        expected_share: that of further real ones, 1 / (N + 1) with N held-back ones.
        bound: strangeness of the least strange held-back real one.
        median, held_back: median strangeness of the samples, and of the held-back real ones.
    """

    share: float
    expected_share: float
    bound: float
    median: float
    held_back: float


def copies(held_back: Floats, other: Floats) -> Copies:
    """How many of `[M]` lesions are less strange to the training lesions than each of `[N]` held-back ones is."""
    if not len(held_back) or not len(other):
        return Copies(math.nan, math.nan, math.nan, math.nan, math.nan)
    return Copies(float((other < held_back.min()).mean()), 1 / (len(held_back) + 1), float(held_back.min()),
                  float(np.median(other)), float(np.median(held_back)))


def infer_members(training: Mapping[str, Floats], held_back: Mapping[str, Floats], samples: Floats) -> Membership | None:
    """The test by features `[N, D]` of lesions; None where a side is empty.

    Args:
        training, held_back: `lesion` and `mirrored` (of the mirrored image): the nearer one counts, since training mirrors.
        samples: of the painted lesions.
    """
    if not all(map(len, (training["lesion"], held_back["lesion"], samples))):
        return None
    near = [np.minimum(*(cdist(real[name], samples).min(axis=1) for name in ("lesion", "mirrored")))
            for real in (training, held_back)]
    return separation(near[0], near[1])


def separation(members: Floats, others: Floats) -> Membership:
    """From the distances `[M]` of members and `[N]` of others to their nearest sample."""
    m, n = len(members), len(others)
    auc = float(((members[:, None] < others).sum() + 0.5 * (members[:, None] == others).sum()) / (m * n))
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = math.sqrt(max(0.0, auc * (1 - auc) + (m - 1) * (first - auc**2) + (n - 1) * (second - auc**2)) / (m * n))
    return Membership(auc, max(0.0, auc - _NORMAL * spread), min(1.0, auc + _NORMAL * spread), m, n)
