"""The tables of a benchmark, and those of its page: arms, other metrics, sizes, detection, fidelity and cost."""

import html
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from meddiff.evaluation.arms import arm_name
from meddiff.evaluation.page import NAMES
from meddiff.evaluation.summary import SIZES
from meddiff.page import counted, points, signed, table
from meddiff.params.arms import BASELINE, rivals_of

SETS = {"training": "annotated real lesions", "generated": "generated", "accepted": "accepted",
        "corroded": "accepted, corroded masks"}
FIDELITY = {"kid.lesion.mean": "KID, lesion", "kid.image.mean": "KID, image", "support.lesion.density": "density",
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


def in_points(row: Any) -> str:
    """A gain of Dice in points, its interval beneath."""
    return "–" if math.isnan(row.mean) else f"{points(row.mean)}<small>{points(row.lower)} to {points(row.upper)}</small>"


def arms_table(tables: Tables, budget: int, facts: dict[str, Any]) -> str:
    """Scores, pairs and gain of each arm, a table a dataset."""
    found = ""
    for dataset, own in tables.scores[tables.scores["budget"] == budget].groupby("dataset", sort=False):
        rows = []
        for arm, part in own.groupby("arm", sort=False):
            by = part.set_index("metric")
            cells = [_score(by.loc[metric], metric) for metric in NAMES]
            over = [row for row in rows_of(tables.gains, budget, str(arm), BASELINE) if row.dataset == dataset]
            rows.append([html.escape(arm_name(str(arm))), _pairs(tables.arms, dataset, budget, arm), *cells,
                         in_points(over[0]) if over else "–"])
        found += f"<h3>{html.escape(str(dataset))}</h3>" + table(
            ["trained on", "pairs", *NAMES.values(), "over real only [points]"], rows)
        found += f'<p class="note">{own["cases"].iloc[0]} test cases with a lesion, {_seeds(own)}.</p>'
    note = (f"Pairs: beside the {budget} annotated images, mean over seeds. HD95 leaves out the lesions that an arm misses, "
            "where Dice is 0: an arm that misses hard ones looks better by it. NSD: share of the outlines within "
            f"{facts['tolerance']} pixels of each other.")
    return f'{found}<p class="note">{note}</p>'


def pairs_table(arms: pd.DataFrame, budget: int) -> str:
    """Pairs that each arm used at the other budgets."""
    columns = [name for name in dict.fromkeys(arms["arm"]) if (arms.loc[arms["arm"] == name, "n_wanted"] > 0).any()]
    rows = [[html.escape(str(dataset)), str(own_budget), f"{own['n_real'].mean():.0f}",
             *(_pairs(own, dataset, own_budget, arm) for arm in columns)]
            for (dataset, own_budget), own in arms[arms["budget"] != budget].groupby(["dataset", "budget"], sort=False)]
    return "<h3>Pairs at the other budgets</h3>" + table(
        ["dataset", "budget", "annotated", *(arm_name(arm) for arm in columns)], rows) if rows and columns else ""


def _pairs(arms: pd.DataFrame, dataset: Any, budget: Any, arm: Any) -> str:
    """Pairs that an arm used, and where these were fewer than its ratio asks for, how many that were."""
    own = arms[(arms["dataset"] == dataset) & (arms["budget"] == budget) & (arms["arm"] == arm)]
    if own.empty:
        return "–"
    used, wanted = own["n_synthetic"].mean(), own["n_wanted"].mean()
    return f"{used:.0f}" + (f"<small>of {wanted:.0f}: as far as there were</small>" if used < wanted else "")


def gains_table(gains: pd.DataFrame) -> str:
    """All differences of Dice, then those of the methods from the real arm by the other metrics."""
    dice, others = gains[gains["metric"] == "dice"], gains[(gains["metric"] != "dice") & gains["arm"].isin(list(rivals_of()))
                                                           & (gains["against"] == BASELINE)]
    rows = [[html.escape(str(row.dataset)), str(row.budget), html.escape(arm_name(row.arm)), html.escape(arm_name(row.against)),
             in_points(row), f"{row.p:.3f}", f"{row.p_holm:.3f}", str(row.seeds)] for row in dice.itertuples()]
    note = ('<p class="note">p: two-sided, from the bootstrap over patients and seeds. Holm: corrected over the datasets of the '
            "same budget, arm, rival and metric; `average` is one test of its own, of these datasets and no others.</p>")
    more = [[html.escape(str(row.dataset)), str(row.budget), html.escape(arm_name(row.arm)), NAMES[row.metric], _plain(row),
             f"{row.p_holm:.3f}", str(row.cases)] for row in others.itertuples()]
    shown = table(["dataset", "annotated", "arm", "against", "points", "p", "Holm", "seeds"], rows) + note if rows else ""
    return shown + ("<h3>Over real images only, by other metrics</h3>" + table(
        ["dataset", "annotated", "arm", "metric", "difference", "Holm", "cases"], more) if more else "")


def _plain(row: Any) -> str:
    digits = 1 if row.metric == "hd95" else 3
    return f"{signed(row.mean, digits)}<small>{signed(row.lower, digits)} to {signed(row.upper, digits)}</small>"


def sizes_table(sizes: pd.DataFrame, budget: int) -> str:
    """Scores of each arm by lesion size, the gain of Dice over real images beneath."""
    found = ""
    for dataset, own in sizes[sizes["budget"] == budget].groupby("dataset", sort=False):
        rows = []
        for arm, of in own.groupby("arm", sort=False):
            by = of.set_index(["metric", "stratum"])
            rows.append([html.escape(arm_name(str(arm))), *(_by_size(by, size) for size in SIZES)])
        cases = own.drop_duplicates("stratum").set_index("stratum")["cases"]
        found += f"<h3>{html.escape(str(dataset))}</h3>" + table(
            ["trained on", *(f"{size} ({cases.get(size, 0)})" for size in SIZES)], rows)
    note = ('<p class="note">Dice, and its gain over real images only in points with the interval; test cases in brackets, a '
            "third in each column. sizes.csv holds the other metrics. No correction for many rows.</p>")
    return found + note if found else ""


def _by_size(by: pd.DataFrame, size: str) -> str:
    if ("dice", size) not in by.index:
        return "–"
    row = by.loc[("dice", size)]
    over = "" if math.isnan(row["gain"]) else (f"<small>{points(row['gain'])} ({points(row['gain_lower'])} to "
                                               f"{points(row['gain_upper'])})</small>")
    return f"{row['mean']:.3f}{over}"


def detection_table(detection: pd.DataFrame, budget: int) -> str:
    """What each arm finds in lesion-free images, and which lesions it finds in the others."""
    rows = [[html.escape(str(row.dataset)), html.escape(arm_name(str(row.arm))),
             "–" if math.isnan(row.specificity) else f"{row.specificity:.0%}<small>{row.lower:.0%} to {row.upper:.0%}</small>",
             str(row.free), f"{row.found:.0%} of {row.lesions}", f"{row.false_positives:.2f}"]
            for row in detection[detection["budget"] == budget].itertuples()]
    note = ('<p class="note">Specificity: share of the lesion-free test images in which nothing was found; one predicted pixel '
            "is a find. A lesion is found if a predicted one overlaps it by an IoU of 0.1. False positives: predicted lesions "
            "that meet none, for each test image with a lesion. Lesion-free images count for this table alone.</p>")
    heads = ["dataset", "trained on", "specificity", "lesion-free", "lesions found", "false positives"]
    return table(heads, rows) + note if rows else ""


def _seeds(own: pd.DataFrame) -> str:
    """How many seeds the arms of one dataset have, told apart where not all are finished."""
    by_arm = own.groupby("arm", sort=False)["seeds"].first()
    most = by_arm.value_counts().index[0]
    others = [f"{html.escape(arm_name(str(arm)))}: {n}" for arm, n in by_arm.items() if n != most]
    apart = f" (but {', '.join(others)}; differences are over the seeds that both have)" if others else ""
    return counted(int(most), "seed") + apart


def _score(row: "pd.Series[Any]", metric: str) -> str:
    left = f"<small>{row['left_out']} scores left out</small>" if row["left_out"] else ""
    if math.isnan(row["mean"]):
        return f"–{left}"
    digits = 1 if metric == "hd95" else 3
    return f"{row['mean']:.{digits}f}<small>{row['lower']:.{digits}f} to {row['upper']:.{digits}f}</small>{left}"


def fidelity_table(cells: pd.DataFrame, budget: int, facts: dict[str, Any]) -> str:
    """How near the samples are to real ones."""
    part, rows = cells[cells["budget"] == budget], []
    for (dataset, recipe), own in part.groupby(["dataset", "recipe"], sort=False):
        for group, words in SETS.items():
            names = [f"sets.{group}.{name}" for name in FIDELITY]
            if any(name in own and own[name].notna().any() for name in names):
                values = [own[name].mean() if name in own else math.nan for name in names]
                rows.append([f"{html.escape(str(dataset))}, {html.escape(str(recipe))}", words,
                             *("–" if math.isnan(value) else f"{value:.3g}" for value in values)])
    note = ('<p class="note">Means over seeds. Against held-back real images (validation part); features: '
            f'{html.escape(str(facts["extractor"]))}. KID: 0 is the same distribution. Density and coverage: about 1 and near 1 '
            "are best. Copies: share nearer to a training lesion than every held-back lesion is, and the share of real lesions "
            "of which that is expected.</p>")
    return table(["", "set", *FIDELITY.values()], rows) + note if rows else ""


def cost_table(cells: pd.DataFrame) -> str:
    """Time, memory and the share of samples that was accepted."""
    rows = [[f"{html.escape(str(dataset))}, {html.escape(str(recipe))}", str(len(own)), f"{own['seconds'].mean() / 60:.1f}",
             f"{own['stages_run'].mean():.1f}", _kilojoules(own),
             f"{own['accepted'].sum() / own['samples'].sum():.0%} of {own['samples'].sum()}"]
            for (dataset, recipe), own in cells.groupby(["dataset", "recipe"], sort=False)]
    energy = "Energy is the whole machine's while a cell ran, cells beside it included. " if measured(cells) else ""
    note = (f'<p class="note">{cells["seconds"].sum() / 3600:.1f} hours of cells in all (several may have run at once); greatest '
            f'memory of a process {cells["peak_memory_mb"].max() / 1000:.1f} GB. Stages that another cell '
            f"or an earlier run had done already were taken from there and cost nothing. {energy}</p>")
    return table(["", "cells", "minutes a cell", "stages run", "energy [kJ]", "samples accepted"], rows) + note


def measured(cells: pd.DataFrame) -> bool:
    """Whether the energy of a cell is known."""
    return "joules" in cells and bool(cells["joules"].notna().any())


def _kilojoules(cells: pd.DataFrame) -> str:
    return f"{cells['joules'].mean() / 1000:.0f}" if measured(cells) else "–"
