"""Model card and dataset card of a benchmark, filled from its numbers."""

from typing import Any

import pandas as pd

from meddiff.experiments.benchmark.page import limits, verdict

PRIVATE = ("Not privacy-preserving: backgrounds are real images, and the model learned from real lesions and may repeat parts of "
           "them. The copy check is no proof. Protect model and samples like patient data.")


def model_card(facts: dict[str, Any], gains: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Markdown about the generators that the benchmark fine-tuned."""
    own = cells[cells["recipe"] == "method"]
    return f"""# Model card: lesion inpainting generators of {", ".join(facts["datasets"])}

{len(own)} generators, one for each dataset, label budget and seed: {facts["foundation"]}, fine-tuned to paint lesions under
a mask into lesion-free images and at the place of the lesions in images without annotation, at {facts["size"]} ×
{facts["size"]} pixels.

## Intended use
Making synthetic training pairs for segmentation networks, beside real annotated images of the same kind. Research only: not for
diagnosis, not for tests or benchmarks of other methods, not a medical device.

## Training data
{", ".join(facts["datasets"])}: {_range(own["labelled"])} annotated images each. The foundation has seen the other training
images too, without masks; where it was plain where a lesion lies in them, it was filled in and painted ones took its place.
Validation cases chose the segmenters' weights; test cases were seen by the final scoring alone, which a check of
ids, patients and near-duplicates holds.

## What their samples gained on test data
{_bullets(verdict(gains, facts["budget"]))}

## Limits
{_bullets([*limits(facts), PRIVATE])}

Made {facts["made"]} by `{facts["command"]}`.
"""


def dataset_card(facts: dict[str, Any], gains: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Markdown about the synthetic pairs that the benchmark made."""
    own = cells[cells["recipe"] == "method"]
    rows = "\n".join(f"| {dataset} | {budget} | {len(part)} | {part['samples'].sum()} | {part['accepted'].sum()} "
                     f"| {_mean(part, 'copies.share')} | {_mean(part, 'copies.expected_share')} "
                     f"| {_mean(part, 'kid.lesion.mean')} |"
                     for (dataset, budget), part in own.groupby(["dataset", "budget"], sort=False))
    return f"""# Dataset card: synthetic pairs of {", ".join(facts["datasets"])}

Images of {facts["size"]} × {facts["size"]} pixels with lesion masks, painted into images of the same datasets: lesion-free
ones, and training images without annotation, where the lesion that was there was filled in before.

| dataset | annotated images | seeds | generated | accepted | share of copies | expected of real lesions | KID, lesion |
|---|---|---|---|---|---|---|---|
{rows}

Share of copies and KID are of the accepted samples, means over seeds, in the feature space `{facts["extractor"]}`, against
held-back real images.

## What they gained
{_bullets(verdict(gains, facts["budget"]))}

## Use
For training segmentation networks beside real images. A mask is what the model was asked to fill, checked by a segmentation
network and not drawn by an expert. The terms of the source datasets apply.

## Limits
{_bullets([*limits(facts), PRIVATE])}

Made {facts["made"]} by `{facts["command"]}`.
"""


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _range(values: "pd.Series[int]") -> str:
    return f"{values.min()}" if values.min() == values.max() else f"{values.min()} to {values.max()}"


def _mean(part: pd.DataFrame, name: str) -> str:
    column = f"sets.accepted.{name}"
    return f"{part[column].mean():.3g}" if column in part and part[column].notna().any() else "–"
