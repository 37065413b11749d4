"""How far a benchmark's intervals can be trusted: coverage on simulated gains that vary as its own, and a t test over seeds.

    python benchmarks/intervals.py reports/benchmark/per_case.csv --arm combined --against real
"""

import argparse

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from meddiff.evaluation.bootstrap import holm, mean_interval
from meddiff.evaluation.summary import score_matrix, with_lesion
from meddiff.experiments.benchmark.significance import on_shared_seeds

Parts = tuple[float, float, float]


def variances(gains: NDArray[np.float64]) -> Parts:
    """Variance of a seed's luck, of a case's own gain, and of the rest, from `[S, C]` gains (two-way analysis of variance)."""
    n, m = gains.shape
    seeds, cases = gains.mean(1, keepdims=True), gains.mean(0, keepdims=True)
    rest = ((gains - seeds - cases + gains.mean()) ** 2).sum() / ((n - 1) * (m - 1))
    return max(0.0, seeds.var(ddof=1) - rest / m), max(0.0, cases.var(ddof=1) - rest / n), rest


def coverage(parts: Parts, seeds: int, cases: int, times: int = 400) -> float:
    """How often the 95 % interval of `seeds` x `cases` normal gains of mean zero holds zero."""
    rng, (luck, own, rest) = np.random.default_rng(0), np.sqrt(parts)
    drawn = (rng.normal(0, luck, (seeds, 1)) + rng.normal(0, own, (1, cases)) + rng.normal(0, rest, (seeds, cases))
             for _ in range(times))
    found = [mean_interval(gains, resamples=1000, seed=i) for i, gains in enumerate(drawn)]
    return float(np.mean([one.lower <= 0 <= one.upper for one in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("per_case")
    parser.add_argument("--arm", default="combined")
    parser.add_argument("--against", default="real")
    parser.add_argument("--budget", default="40")
    given = parser.parse_args()
    numbers = ("dice", "iou", "hd95", "nsd", "lesion_area")  # empty cells of which are NaN; an id may be `NA`
    table = with_lesion(pd.read_csv(given.per_case, dtype={"budget": str}, keep_default_na=False,
                                    na_values=dict.fromkeys(numbers, "")))
    by_seed = {}
    for dataset, part in table[table["budget"] == given.budget].groupby("dataset", sort=False):
        both = on_shared_seeds(part, given.arm, given.against)
        gains = score_matrix(both, given.arm, "dice") - score_matrix(both, given.against, "dice")
        parts = variances(gains)
        luck, own, rest = np.sqrt(parts)
        covered = ", ".join(f"{coverage(parts, n, gains.shape[1]):.0%} with {n} seeds" for n in (3, 5, 10))
        print(f"{dataset}: deviation of seeds {luck:.3f}, cases {own:.3f}, rest {rest:.3f}; coverage {covered}")
        by_seed[dataset] = gains.mean(1)
    p = [float(stats.ttest_1samp(gains, 0).pvalue) for gains in by_seed.values()]
    for (dataset, gains), raw, corrected in zip(by_seed.items(), p, holm(p), strict=True):
        mean, half = gains.mean(), stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
        print(f"{dataset}: t test over {len(gains)} seeds {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}), p {raw:.4f}, "
              f"after Holm {corrected:.4f}")


if __name__ == "__main__":
    main()
