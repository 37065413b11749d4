"""Whether painted lesions give away which real ones were trained on: those are guessed that lie nearest to one. Ours."""

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
