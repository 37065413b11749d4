"""Which arm to use on this dataset, and how many more annotated images it is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from meddiff.errors import MeddiffError
from meddiff.evaluation.arms import arm_name, best_arm
from meddiff.evaluation.bootstrap import LEAST_SEEDS, Interval, gain_interval, mean_interval, resampled_means
from meddiff.evaluation.summary import Advice, bootstrap_of, score_matrix
from meddiff.pages import counted, points
from meddiff.params import EvaluateParams
from meddiff.params.arms import BASELINE


def advise(scores: pd.DataFrame, training: pd.DataFrame, arms: Mapping[str, Mapping[str, Interval]],
           settings: EvaluateParams) -> Advice | None:
    """Choose the arm by the validation cases; None where they say nothing.

    Args:
        scores: `validation_cases.csv`.
        training: `validation.csv`.
        arms: arm -> metric -> what it is on the test cases.
        settings: resamples, confidence and seed of the bootstrap.
    """
    arm, lesions = best_arm(training), scores[scores["dice"].notna()]
    if arm is None or arm not in set(lesions["arm"]) or math.isnan(arms[arm]["dice"].mean):
        return None
    how = bootstrap_of(lesions, settings)
    own, compared = score_matrix(lesions, arm, "dice"), arm != BASELINE and BASELINE in set(lesions["arm"])
    lead = gain_interval(score_matrix(lesions, BASELINE, "dice"), own, *how) if compared else None
    return Advice(arm, training["arm"].nunique(), mean_interval(own, *how), lead, arms[arm]["dice"])


def advice_sentence(advice: Advice) -> str:
    """Which arm to use, with the reason and the honest figure."""
    chosen, lead = advice.validation, advice.lead
    words = (f"Use the arm {advice.arm} ({arm_name(advice.arm)}): the best of {advice.among} on the validation cases, Dice "
             f"{_words(chosen)}; {chosen.cases} cases, {counted(chosen.seeds, 'seed')}.")
    if lead:
        words += (f" Over real images only there: {points(lead.mean)} points ({lead.confidence:.0%} interval "
                  f"{points(lead.lower)} to {points(lead.upper)})")
        words += "." if lead.lower > 0 and lead.decided else ", which doesn't show that it is better."
    return f"{words} On the test cases, which had no say in it: Dice {_words(advice.test)}."


def worth_command(labelled: int) -> str:
    """What tells how many more annotated images than so many an arm is worth: budgets from half to four times as many."""
    return f"meddiff advise --budgets {','.join(str(max(2, labelled * factor // 2)) for factor in (1, 2, 4, 8))}"


@dataclass(frozen=True)
class Worth:
    """With how many annotated images the real arm would be as good as another arm, from its curve over budgets.

    Attributes:
        arm: the other.
        labelled: annotated images that it learned from.
        dice: its own.
        equal, lower, upper: annotated images of the real arm, with the bounds of an interval; infinite beyond the largest budget.
        budgets: annotated images of the curve, ascending.
        curve: Dice of the real arm at each, never falling.
        confidence, cases, seeds: as of an `Interval`.
        part: whose cases they are, `validation` or `test`.
    """

    arm: str
    labelled: int
    dice: float
    equal: float
    lower: float
    upper: float
    budgets: tuple[int, ...]
    curve: tuple[float, ...]
    confidence: float
    cases: int
    seeds: int
    part: str = "validation"

    @property
    def sentence(self) -> str:
        curve = ", ".join(f"{dice:.3f} at {budget}" for budget, dice in zip(self.budgets, self.curve, strict=True))
        basis = (f"The real arm's Dice by annotated images: {curve}; that of the arm {self.arm} with {self.labelled}: "
                 f"{self.dice:.3f} ({self.cases} {self.part} cases, {counted(self.seeds, 'seed')})")
        if self.seeds < LEAST_SEEDS:
            return f"How many more annotated images that is worth can't be told: it needs {LEAST_SEEDS} training seeds. {basis}."
        bounds = f"{self.confidence:.0%} interval {self._more(self.lower)} to {self._more(self.upper)}"
        if self.upper <= self.labelled:
            return f"Worth no more annotated images. {basis}."
        about = "" if math.isinf(self.equal) else "about "
        return f"Worth {about}{self._more(self.equal)} more annotated images ({bounds}). {basis}."

    def _more(self, images: float) -> str:
        return (f"over {self.budgets[-1] - self.labelled}" if math.isinf(images)
                else str(max(0, round(images) - self.labelled)))


def worth(arm: str, labelled: int, own: NDArray[np.float64], real: Mapping[int, NDArray[np.float64]], groups: Sequence[str],
          settings: EvaluateParams, part: str = "validation") -> Worth:
    """Where the real arm's curve over budgets reaches the Dice of another arm.

    The curve is the monotone one that comes nearest to the means (isotonic regression), with straight lines between budgets over
    their logarithm. The bootstrap draws seeds and patients, the same for the arm and all budgets.

    Args:
        arm, labelled, part: see `Worth`.
        own: `[S, C]` Dice of the arm, S seeds and C cases with a lesion.
        real: budget -> `[S, C]` of the real arm, same seeds and cases.
        groups: patient of each case.
        settings: resamples, confidence and seed of the bootstrap.

    Raises:
        MeddiffError: the tables aren't of the same seeds and cases.
    """
    budgets = tuple(sorted(real))
    if shapes := {table.shape for table in real.values()} - {own.shape}:
        raise MeddiffError("budgets", f"all must have the seeds and cases of the arm {arm}, {own.shape}, not {shapes.pop()}",
                           "Run `dvc repro` and the budgets anew")
    draws = [resampled_means(table, groups, settings.resamples, settings.seed) for table in (own, *(real[b] for b in budgets))]
    equal = [_reached(budgets, drawn[1:], drawn[0]) for drawn in np.stack(draws, axis=1)]
    tail = (1 - settings.confidence) / 2
    lower, upper = np.quantile(equal, [tail, 1 - tail], method="nearest")
    means = np.array([np.nanmean(real[budget]) for budget in budgets])
    curve, dice = isotonic_regression(means).x, float(np.nanmean(own))
    return Worth(arm, labelled, dice, _reached(budgets, means, dice), float(lower), float(upper), budgets,
                 tuple(float(value) for value in curve), settings.confidence, own.shape[1], len(own), part)


def _reached(budgets: Sequence[int], means: NDArray[np.float64], dice: float) -> float:
    """The least budget at which the monotone curve through the means has this Dice, infinite beyond the last."""
    curve, places = isotonic_regression(means).x, np.log2(budgets)
    if dice > curve[-1]:
        return math.inf
    i = int(np.searchsorted(curve, dice))
    if i == 0:
        return float(budgets[0])
    return float(2 ** np.interp(dice, curve[i - 1:i + 1], places[i - 1:i + 1]))


def _words(dice: Interval) -> str:
    return f"{dice.mean:.3f} ({dice.confidence:.0%} interval {dice.lower:.3f} to {dice.upper:.3f})"
