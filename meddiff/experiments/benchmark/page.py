"""The benchmark's page: gains with their tests, arms, cases, fidelity, cost and limits; its markup is in `benchmark.html.j2`."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from meddiff.evaluation.arms import arm_name, look_of
from meddiff.evaluation.figures import OUTLINES
from meddiff.experiments.benchmark.significance import AVERAGE
from meddiff.experiments.benchmark.tables import (
    Tables,
    arm_tables,
    cost_table,
    detection_table,
    fidelity_table,
    gain_tables,
    in_points,
    pairs_table,
    rows_of,
    size_tables,
)
from meddiff.pages import Picture, Table, counted, points, render
from meddiff.params.arms import BASELINE, TREATED, rivals_of

_ALPHA = 0.05
_LEAST_SEEDS = 5  # for a claim: with 3 intervals were too narrow in simulations (`bootstrap.mean_interval`)


def decision(row: Any) -> str:
    """`gain`, `loss`, `undecided` or `few` seeds: claimed only where the interval and the corrected test agree."""
    if row.seeds < _LEAST_SEEDS:
        return "few"
    if row.p_holm < _ALPHA and row.lower > 0:
        return "gain"
    return "loss" if row.p_holm < _ALPHA and row.upper < 0 else "undecided"


def interval(row: Any) -> str:
    """A gain in points with its interval."""
    return "–" if math.isnan(row.mean) else f"{points(row.mean)} ({points(row.lower)} to {points(row.upper)})"


def verdicts(gains: pd.DataFrame, budget: int, rivals: bool = True) -> list[str]:
    """What synthetic pairs gained, alone and with unlabelled images, in sentences: over real images and, if `rivals`, over each
    rival in turn, the average over the datasets last.
    """
    told = []
    compared = [(arm, against) for arm, others in rivals_of().items() for against in (BASELINE, *(others if rivals else ()))]
    for arm, against in compared:
        for row in rows_of(gains, budget, arm, against):
            word = {"gain": "raised", "loss": "lowered"}.get(found := decision(row), "")
            numbers = f"{interval(row)} Dice points, p = {row.p_holm:.3f}"
            who = "On average over the datasets" if row.dataset == AVERAGE else row.dataset
            pairs, other = look_of(arm).pairs, arm_name(against)
            what = f"{pairs} {word} the Dice against {other}" if word else \
                f"too few seeds ({row.seeds}) to tell {pairs} from {other}" if found == "few" else \
                f"{pairs} were not shown to differ from {other}"
            told.append(f"{who}: {what}: {numbers}.")
    return told or [f"No gain measured at {budget} annotated images: that needs the arms `real` and `synthetic`."]


def benchmark_page(tables: Tables, pictures: Sequence[Picture], facts: dict[str, Any], missing: Sequence[str],
                   dropped: Sequence[str] = ()) -> str:
    """Compose the page.

    Args:
        tables: every number that is shown.
        pictures: `budgets` and `arms` of `benchmark_figures`, and DATASET-cases, DATASET-pairs.
        facts: size [pixels], steps, network, extractor, tolerance [pixels], foundation (each one value or those of the datasets),
            seen (whether it is known what the foundation was trained on), budget (of the verdict), seeds, datasets, validation
            (numbers of annotated validation cases), energy (whether it was measured), device, threads, commit, made (date),
            command.
        missing: cells that failed or aren't finished, a line each.
        dropped: arms that a cell had to leave out, a line each.

    Returns:
        A complete HTML document without references to other files or hosts.
    """
    budget, gains, cells = facts["budget"], tables.gains, tables.cells
    main = [decision(row) for row in rows_of(gains, budget, TREATED, BASELINE)]
    return render("experiments/benchmark/benchmark.html.j2", facts=facts, subtitle=_subtitle(facts),
                  tone="better" if main and set(main) == {"gain"} else "worse" if "loss" in main else "",
                  verdicts=verdicts(gains, budget, rivals=False), missing=missing, dropped=dropped,
                  rivals=[_rivals(gains, budget, arm, rivals) for arm, rivals in rivals_of().items()],
                  pictures={picture.name: picture for picture in pictures}, outlines=OUTLINES,
                  arms=arm_tables(tables, budget), pairs=pairs_table(tables.arms, budget),
                  sizes=size_tables(tables.sizes, budget), detection=detection_table(tables.detection, budget),
                  gains=gain_tables(gains), fidelity=fidelity_table(cells, budget, facts["extractor"]),
                  cost=cost_table(cells), limits=limits(facts))


def limits(facts: dict[str, Any]) -> list[str]:
    """What limits the result, one sentence each."""
    few, validation = len(facts["seeds"]), " or ".join(map(str, facts["validation"]))
    narrow = (f": with fewer than {_LEAST_SEEDS} intervals are too narrow, so nothing is claimed." if few < _LEAST_SEEDS else
              ": intervals of so few may hold the true gain less often than they say (of five in simulations: 89 to 96 % "
              "instead of 95)."
              if few < 2 * _LEAST_SEEDS else ".")
    told = [f"{counted(few, 'seed')}, each with its own annotated cases, generator and segmenters{narrow}",
            f"Images of {facts['size']} pixels and segmenters of {facts['steps']} steps ({facts['network']}): larger images or "
            "longer training may give other gains.",
            "One test part for each dataset: other scanners, hospitals and kinds of lesion aren't covered, and the average is "
            "that of these datasets, not of datasets at large.",
            "Images of one patient are drawn together where the dataset names patients. Where it doesn't, as BUSI, a group is an "
            "image and its near-duplicates: further images of a patient count as independent, and may lie in the training part.",
            "Arms with added pairs see fewer real images in each batch; all arms have the same number of steps.",
            f"The best weights are chosen on the annotations of {validation} validation cases, in all arms alike: annotations "
            "that the budget doesn't count.",
            "p-values are corrected over datasets, not over arms or budgets: of many rows some are small by chance.",
            "A benchmark that was run before on the same test parts, while the method or its settings were chosen, makes this "
            "one less of a proof; this page doesn't know of it."]
    if facts["paper"]:
        told.append(f"The paper's settings were chosen for Stable Diffusion at 512 pixels, not for {facts['foundation']} at "
                    f"{facts['size']}: this isn't what the paper's generator would gain.")
    if not facts["energy"]:
        told.append("The machine doesn't tell what energy it takes.")
    unknown = f"What the foundation ({facts['foundation']}) was trained on is unknown here: it may have seen test images."
    return told if facts["seen"] else [*told, unknown]


def _rivals(gains: pd.DataFrame, budget: int, arm: str, rivals: Sequence[str]) -> Table:
    """What an arm gains over each rival, datasets side by side."""
    found = {against: {row.dataset: row for row in rows_of(gains, budget, arm, against)} for against in rivals}
    datasets = list(dict.fromkeys(name for own in found.values() for name in own))
    return Table([f"Dice points of {arm_name(arm)} over", *datasets],
                 [[arm_name(against), *(_against(own[name]) if name in own else "–" for name in datasets)]
                  for against, own in found.items() if own])


def _against(row: Any) -> list[str]:
    word = {"gain": "better", "loss": "worse", "few": "too few seeds to tell"}.get(decision(row), "no difference shown")
    return [*in_points(row), f"{word}, p = {row.p_holm:.3f}"]


def _subtitle(facts: dict[str, Any]) -> str:
    return (f"{facts['size']} pixels · {facts['network']}, {facts['steps']} steps in every arm · "
            f"seeds {', '.join(map(str, facts['seeds']))} · {facts['device']}, {counted(facts['threads'], 'thread')} · "
            f"{facts['made']} · {facts['command']}" + (f" at {facts['commit']}" if facts["commit"] else ""))
