"""The tables of a benchmark, and those of its page: arms, other metrics, sizes, detection, fidelity and cost."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from meddiff.evaluation.arms import arm_name
from meddiff.evaluation.page import NAMES
from meddiff.evaluation.summary import SIZES
from meddiff.pages import Entry, Table, counted, points, signed
from meddiff.params.arms import BASELINE, rivals_of

_SETS = {"training": "annotated real lesions", "generated": "generated", "accepted": "accepted",
         "corroded": "accepted, corroded masks"}
_FIDELITY = {"kid.lesion.mean": "KID, lesion", "kid.image.mean": "KID, image", "support.lesion.density": "density",
             "support.lesion.coverage": "coverage", "copies.share": "share of copies",
             "copies.expected_share": "expected of real lesions", "seam": "seam"}


@dataclass(frozen=True, eq=False)
class Tables:
    """What a benchmark found; each is a file of its own, NAME.csv. A budget is a number of annotated cases or `all`.

    Attributes:
        scores, gains, detection: see `significance`.
        sizes: see `significance.by_size`.
        cells: one row a cell: dataset, budget, seed, recipe, labelled and validation (annotated cases), samples, accepted,
            seconds, joules (of the whole machine, NaN if it doesn't tell), stages_run, peak_memory_mb, commit, device, dropped
            (arms), numbers of fidelity.
        arms: one row a dataset, budget, seed and arm: n_real, n_synthetic (pairs used), n_wanted (pairs asked for).
        per_case: the cells' `per_case.csv` under each other.
    """

    scores: pd.DataFrame
    gains: pd.DataFrame
    cells: pd.DataFrame
    arms: pd.DataFrame
    detection: pd.DataFrame
    sizes: pd.DataFrame
    per_case: pd.DataFrame


def rows_of(gains: pd.DataFrame, budget: int, arm: str, against: str, metric: str = "dice") -> list[Any]:
    """The comparisons of two arms, a dataset each and the average last."""
    part = gains[(gains["budget"] == budget) & (gains["arm"] == arm) & (gains["against"] == against)
                 & (gains["metric"] == metric)]
    return [row for row in part.itertuples() if not math.isnan(row.mean)]


def in_points(row: Any) -> list[str]:
    """A gain of Dice in points, its interval beneath."""
    return ["–"] if math.isnan(row.mean) else [points(row.mean), f"{points(row.lower)} to {points(row.upper)}"]


def arm_tables(tables: Tables, budget: int) -> list[Table]:
    """Scores, pairs and gain of each arm, a table a dataset."""
    found = []
    for dataset, own in tables.scores[tables.scores["budget"] == budget].groupby("dataset", sort=False):
        rows = []
        for arm, part in own.groupby("arm", sort=False):
            by = part.set_index("metric")
            entries = [_score(by.loc[metric], metric) for metric in NAMES]
            over = [row for row in rows_of(tables.gains, budget, str(arm), BASELINE) if row.dataset == dataset]
            rows.append([arm_name(str(arm)), _pairs(tables.arms, dataset, budget, arm), *entries,
                         in_points(over[0]) if over else "–"])
        found.append(Table(["trained on", "pairs", *NAMES.values(), "over real only [points]"], rows, str(dataset),
                           f"{own['cases'].iloc[0]} test cases with a lesion, {_seeds(own)}."))
    return found


def pairs_table(arms: pd.DataFrame, budget: int) -> Table:
    """Pairs that each arm used at the other budgets."""
    columns = [name for name in dict.fromkeys(arms["arm"]) if (arms.loc[arms["arm"] == name, "n_wanted"] > 0).any()]
    rows = [[str(dataset), str(own_budget), f"{own['n_real'].mean():.0f}",
             *(_pairs(own, dataset, own_budget, arm) for arm in columns)]
            for (dataset, own_budget), own in arms[arms["budget"] != budget].groupby(["dataset", "budget"], sort=False)]
    return Table(["dataset", "budget", "annotated", *(arm_name(arm) for arm in columns)], rows if columns else [],
                 "Pairs at the other budgets")


def _pairs(arms: pd.DataFrame, dataset: Any, budget: Any, arm: Any) -> Entry:
    """Pairs that an arm used, and where these were fewer than its ratio asks for, how many that were."""
    own = arms[(arms["dataset"] == dataset) & (arms["budget"] == budget) & (arms["arm"] == arm)]
    if own.empty:
        return "–"
    used, wanted = own["n_synthetic"].mean(), own["n_wanted"].mean()
    return [f"{used:.0f}", *([f"of {wanted:.0f}: as far as there were"] if used < wanted else [])]


def gain_tables(gains: pd.DataFrame) -> list[Table]:
    """All differences of Dice, then those of the methods from the real arm by the other metrics."""
    dice, others = gains[gains["metric"] == "dice"], gains[(gains["metric"] != "dice") & gains["arm"].isin(list(rivals_of()))
                                                           & (gains["against"] == BASELINE)]
    rows = [[str(row.dataset), str(row.budget), arm_name(row.arm), arm_name(row.against), in_points(row), f"{row.p:.3f}",
             f"{row.p_holm:.3f}", str(row.seeds)] for row in dice.itertuples()]
    note = ("p: two-sided, from the bootstrap over seeds and patients, images where nobody knows them. Holm: corrected over the "
            "datasets of the same budget, arm, rival and metric; `average` is one test of its own, of these datasets and no "
            "others.")
    more = [[str(row.dataset), str(row.budget), arm_name(row.arm), NAMES[row.metric], _plain(row), f"{row.p_holm:.3f}",
             str(row.cases)] for row in others.itertuples()]
    return [Table(["dataset", "annotated", "arm", "against", "points", "p", "Holm", "seeds"], rows, note=note),
            Table(["dataset", "annotated", "arm", "metric", "difference", "Holm", "cases"], more,
                  "Over real images only, by other metrics")]


def _plain(row: Any) -> list[str]:
    digits = 1 if row.metric == "hd95" else 3
    return [signed(row.mean, digits), f"{signed(row.lower, digits)} to {signed(row.upper, digits)}"]


def size_tables(sizes: pd.DataFrame, budget: int) -> list[Table]:
    """Scores of each arm by lesion size, the gain of Dice over real images beneath; a table a dataset."""
    found = []
    for dataset, own in sizes[sizes["budget"] == budget].groupby("dataset", sort=False):
        rows = []
        for arm, part in own.groupby("arm", sort=False):
            by = part.set_index(["metric", "stratum"])
            rows.append([arm_name(str(arm)), *(_by_size(by, size) for size in SIZES)])
        cases = own.drop_duplicates("stratum").set_index("stratum")["cases"]
        found.append(Table(["trained on", *(f"{size} ({cases.get(size, 0)})" for size in SIZES)], rows, str(dataset)))
    return found


def _by_size(by: pd.DataFrame, size: str) -> list[str]:
    if ("dice", size) not in by.index:
        return ["–"]
    row = by.loc[("dice", size)]
    over = f"{points(row['gain'])} ({points(row['gain_lower'])} to {points(row['gain_upper'])})"
    return [f"{row['mean']:.3f}", *([] if math.isnan(row["gain"]) else [over])]


def detection_table(detection: pd.DataFrame, budget: int) -> Table:
    """What each arm finds in lesion-free images, and which lesions it finds in the others."""
    rows = [[str(row.dataset), arm_name(str(row.arm)),
             "–" if math.isnan(row.specificity) else [f"{row.specificity:.0%}", f"{row.lower:.0%} to {row.upper:.0%}"],
             str(row.free), f"{row.found:.0%} of {row.lesions}", f"{row.false_positives:.2f}"]
            for row in detection[detection["budget"] == budget].itertuples()]
    note = ("Specificity: share of the lesion-free test images in which nothing was found; one predicted pixel is a find. A "
            "lesion is found if a predicted one overlaps it by an IoU of 0.1. False positives: predicted lesions that meet none, "
            "for each test image with a lesion. Lesion-free images count for this table alone.")
    return Table(["dataset", "trained on", "specificity", "lesion-free", "lesions found", "false positives"], rows, note=note)


def _seeds(own: pd.DataFrame) -> str:
    """How many seeds the arms of one dataset have, told apart where not all are finished."""
    by_arm = own.groupby("arm", sort=False)["seeds"].first()
    most = by_arm.value_counts().index[0]
    others = [f"{arm_name(str(arm))}: {n}" for arm, n in by_arm.items() if n != most]
    apart = f" (but {', '.join(others)}; differences are over the seeds that both have)" if others else ""
    return counted(int(most), "seed") + apart


def _score(row: "pd.Series[Any]", metric: str) -> list[str]:
    left = [f"{row['left_out']} scores left out"] if row["left_out"] else []
    if math.isnan(row["mean"]):
        return ["–", *left]
    digits = 1 if metric == "hd95" else 3
    return [f"{row['mean']:.{digits}f}", f"{row['lower']:.{digits}f} to {row['upper']:.{digits}f}", *left]


def fidelity_table(cells: pd.DataFrame, budget: int, extractor: str) -> Table:
    """How near the samples are to real ones, in the extractor's features."""
    part, rows = cells[cells["budget"] == budget], []
    for (dataset, recipe), own in part.groupby(["dataset", "recipe"], sort=False):
        for group, words in _SETS.items():
            names = [f"sets.{group}.{name}" for name in _FIDELITY]
            if any(name in own and own[name].notna().any() for name in names):
                values = [own[name].mean() if name in own else math.nan for name in names]
                rows.append([f"{dataset}, {recipe}", words, *("–" if math.isnan(value) else f"{value:.3g}" for value in values)])
    note = (f"Means over seeds. Against held-back real images (validation part); features: {extractor}. KID: 0 is the same "
            "distribution. Density and coverage: about 1 and near 1 are best. Copies: share nearer to a training lesion than "
            "every held-back lesion is, and the share of real lesions of which that is expected.")
    return Table(["", "set", *_FIDELITY.values()], rows, note=note)


def cost_table(cells: pd.DataFrame) -> Table:
    """Time, memory and the share of samples that was accepted."""
    rows = [[f"{dataset}, {recipe}", str(len(own)), f"{own['seconds'].mean() / 60:.1f}", f"{own['stages_run'].mean():.1f}",
             _kilojoules(own), f"{own['accepted'].sum() / own['samples'].sum():.0%} of {own['samples'].sum()}"]
            for (dataset, recipe), own in cells.groupby(["dataset", "recipe"], sort=False)]
    energy = " Energy is the whole machine's while a cell ran, cells beside it included." if measured(cells) else ""
    note = (f"{cells['seconds'].sum() / 3600:.1f} hours of cells in all (several may have run at once); greatest memory of a "
            f"process {cells['peak_memory_mb'].max() / 1000:.1f} GB. Stages that another cell or an earlier run had done already "
            f"were taken from there and cost nothing.{energy}")
    return Table(["", "cells", "minutes a cell", "stages run", "energy [kJ]", "samples accepted"], rows, note=note)


def measured(cells: pd.DataFrame) -> bool:
    """Whether the energy of a cell is known."""
    return "joules" in cells and bool(cells["joules"].notna().any())


def _kilojoules(cells: pd.DataFrame) -> str:
    return f"{cells['joules'].mean() / 1000:.0f}" if measured(cells) else "–"
