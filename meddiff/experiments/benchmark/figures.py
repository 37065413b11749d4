"""The plots of a benchmark: gain against label budget, and Dice of each arm."""

import io
import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from meddiff.evaluation.arms import arm_name, look_of
from meddiff.pages import Picture
from meddiff.params.arms import BASELINE, TREATED, rivals_of

_INK, _LINE = "#1f2933", "#9aa5b1"


def figures(scores: pd.DataFrame, gains: pd.DataFrame, facts: dict[str, Any]) -> list[Picture]:
    """`budgets` where there are several, and `arms`.

    Args:
        scores, gains: see `significance`; gains of Dice alone.
        facts: see `page.benchmark_page`.
    """
    intervals = f"{facts['confidence']:.0%} intervals"
    found = [Picture("arms", _png(_arms(scores, facts["budget"])),
                     f"Test Dice at {facts['budget']} annotated images, with {intervals}. Arms share cases and seeds, so these "
                     "may overlap although a paired gain is clear.")]
    if len(set(scores["budget"])) > 1 and len(gains):
        found.insert(0, Picture("budgets", _png(_budgets(gains, list(dict.fromkeys(scores["dataset"])))),
                                f"Gain over real images only against the number of annotated images, with {intervals}."))
    return found


def _budgets(gains: pd.DataFrame, datasets: list[str]) -> Figure:
    figure = Figure(figsize=(4.6 * len(datasets) + 1.8, 4.2), layout="constrained")
    axes = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    over = gains[gains["against"] == BASELINE]
    compared = [arm for arm in (*rivals_of(), *rivals_of()[TREATED]) if look_of(arm).place]
    for axis, dataset in zip(axes, datasets, strict=True):
        part = over[over["dataset"] == dataset]
        places = sorted(set(part["budget"]), key=_place)
        arms = [arm for arm in compared if arm in set(part["arm"])]
        for arm, shift in zip(arms, np.linspace(-0.04, 0.04, len(arms)) * (len(arms) - 1), strict=True):
            own = part[part["arm"] == arm].sort_values("budget", key=lambda budgets: budgets.map(_place))
            x = np.array([places.index(budget) for budget in own["budget"]]) + shift
            mean, low, high = (own[name].to_numpy(float) * 100 for name in ("mean", "lower", "upper"))
            axis.errorbar(x, mean, np.abs([mean - low, high - mean]), color=look_of(arm).colour, marker="o", capsize=3,
                          linewidth=1.6, label=arm_name(arm))
        axis.axhline(0, color=_INK, linewidth=0.8)
        axis.set_xticks(range(len(places)), [str(place) for place in places])
        axis.set_title(dataset, fontsize=11)
        axis.set_xlabel("annotated images")
        _plain(axis)
    axes[0].set_ylabel("gain [Dice points]")
    columns = min(4, 1 + len(axes))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _place(budget: int | str) -> float:
    """`all` behind every number."""
    return math.inf if budget == "all" else float(budget)


def _arms(scores: pd.DataFrame, budget: int) -> Figure:
    part = scores[(scores["metric"] == "dice") & (scores["budget"] == budget)]
    datasets, arms = list(dict.fromkeys(part["dataset"])), list(dict.fromkeys(part["arm"]))
    figure = Figure(figsize=(10, 0.9 + 0.32 * max(1, len(arms)) * max(1, -(-len(datasets) // 2))), layout="constrained")
    axes = figure.subplots(-(-max(1, len(datasets)) // 2), min(2, max(1, len(datasets))), squeeze=False, sharey=True)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        own = part[part["dataset"] == dataset].set_index("arm")
        for place, arm in enumerate(arms):
            if arm in own.index:
                mean, low, high = (float(own.loc[arm, name]) for name in ("mean", "lower", "upper"))
                axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=look_of(arm).colour, capsize=3)
        if BASELINE in own.index:
            axis.axvline(float(own.loc[BASELINE, "mean"]), color=_LINE, linewidth=0.8, linestyle="--")
        axis.set_yticks(range(len(arms)), [arm_name(arm) for arm in arms], fontsize=9)
        axis.invert_yaxis() if axis is axes.flat[0] else None
        axis.set_title(dataset, fontsize=11)
        axis.set_xlabel("Dice")
        _plain(axis)
    for axis in list(axes.flat)[len(datasets):]:
        axis.set_visible(False)
    return figure


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=_INK, labelsize=9)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
