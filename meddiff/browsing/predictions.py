"""The test cases with what each arm predicts, of a finished evaluation: to look at, never to choose by."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from meddiff.browsing.pictures import PREDICTED, REFERENCE, outlined_png
from meddiff.cases import read_image, read_mask
from meddiff.errors import MeddiffError
from meddiff.evaluation.summary import mean_over_classes
from meddiff.layout import Layout
from meddiff.outputs.tables import CASE_SCORES


@dataclass(frozen=True)
class PredictedCase:
    """A test case.

    Attributes:
        dice: arm -> mean over its seeds (and classes), NaN for a case without lesion.
        by_seed: arm -> seed -> the same.
        stratum: small, medium, large or empty, by the size of its lesions.
    """

    id: str
    stratum: str
    dice: dict[str, float]
    by_seed: dict[str, dict[int, float]]

    @property
    def worst(self) -> float:
        """The mean over all arms, by which cases are sorted; those without a Dice come last."""
        known = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else math.inf


def list_predicted(layout: Layout) -> list[PredictedCase]:
    """The test cases in the order of the evaluation.

    Raises:
        MeddiffError: `evaluate` hasn't run.
    """
    file = layout.report / CASE_SCORES.name
    return _predicted(layout, file.stat().st_mtime_ns if file.is_file() else 0)


def predicted_picture(layout: Layout, case: PredictedCase, arm: str, seed: int | None, classes: int) -> bytes:
    """PNG of a test image with its reference outline, and of an arm's prediction if one is named.

    Args:
        arm: of `case.dice`, `reference` for the reference alone, empty for the image alone.
        seed: of the training.

    Raises:
        MeddiffError: there is no such prediction.
    """
    folder = layout.cases("test")
    image, layers = read_image(folder / "images" / f"{case.id}.png"), []
    if arm and (arm == "reference" or classes == 1) and (file := folder / "masks" / f"{case.id}.png").is_file():
        layers.append((read_mask(file), REFERENCE))
    if arm not in ("", "reference"):
        if seed not in case.by_seed.get(arm, {}):
            raise MeddiffError(arm, f"there is no prediction of seed {seed}", "Go back to the list")
        layers.append((read_mask(_prediction(layout, arm, seed) / f"{case.id}.png"), PREDICTED))
    return outlined_png(image, layers, classes)


def find_predicted(cases: list[PredictedCase], id: str) -> PredictedCase:
    """The case of an id; raises a MeddiffError where there is none."""
    for case in cases:
        if case.id == id:
            return case
    raise MeddiffError(id, "there is no such test case", "Go back to the list")


def _prediction(layout: Layout, arm: str, seed: int | None) -> Path:
    return layout.report / "predictions" / arm / str(seed)


@lru_cache(maxsize=2)
def _predicted(layout: Layout, stamp: int) -> list[PredictedCase]:
    table = mean_over_classes(CASE_SCORES.read(layout.report))
    return [_view(str(id), rows) for id, rows in table.groupby("case", sort=False)]


def _view(id: str, rows: pd.DataFrame) -> PredictedCase:
    if rows["stratum"].iloc[0] == "empty":  # where there is no lesion, overlap says nothing
        rows = rows.assign(dice=math.nan)
    by_seed = {str(arm): {int(seed): float(dice) for seed, dice in part[["seed", "dice"]].itertuples(index=False)}
               for arm, part in rows.groupby("arm", sort=False)}
    return PredictedCase(id, str(rows["stratum"].iloc[0]), {str(arm): float(part["dice"].mean()) for arm, part in
                                                       rows.groupby("arm", sort=False)}, by_seed)
