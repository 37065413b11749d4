"""The numbers of an evaluation: mean scores by arm and by lesion size, the gain, and what the synthetic data were like."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import Interval, gain_interval, mean_interval
from meddiff.evaluation.quality import Quality
from meddiff.params import EvaluateParams
from meddiff.params.arms import BASELINE, TREATED

METRICS = ("dice", "iou", "hd95", "nsd")
_COUNTS = ("lesions", "found", "false_positives")    # see `metrics.Detection`
_UNDECIDED = "dice_undecided"                        # Dice of the masks before the decision on the whole image
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Found:
    """How well one arm finds lesions, over test cases and seeds; NaN without such cases.

    Attributes:
        specificity: share of the lesion-free images in which nothing was found.
        sensitivity: share of the images with a lesion in which something was found, wherever.
        decision: Dice with the segmenters' decision on the whole image less that without, paired, of the images with a lesion.
        lesions_found: share of the lesions that were found.
        false_positives: what was found besides, a number for each image with a lesion.
        lesions: lesions of the test cases.
    """

    specificity: Interval
    sensitivity: Interval
    decision: Interval
    lesions_found: float
    false_positives: float
    lesions: int


@dataclass(frozen=True)
class Advice:
    """The arm that is best on the validation cases, by which alone it was chosen, and what it then scored on the test cases.

    Attributes:
        arm: its name.
        among: arms that it was chosen from.
        validation: its Dice on the validation cases with a lesion.
        lead: the same less that of the real arm, paired; None for that arm itself, or where it wasn't trained.
        test: its Dice on the test cases with a lesion.
    """

    arm: str
    among: int
    validation: Interval
    lead: Interval | None
    test: Interval


@dataclass(frozen=True)
class Summary:
    """An evaluation in numbers; every interval is of a mean over test cases and seeds. Overlap is that of cases with a lesion.

    Attributes:
        arms: arm -> metric of `METRICS`, or of the user's own -> interval.
        gain: Dice of the synthetic arm less that of the real arm, paired; None unless both were trained.
        by_size: size of `SIZES` -> arm or `gain` -> interval of the Dice.
        excluded: arm -> metric -> undefined scores (case, class and seed) left out of the mean.
        quality: of the synthetic samples.
        n_real, n_synthetic: training pairs: annotated, and synthetic in the pool of the synthetic arm (of any arm without it).
        steps: optimizer steps, equal in every arm.
        by_class: class -> arm or `gain` -> interval of the Dice; empty where there is one class.
        gains: arm -> Dice of this arm less that of the real arm, paired; empty without a real arm.
        effects: further arm -> Dice of the synthetic arm less that of this one, paired: what it is ahead of a rival, or what
            corrosion, the filter or another number of pairs gives.
        detection: arm -> how well it finds lesions, and finds none in lesion-free images.
        unknown_patients: images of the dataset whose patient nobody knows, each drawn as one of its own.
        advice: which arm to use; None where the validation cases say nothing.
    """

    arms: dict[str, dict[str, Interval]]
    gain: Interval | None
    by_size: dict[str, dict[str, Interval]]
    excluded: dict[str, dict[str, int]]
    quality: Quality
    n_real: int
    n_synthetic: int
    steps: int
    by_class: dict[str, dict[str, Interval]] = field(default_factory=dict)
    gains: dict[str, Interval] = field(default_factory=dict)
    effects: dict[str, Interval] = field(default_factory=dict)
    detection: dict[str, Found] = field(default_factory=dict)
    unknown_patients: int = 0
    advice: Advice | None = None

    def as_json(self) -> dict[str, Any]:
        """The content of `summary.json`: plain values, with null in the place of NaN."""
        values = asdict(self) | asdict(self.quality) | {"acceptance": self.quality.acceptance, "copies": self.quality.copied}
        del values["quality"]
        if not self.quality.kept:
            del values["kept"]
        return _without_nan(values)  # type: ignore[no-any-return]

    def headlines(self) -> dict[str, float]:
        """The numbers by which pipeline runs are compared, undefined ones left out."""
        values = {f"dice_{arm}": scores["dice"].mean for arm, scores in self.arms.items()}
        for arm, found in self.detection.items():
            for name, share in (("specificity", found.specificity), ("sensitivity", found.sensitivity)):
                values |= {f"{name}_{arm}": share.mean, f"{name}_{arm}_lower": share.lower, f"{name}_{arm}_upper": share.upper}
        values |= {"acceptance": self.quality.acceptance, "copies": self.quality.copied}
        if self.gain and not math.isnan(self.gain.mean):
            values |= {"gain": self.gain.mean, "gain_lower": self.gain.lower, "gain_upper": self.gain.upper,
                       "gain_seeds": self.gain.seeds}
        for arm, gain in self.gains.items():
            if arm != TREATED:
                values |= {f"gain_{arm}": gain.mean, f"gain_{arm}_lower": gain.lower, f"gain_{arm}_upper": gain.upper}
        return {name: value for name, value in values.items() if math.isfinite(value)}


def size_strata(areas: Sequence[float]) -> list[str]:
    """Name each lesion small, medium or large by the tertiles of `areas`; a case without lesion is `empty`."""
    found = [area for area in areas if area > 0]
    low, high = np.quantile(found, [1 / 3, 2 / 3]) if found else (0.0, 0.0)
    return ["empty" if area <= 0 else SIZES[int(area > low) + int(area > high)] for area in areas]


def summarise(table: pd.DataFrame, training: pd.DataFrame, quality: Quality, settings: EvaluateParams,
              unknown_patients: int = 0) -> Summary:
    """Intervals of everything in `per_case.csv`. With several classes a case counts by its mean over classes.

    Args:
        table: one row a case, class, arm and seed: case, group, class, arm, seed, the `METRICS`, the `_COUNTS`, lesion_area,
            stratum.
        training: `validation.csv`: arm, seed, steps, n_real, n_synthetic.
        quality: see `quality.assess`.
        settings: resamples, confidence and seed of the bootstrap.
        unknown_patients: see `Summary`.

    Raises:
        MeddiffError: an arm lacks a case or a seed.
    """
    metrics = (*METRICS, *settings.own_metrics)
    detection, table = detect_lesions(table, settings), with_lesion(table, metrics)
    cases, classes = mean_over_classes(table, metrics), list(dict.fromkeys(table["class"]))
    gains = _gains(cases, settings)
    treated = training[training["arm"] == TREATED] if TREATED in set(training["arm"]) else training
    by_size = {size: part for size in SIZES if len(part := cases[cases["stratum"] == size])}
    by_class = {name: table[table["class"] == name] for name in classes if len(classes) > 1}
    return Summary(
        arms=_intervals(cases, settings, metrics), gain=gains.get(TREATED),
        by_size={size: _dice(part, settings) for size, part in by_size.items()},
        excluded={str(arm): {name: int(part[name].isna().sum()) for name in metrics}
                  for arm, part in table.groupby("arm", sort=False)},
        quality=quality, n_real=int(training["n_real"].max()), n_synthetic=int(treated["n_synthetic"].max()),
        steps=int(training["steps"].max()),
        by_class={name: _dice(part, settings) for name, part in by_class.items()}, gains=gains,
        effects=_effects(cases, settings), detection=detection, unknown_patients=unknown_patients)


def with_lesion(table: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """The rows of `per_case.csv` whose case has a lesion, which alone count for overlap; all, without scores, if none has."""
    kept = table[table["stratum"] != "empty"]
    return kept if len(kept) else table.assign(**dict.fromkeys(metrics, math.nan))


def mean_over_classes(table: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """`per_case.csv` with one row a case, arm and seed: a metric's mean over the classes where it is defined, counts added."""
    if table["class"].nunique() < 2:
        return table
    how = dict.fromkeys(metrics, "mean") | {"group": "first", "stratum": "first", "lesion_area": "sum"}
    how |= {_UNDECIDED: "mean"} if _UNDECIDED in table else {}
    how |= {name: "sum" for name in _COUNTS if name in table}
    return table.groupby(["case", "arm", "seed"], sort=False, as_index=False).agg(how)


def detect_lesions(table: pd.DataFrame, settings: EvaluateParams) -> dict[str, Found]:
    """How well each arm finds lesions, and finds none in lesion-free images, from `per_case.csv`."""
    cases = mean_over_classes(table)
    finds = (cases["found"] + cases["false_positives"] > 0).astype(float)
    cases = cases.assign(finds=finds, silent=1 - finds, change=cases["dice"] - cases.get(_UNDECIDED, math.nan))
    free, others, seeds = cases[cases["stratum"] == "empty"], cases[cases["stratum"] != "empty"], cases["seed"].nunique()

    def share(part: pd.DataFrame, arm: str, name: str) -> Interval:
        return (mean_interval(score_matrix(part, arm, name), *bootstrap_of(part, settings)) if len(part)
                else Interval(math.nan, math.nan, math.nan, settings.confidence, 0, seeds))

    found = {}
    for arm in _arms(cases):
        own = others[others["arm"] == arm]
        lesions = int(own["lesions"].sum())
        found[arm] = Found(share(free, arm, "silent"), share(others, arm, "finds"), share(others, arm, "change"),
                           own["found"].sum() / lesions if lesions else math.nan, float(own["false_positives"].mean()),
                           lesions // max(1, own["seed"].nunique()))
    return found


def score_matrix(table: pd.DataFrame, arm: str, metric: str) -> NDArray[np.float64]:
    """`[S, C]` scores of one arm, seeds ascending, cases in the order in which `table` first names them.

    Raises:
        MeddiffError: a case and seed is missing or there twice.
    """
    part = table[table["arm"] == arm]
    cases, seeds = list(dict.fromkeys(table["case"])), sorted(set(table["seed"]))
    if len(part) != len(cases) * len(seeds) or part.duplicated(["case", "seed"]).any():
        raise MeddiffError("per_case.csv", f"arm {arm} must hold {len(cases)} cases with {len(seeds)} seeds once each, "
                           f"it holds {len(part)} rows", "Run `dvc repro segment`, then evaluate again")
    return part.pivot(index="seed", columns="case", values=metric).loc[seeds, cases].to_numpy(np.float64)  # type: ignore[no-any-return]


def patients(table: pd.DataFrame) -> list[str]:
    """The group of each case, in the order in which the table first names them; a case without one is a patient of its own."""
    first = table.drop_duplicates("case")
    return list(first["group"].replace("", np.nan).fillna("case " + first["case"]).astype(str))


def _dice(table: pd.DataFrame, settings: EvaluateParams) -> dict[str, Interval]:
    found = {arm: scores["dice"] for arm, scores in _intervals(table, settings, ("dice",)).items()}
    return found | ({"gain": _difference(table, settings, BASELINE, TREATED)} if {BASELINE, TREATED} <= found.keys() else {})


def _intervals(table: pd.DataFrame, settings: EvaluateParams, metrics: Sequence[str]) -> dict[str, dict[str, Interval]]:
    how = bootstrap_of(table, settings)
    return {arm: {name: mean_interval(score_matrix(table, arm, name), *how) for name in metrics} for arm in _arms(table)}


def _gains(table: pd.DataFrame, settings: EvaluateParams) -> dict[str, Interval]:
    arms = _arms(table)
    return {arm: _difference(table, settings, BASELINE, arm) for arm in arms if BASELINE in arms and arm != BASELINE}


def _effects(table: pd.DataFrame, settings: EvaluateParams) -> dict[str, Interval]:
    arms = _arms(table)
    return {arm: _difference(table, settings, arm, TREATED) for arm in arms if TREATED in arms and arm not in (BASELINE, TREATED)}


def _difference(table: pd.DataFrame, settings: EvaluateParams, before: str, after: str) -> Interval:
    return gain_interval(score_matrix(table, before, "dice"), score_matrix(table, after, "dice"), *bootstrap_of(table, settings))


def _arms(table: pd.DataFrame) -> list[str]:
    return [str(arm) for arm in dict.fromkeys(table["arm"])]


def bootstrap_of(table: pd.DataFrame, settings: EvaluateParams) -> tuple[list[str], int, float, int]:
    """Groups of the cases (`patients`), resamples, confidence and seed."""
    return patients(table), settings.resamples, settings.confidence, settings.seed


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
