"""The arm to use is chosen on validation cases, and its worth read off the real arm's curve over budgets."""

import math

import numpy as np
import pandas as pd
import pytest

from meddiff.errors import MeddiffError
from meddiff.evaluation.advice import advice_sentence, advise, worth
from meddiff.evaluation.arms import best_arm
from meddiff.evaluation.bootstrap import Interval
from meddiff.params import EvaluateParams

SETTINGS = EvaluateParams(resamples=300)
TEST = {arm: {"dice": Interval(dice, dice - 0.03, dice + 0.03, 0.95, 50, 3)} for arm, dice in (("real", 0.7), ("combined", 0.68))}
GROUPS = [f"p{i}" for i in range(12)]


def scores(means: dict[str, float], seeds: int = 3, cases: int = 12) -> pd.DataFrame:
    """The validation cases of each arm around its mean, and a lesion-free one."""
    rows = []
    for arm, mean in means.items():
        for seed in range(seeds):
            rows += [{"case": f"c{i}", "group": f"p{i}", "arm": arm, "seed": seed, "silent": 0,
                      "dice": mean + 0.02 * (i - (cases - 1) / 2) + 0.005 * (seed - (seeds - 1) / 2)} for i in range(cases)]
            rows.append({"case": "free", "group": "q", "arm": arm, "seed": seed, "silent": 1, "dice": math.nan})
    return pd.DataFrame(rows)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """As `validation.csv` has them."""
    return table.groupby(["arm", "seed"], sort=False, as_index=False)["dice"].mean()


def test_the_best_arm_is_that_of_the_highest_mean_and_of_equal_ones_the_first() -> None:
    table = pd.DataFrame({"arm": ["real", "real", "combined", "combined", "synthetic"], "seed": [0, 1, 0, 1, 0],
                          "dice": [0.6, 0.6, 0.5, 0.7, math.nan]})
    assert best_arm(table) == "real"
    assert best_arm(table.assign(dice=[0.6, 0.6, 0.6, 0.7, math.nan])) == "combined"
    assert best_arm(table.assign(dice=math.nan)) is None


def test_the_arm_is_chosen_on_validation_cases_whatever_the_test_says() -> None:
    table = scores({"real": 0.6, "combined": 0.65})
    advice = advise(table, means(table), TEST, SETTINGS)
    assert advice is not None
    assert (advice.arm, advice.among, advice.validation.cases, advice.validation.seeds) == ("combined", 2, 12, 3)
    assert advice.validation.mean == pytest.approx(0.65)
    assert advice.lead is not None
    assert (advice.lead.mean, advice.lead.lower) == pytest.approx((0.05, 0.05))
    words = advice_sentence(advice)
    assert words.startswith("Use the arm combined (real + synthetic + unlabelled images): the best of 2 on the validation cases")
    assert "+5.0 points" in words
    assert words.endswith("On the test cases, which had no say in it: Dice 0.680 (95% interval 0.650 to 0.710).")
    assert "doesn't show" not in words


def test_a_lead_of_two_seeds_or_around_zero_shows_nothing() -> None:
    table = scores({"real": 0.6, "combined": 0.65}, seeds=2)
    advice = advise(table, means(table), TEST, SETTINGS)
    assert advice is not None
    assert ", which doesn't show that it is better." in advice_sentence(advice)
    alone = scores({"real": 0.6})
    plain = advise(alone, means(alone), TEST, SETTINGS)
    assert plain is not None
    assert plain.lead is None


def test_without_scores_there_is_no_advice() -> None:
    table = scores({"real": 0.6})
    assert advise(table.assign(dice=math.nan), means(table), TEST, SETTINGS) is None
    assert advise(table, means(table).assign(dice=math.nan), TEST, SETTINGS) is None
    unknown = {"real": {"dice": Interval(math.nan, math.nan, math.nan, 0.95, 0, 3)}}
    assert advise(table, means(table), unknown, SETTINGS) is None


def matrix(mean: float, seeds: int = 3) -> np.ndarray:
    return mean + np.linspace(-0.05, 0.05, 12)[None] + np.linspace(-0.01, 0.01, seeds)[:, None]


CURVE = {10: 0.5, 20: 0.6, 40: 0.7, 80: 0.75}


def test_the_worth_is_read_off_the_real_arms_curve() -> None:
    made = worth("combined", 20, matrix(0.65), {budget: matrix(dice) for budget, dice in CURVE.items()}, GROUPS, SETTINGS)
    assert made.curve == pytest.approx(tuple(CURVE.values()))
    assert made.equal == pytest.approx(2 ** ((np.log2(20) + np.log2(40)) / 2), rel=1e-6)    # half way of the logarithm
    assert made.lower == pytest.approx(made.equal) == made.upper                            # paired: all move alike
    assert made.sentence.startswith(
        "Worth about 8 more annotated images (95% interval 8 to 8). The real arm's Dice by annotated images: 0.500 at 10, "
        "0.600 at 20, 0.700 at 40, 0.750 at 80; that of the arm combined with 20: 0.650 (12 validation cases, 3 seeds)")


def test_a_curve_that_falls_is_made_monotone_and_its_worth_has_a_width() -> None:
    rng = np.random.default_rng(0)
    real = {budget: matrix(dice) + rng.normal(0, 0.1, (3, 12)) for budget, dice in {10: 0.5, 20: 0.62, 40: 0.6, 80: 0.75}.items()}
    made = worth("combined", 20, matrix(0.66), real, GROUPS, SETTINGS)
    assert list(made.curve) == sorted(made.curve)
    assert made.lower < made.equal < made.upper


@pytest.mark.parametrize(("dice", "words"), [
    (0.9, "Worth over 60 more annotated images (95% interval over 60 to over 60)."),
    (0.55, "Worth no more annotated images."),
    (0.4, "Worth no more annotated images."),
])
def test_beyond_the_curve_nothing_is_made_up(dice: float, words: str) -> None:
    made = worth("combined", 20, matrix(dice), {budget: matrix(each) for budget, each in CURVE.items()}, GROUPS, SETTINGS)
    assert made.sentence.startswith(words)


def test_the_worth_of_two_seeds_cannot_be_told() -> None:
    made = worth("combined", 20, matrix(0.65, 2), {budget: matrix(dice, 2) for budget, dice in CURVE.items()}, GROUPS, SETTINGS)
    assert made.sentence.startswith("How many more annotated images that is worth can't be told: it needs 3 training seeds.")


def test_budgets_of_other_seeds_are_refused() -> None:
    with pytest.raises(MeddiffError, match=r"budgets: all must have the seeds and cases of the arm combined, \(3, 12\)"):
        worth("combined", 20, matrix(0.65), {20: matrix(0.6), 40: matrix(0.7, 2)}, GROUPS, SETTINGS)
