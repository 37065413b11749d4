"""Intervals of mean scores and of the gain: a hierarchical bootstrap over cases and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meddiff.errors import MeddiffError

LEAST_SEEDS = 3  # for a verdict: one seed doesn't cover the luck of training at all, two hardly do


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval.

    Attributes:
        mean: over all defined (seed, case) values, each case weighing the same; NaN without any.
        lower, upper: bounds of the interval, in the unit of the values.
        confidence: nominal coverage, such as 0.95.
        cases: cases with at least one defined value.
        seeds: training seeds.
    """

    mean: float
    lower: float
    upper: float
    confidence: float
    cases: int
    seeds: int

    @property
    def decided(self) -> bool:
        """Whether the interval lies on one side of zero, and covers seeds enough for a verdict."""
        return self.seeds >= LEAST_SEEDS and (self.lower > 0 or self.upper < 0)


def mean_interval(
    values: NDArray[np.float64],
    groups: Sequence[str] = (),
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of `[S, C]` values of S seeds and C cases, both resampled.

    Each resample draws C cases (or as many whole patient groups as there are, so that images of one patient stay together)
    and S - 1 seeds (one of one), with replacement and crossed: a drawn seed is taken for all drawn cases. Two-factor
    ("pigeonhole") bootstrap, Owen 2007, doi:10.1214/07-AOAS122; S - 1 draws leave the variance over few seeds unbiased, Rao and
    Wu 1988, doi:10.1080/01621459.1988.10478591. In simulations of 60 cases a 95 % interval covered the truth in 94 to 98 % with
    3 seeds whose luck moves an arm's mean Dice by a standard deviation of up to 0.01, in 87 % at 0.02 (5 seeds: 92 %). With
    one seed the luck of training isn't covered at all.

    Args:
        values: `[S, C]` float64; NaN entries are left out.
        groups: patient of each of the C cases; empty for independent cases.
        resamples: bootstrap draws.
        confidence: nominal coverage in (0, 1).
        seed: of the draws.

    Raises:
        MeddiffError: no values, or a group list of another length.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not table.size or (groups and len(groups) != table.shape[1]):
        raise MeddiffError("bootstrap", f"values must be seeds x cases with a group for each case, found {table.shape} and "
                           f"{len(groups)} groups", "Check per_case.csv")
    defined = ~np.isnan(table)
    if not defined.any():
        return Interval(np.nan, np.nan, np.nan, confidence, 0, len(table))
    means = resampled_means(table, groups, resamples, seed)
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(table[defined].mean()), float(lower), float(upper), confidence, int(defined.any(0).sum()), len(table))


def resampled_means(values: NDArray[np.float64], groups: Sequence[str], resamples: int, seed: int) -> NDArray[np.float64]:
    """The means behind `mean_interval`, whose arguments these are: `[R]`, draws without any defined value left out."""
    table = np.asarray(values, np.float64)
    defined = ~np.isnan(table)
    sums, counts = np.where(defined, table, 0.0), defined.astype(np.float64)
    _, member = np.unique(np.asarray(groups) if groups else np.arange(table.shape[1]), return_inverse=True)
    cluster = np.eye(member.max() + 1)[member]  # [C, G]: sums over the cases of a group by one product
    sums, counts = sums @ cluster, counts @ cluster
    n_seeds, n_groups = sums.shape
    rng = np.random.default_rng(seed)
    seed_weights = rng.multinomial(max(1, n_seeds - 1), np.full(n_seeds, 1 / n_seeds), size=resamples)
    group_weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
    totals, sizes = (np.einsum("rs,sg,rg->r", seed_weights, part, group_weights, optimize=True) for part in (sums, counts))
    return np.asarray(totals[sizes > 0] / sizes[sizes > 0], np.float64)


def gain_interval(
    real: NDArray[np.float64],
    other: NDArray[np.float64],
    groups: Sequence[str] = (),
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`mean_interval` of the paired difference `other - real`, seed by seed and case by case.

    Args:
        real, other: `[S, C]` scores of two arms for the same seeds and cases in the same order; a pair with a NaN is left out.

    Raises:
        MeddiffError: the arms differ in shape.
    """
    if np.shape(real) != np.shape(other):
        raise MeddiffError("bootstrap", f"paired arms must share seeds and cases, found {np.shape(real)} and {np.shape(other)}",
                           "Train every arm with every seed")
    return mean_interval(np.asarray(other, np.float64) - np.asarray(real, np.float64), groups, resamples, confidence, seed)


def bootstrap_p(means: NDArray[np.float64]) -> float:
    """Two-sided p-value of "the mean is zero" from `[R]` resampled means: twice the share beyond zero, at least 2 / (R + 1).

    The level at which the percentile interval would just reach zero (Efron and Tibshirani 1993, 15.4), with one added to
    the count and to R, so that no test is surer than its draws (Davison and Hinkley 1997, 4.2.5).
    """
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(means)))


def memorisation(fidelity: Mapping[str, Any]) -> dict[str, float]:
    """How near the accepted lesions lie to the training lesions; nothing where that couldn't be measured.

    Args:
        fidelity: `filtering.fidelity.Fidelity.as_json`.
    """
    accepted, held_back = fidelity.get("sets", {}).get("accepted", {}), fidelity.get("n_reference", 0)
    copies, n = accepted.get("copies") or {}, accepted.get("n", 0)
    if copies.get("share") is None or not n or not held_back:
        return {}
    return {"memorised": copies["share"], "memorised_expected": copies["expected_share"],
            "memorised_p": nearer_p(round(copies["share"] * n), n, held_back)}


def nearer_p(nearer: int, samples: int, held_back: int) -> float:
    """How likely as many samples lie nearer to a training lesion than every held-back one does, if all are of one distribution.

    Then every order of samples and held-back lesions by their distance is equally likely, and the probability that the first
    `nearer` are all samples is C(samples, nearer) / C(samples + held_back, nearer): one-sided, exact (ours). A binomial test of
    the share 1 / (held_back + 1) would take the nearest held-back lesion for the true bound, and find copies among real lesions.
    """
    return float(np.prod([(samples - i) / (samples + held_back - i) for i in range(nearer)]))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979) of a family of p-values, in the order given; NaN stays and counts for nothing."""
    order = sorted((i for i, value in enumerate(p) if not np.isnan(value)), key=p.__getitem__)
    corrected, reached = [float("nan")] * len(p), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = reached
    return corrected
