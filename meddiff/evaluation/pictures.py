"""The pictures of the report: which cases and pairs are shown, and what stands under them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from meddiff.cases import Case, Pixels
from meddiff.evaluation.arms import arm_name, main_arms
from meddiff.evaluation.figures import Pair, Shown, arms_plot, case_sheet, contact_sheet, gain_plot, loss_plot
from meddiff.evaluation.page import headline
from meddiff.evaluation.summary import Summary, score_matrix
from meddiff.pages import Picture
from meddiff.params.arms import BASELINE

_Predictions = Mapping[tuple[str, int], Pixels]    # `[N, S, S]` of 0 to K by arm and seed


def save_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write each as `NAME.png` into a new folder."""
    folder.mkdir()
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png)


def make_pictures(table: pd.DataFrame, summary: Summary, cases: Sequence[Case], predictions: _Predictions, pairs: Sequence[Pair],
                  losses: NDArray[np.float64], number: int, classes: int) -> list[Picture]:
    """Scores, gain, test cases, accepted pairs and the generator's loss, without those of which there is nothing to show.

    Args:
        table: `per_case.csv` with one row a case, arm and seed, of the cases that may be shown.
        cases: the N test cases.
        predictions: arm and seed -> masks `[N, S, S]` of 0 to K.
        pairs: drawn at random from the accepted ones.
        losses: of each step of the fine-tuning.
        number: of cases to show.
        classes: K.
    """
    scored = set(table["case"])
    at = [i for i, case in enumerate(cases) if case.id in scored]
    cases, predictions = [cases[i] for i in at], {key: masks[at] for key, masks in predictions.items()}
    dice = {arm: score_matrix(table, arm, "dice") for arm in summary.arms}
    means = {arm: np.array([_mean(row) for row in scores]) for arm, scores in dice.items()}
    pictures = [_picture("dice", arms_plot(means, {arm: scores["dice"] for arm, scores in summary.arms.items()}),
                         "Mean Dice of each arm: the bar is its interval, a stroke is one training seed. The arms share test "
                         "cases, so that bars may overlap although the paired gain is clear.")]
    first, gain = headline(summary)
    if gain and gain.cases:
        gains = np.array([_mean(column) for column in (dice[first] - dice[BASELINE]).T])
        pictures.append(_picture("gain", gain_plot(gains, gain),
                                 f"Dice of each test case, {arm_name(first)}, less that with real images only; mean over seeds."))
    shown = _spaced(cases, predictions, {arm: dice[arm] for arm in main_arms(list(dice))}, number)
    pictures.append(_picture("cases", case_sheet(shown, classes),
                             "Evenly spaced from the best to the worst test case by mean Dice; predictions of the first seed:"))
    if pairs:
        pictures.append(_picture("pairs", contact_sheet(pairs, classes),
                                 "Drawn at random from the accepted pairs, not picked by eye."))
    if len(losses):
        pictures.append(_picture("loss", loss_plot(losses), "Training loss of the generator."))
    return pictures


def _spaced(cases: Sequence[Case], predictions: _Predictions, dice: dict[str, NDArray[np.float64]], number: int) -> list[Shown]:
    """Test cases evenly spaced from the best to the worst, by mean Dice over arms and seeds."""
    score = np.array([_mean(column) for column in np.concatenate(list(dice.values())).T])
    order = np.argsort(-score, kind="stable")[:max(1, int(np.isfinite(score).sum()))]  # NaN sorts to the end
    at = np.unique(np.linspace(0, len(order) - 1, number).round().astype(int))
    first = {arm: min(seed for name, seed in predictions if name == arm) for arm in dice}
    return [Shown(cases[i], {arm: predictions[arm, seed][i] for arm, seed in first.items()},
                  {arm: float(scores[0, i]) for arm, scores in dice.items()}) for i in order[at]]


def _picture(name: str, figure: Figure, caption: str) -> Picture:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Picture(name, stream.getvalue(), caption)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
