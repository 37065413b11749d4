"""Scores, gains and detection of a benchmark with their intervals, and p-values corrected over datasets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff.evaluation.bootstrap import bootstrap_p, holm, mean_interval, resampled_means
from meddiff.evaluation.summary import (
    METRICS,
    SIZES,
    detect_lesions,
    mean_over_classes,
    score_matrix,
    with_lesion,
)
from meddiff.params import EvaluateParams
from meddiff.params.arms import BASELINE, rivals_of

AVERAGE = "average"  # of the datasets, in the place of a dataset's name
_KEY = ("dataset", "budget", "arm", "metric")
GAINS = ("dataset", "budget", "arm", "against", "metric", "mean", "lower", "upper", "p", "cases", "seeds", "p_holm")
_GAIN = {"mean": "gain", "lower": "gain_lower", "upper": "gain_upper"}


def scores(table: pd.DataFrame, settings: EvaluateParams) -> pd.DataFrame:
    """Mean of each metric with its interval.

    Args:
        table: the cells' `per_case.csv` under each other, with the columns dataset and budget.
        settings: resamples, confidence and seed of the bootstrap.

    Returns:
        One row a dataset, budget, arm and metric: mean, lower, upper, cases, seeds, and left_out, the undefined scores (case and
        seed) that the mean is without, such as HD95 of lesions that were missed. Only cases with a lesion count.
    """
    rows = []
    for (dataset, budget), part in _lesions(table).groupby(["dataset", "budget"], sort=False):
        for arm, own in part.groupby("arm", sort=False):
            for metric in METRICS:
                values = score_matrix(own, str(arm), metric)
                found = mean_interval(values, groups_of(own), settings.resamples, settings.confidence, settings.seed)
                rows.append({"dataset": dataset, "budget": budget, "arm": arm, "metric": metric, "mean": found.mean,
                             "lower": found.lower, "upper": found.upper, "cases": found.cases, "seeds": found.seeds,
                             "left_out": int(np.isnan(values).sum())})
    return pd.DataFrame(rows)


def by_size(table: pd.DataFrame, settings: EvaluateParams) -> pd.DataFrame:
    """`scores` of small, medium and large lesions, and the gain of Dice over `real` there.

    Returns:
        The rows of `scores` with the column `stratum`, and with `gain`, `gain_lower`, `gain_upper` where the metric is Dice.
    """
    found = []
    for size in SIZES:
        part = table[table["stratum"] == size]
        if len(part):
            over = gains(part, settings, ("dice",))
            over = over[over["against"] == BASELINE].rename(columns=_GAIN)[[*_KEY, *_GAIN.values()]]
            found.append(scores(part, settings).assign(stratum=size).merge(over, "left", list(_KEY)))
    return pd.concat(found, ignore_index=True)


def detection(table: pd.DataFrame, settings: EvaluateParams) -> pd.DataFrame:
    """How well each arm finds lesions, and finds none in lesion-free images.

    Returns:
        One row a dataset, budget and arm: specificity (share of the lesion-free images in which nothing was found) with lower and
        upper, free (such images), found (share of the lesions), lesions, false_positives (a test case with a lesion), seeds.
    """
    rows = []
    for (dataset, budget), part in table.groupby(["dataset", "budget"], sort=False):
        for arm, own in part.groupby("arm", sort=False):
            of = detect_lesions(own, settings)[str(arm)]
            rows.append({"dataset": dataset, "budget": budget, "arm": arm, "specificity": of.specificity.mean,
                         "lower": of.specificity.lower, "upper": of.specificity.upper, "free": of.specificity.cases,
                         "found": of.lesions_found, "lesions": of.lesions, "false_positives": of.false_positives,
                         "seeds": own["seed"].nunique()})
    return pd.DataFrame(rows)


def gains(table: pd.DataFrame, settings: EvaluateParams, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Paired differences between arms, with intervals, p-values and Holm's correction over the datasets.

    Each arm is held against `real`, and the methods against their rivals (`rivals_of`) too, on the seeds that both have. The
    bootstrap draws cases (patients) and seeds; since a seed stands for its own choice of annotated cases, its own generator and
    its own segmenters, the interval covers them all. The row `average` is the mean over the datasets that have
    the comparison, their draws independent; it is one test, so its p is not corrected.

    Args:
        table, settings: see `scores`.
        metrics: of what. A case in which a score of either arm is undefined is left out of the difference.

    Returns:
        One row a dataset, budget, arm, rival and metric: mean, lower, upper (in the metric's unit: Dice 0 to 1, HD95 pixels, of
        which less is better), p, p_holm, cases, seeds. Comparisons without any case are left out;
        without any comparison there is no row, but each column.
    """
    found: dict[tuple[Any, str, str, str], dict[str, tuple[dict[str, Any], NDArray[np.float64]]]] = {}
    for (dataset, budget), part in _lesions(table).groupby(["dataset", "budget"], sort=False):
        for arm, against in _pairs(list(dict.fromkeys(part["arm"]))):
            for metric in metrics:
                row, means = _gain(part, arm, against, metric, settings)
                if row["cases"]:
                    found.setdefault((budget, arm, against, metric), {})[str(dataset)] = (row, means)
    rows = []
    for (budget, arm, against, metric), of in found.items():
        corrected = holm([row["p"] for row, _ in of.values()])
        key = {"budget": budget, "arm": arm, "against": against, "metric": metric}
        rows += [{"dataset": dataset, **key, **row, "p_holm": p}
                 for (dataset, (row, _)), p in zip(of.items(), corrected, strict=True)]
        if len(of) > 1:
            rows.append({"dataset": AVERAGE, **key, **_average(list(of.values()), settings)})
    return pd.DataFrame(rows, columns=list(GAINS))


def groups_of(table: pd.DataFrame) -> list[str]:
    """Patient of each case, in the order of `score_matrix`; a case without a known one is a patient of its own."""
    first = table.drop_duplicates("case")
    return list(first["group"].replace("", np.nan).fillna("case " + first["case"].astype(str)).astype(str))


def on_shared_seeds(table: pd.DataFrame, arm: str, against: str) -> pd.DataFrame:
    """The rows of two arms, of the seeds that both have."""
    both = table[table["arm"].isin([arm, against])]
    seeds = set.intersection(*(set(both.loc[both["arm"] == one, "seed"]) for one in (arm, against)))
    return both[both["seed"].isin(seeds)]


def _lesions(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of cases with a lesion, each metric averaged over classes."""
    parts = [mean_over_classes(part).assign(dataset=dataset, budget=budget)
             for (dataset, budget), part in with_lesion(table).groupby(["dataset", "budget"], sort=False)]
    return pd.concat(parts, ignore_index=True)


def _pairs(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    if BASELINE in arms:
        yield from ((arm, BASELINE) for arm in arms if arm != BASELINE)
    for arm, rivals in rivals_of().items():
        if arm in arms:
            yield from ((arm, rival) for rival in rivals if rival in arms)


def _gain(part: pd.DataFrame, arm: str, against: str, metric: str,
          settings: EvaluateParams) -> tuple[dict[str, Any], NDArray[np.float64]]:
    both = on_shared_seeds(part, arm, against)
    delta = score_matrix(both, arm, metric) - score_matrix(both, against, metric) if len(both) else np.empty((0, 0))
    if np.isnan(delta).all():
        return {"cases": 0}, np.empty(0)
    whole = mean_interval(delta, groups_of(both), settings.resamples, settings.confidence, settings.seed)
    means = resampled_means(delta, groups_of(both), settings.resamples, settings.seed)
    return {"mean": whole.mean, "lower": whole.lower, "upper": whole.upper, "p": bootstrap_p(means), "cases": whole.cases,
            "seeds": whole.seeds}, means


def _average(of: Sequence[tuple[Mapping[str, Any], NDArray[np.float64]]], settings: EvaluateParams) -> dict[str, Any]:
    rng = np.random.default_rng(settings.seed)  # the same seed drew all of them: shuffled, they are independent
    draws = min(len(means) for _, means in of)
    means = np.mean([rng.permutation(means)[:draws] for _, means in of], axis=0)
    tail = (1 - settings.confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    p = bootstrap_p(means)
    return {"mean": float(np.mean([row["mean"] for row, _ in of])), "lower": float(lower), "upper": float(upper), "p": p,
            "p_holm": p, "cases": sum(row["cases"] for row, _ in of), "seeds": min(row["seeds"] for row, _ in of)}
