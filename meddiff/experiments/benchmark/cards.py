"""Model card and dataset card of a benchmark, filled from its numbers; their words are in `*_card.md.j2`."""

from typing import Any

import pandas as pd

from meddiff.experiments.benchmark.page import limits, verdicts
from meddiff.pages import markdown_table, render

_PRIVATE = ("Not privacy-preserving: backgrounds are real images, and the model learned from real lesions and may repeat parts "
            "of them. The copy check is no proof. Protect model and samples like patient data.")
_HEADS = ("dataset", "annotated images", "seeds", "generated", "accepted", "share of copies", "expected of real lesions",
          "KID, lesion")


def model_card(facts: dict[str, Any], gains: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Markdown about the generators that the benchmark fine-tuned."""
    own = cells[cells["recipe"] == "method"]
    return _card("model_card", facts, gains, generators=len(own), labelled=_range(own["labelled"]))


def dataset_card(facts: dict[str, Any], gains: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Markdown about the synthetic pairs that the benchmark made."""
    own = cells[cells["recipe"] == "method"]
    means = ("copies.share", "copies.expected_share", "kid.lesion.mean")
    rows = [[dataset, budget, len(part), part["samples"].sum(), part["accepted"].sum(), *(_mean(part, name) for name in means)]
            for (dataset, budget), part in own.groupby(["dataset", "budget"], sort=False)]
    return _card("dataset_card", facts, gains, numbers=markdown_table(_HEADS, rows))


def _card(name: str, facts: dict[str, Any], gains: pd.DataFrame, **values: object) -> str:
    return render(f"experiments/benchmark/{name}.md.j2", facts=facts, verdicts=verdicts(gains, facts["budget"]),
                  limits=[*limits(facts), _PRIVATE], **values)


def _range(values: "pd.Series[int]") -> str:
    return f"{values.min()}" if values.min() == values.max() else f"{values.min()} to {values.max()}"


def _mean(part: pd.DataFrame, name: str) -> str:
    column = f"sets.accepted.{name}"
    return f"{part[column].mean():.3g}" if column in part and part[column].notna().any() else "–"
