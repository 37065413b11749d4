"""Gains of a benchmark: pairing, intervals, p-values, Holm's correction, the average over datasets."""

import numpy as np
import pandas as pd
import pytest

from meddiff.bootstrap import bootstrap_p, holm
from meddiff.params import EvaluateParams
from meddiff.significance import AVERAGE, gains, scores

QUICK = EvaluateParams(resamples=400)


def table(dataset: str, effects: dict[str, float], budget: int = 40, seeds: tuple[int, ...] = (0, 1, 2), cases: int = 30,
          noise: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(len(dataset) + budget)
    level = rng.uniform(0.4, 0.8, cases)
    rows = []
    for arm, effect in effects.items():
        for seed in seeds:
            for case in range(cases):
                dice = float(level[case] + effect + noise * rng.standard_normal())
                rows.append({"dataset": dataset, "budget": budget, "case": f"c{case}", "group": f"g{case // 2}",
                             "class": "lesion", "arm": arm, "seed": seed, "dice": dice, "iou": dice / 2, "hd95": np.nan,
                             "nsd": dice, "lesion_area": 0.1, "stratum": "small"})
    return pd.DataFrame(rows)


def one(found: pd.DataFrame, dataset: str, arm: str, against: str = "real") -> "pd.Series[float]":
    return found[(found["dataset"] == dataset) & (found["arm"] == arm) & (found["against"] == against)].iloc[0]


def test_holm_steps_down_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    with_nan = holm([float("nan"), 0.02])
    assert np.isnan(with_nan[0])
    assert with_nan[1] == pytest.approx(0.02)


def test_p_is_two_sided_and_never_zero() -> None:
    draws = np.linspace(-0.1, 0.9, 1000)
    assert bootstrap_p(draws) == pytest.approx(0.2, abs=0.01)
    assert bootstrap_p(-draws) == pytest.approx(bootstrap_p(draws))
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(10)) == 1.0


def test_a_real_gain_is_found_and_none_is_not_invented() -> None:
    both = pd.concat([table("one", {"real": 0.0, "synthetic": 0.05, "copy_paste": 0.05}),
                      table("other", {"real": 0.0, "synthetic": 0.0})])
    found = gains(both, QUICK)
    good = one(found, "one", "synthetic")
    assert good["lower"] > 0.03
    assert good["upper"] < 0.07
    assert good["p_holm"] == pytest.approx(2 * good["p"])
    null = one(found, "other", "synthetic")
    assert null["lower"] < 0 < null["upper"]
    assert null["p_holm"] > 0.05
    rival = one(found, "one", "synthetic", "copy_paste")
    assert rival["lower"] < 0 < rival["upper"]
    assert rival["p_holm"] == rival["p"]  # one dataset has that comparison


def test_the_average_is_that_of_the_datasets_and_narrower() -> None:
    found = gains(pd.concat([table("a", {"real": 0.0, "synthetic": 0.02}),
                             table("bb", {"real": 0.0, "synthetic": 0.04}, cases=60)]), QUICK)
    mean, parts = one(found, AVERAGE, "synthetic"), [one(found, name, "synthetic") for name in ("a", "bb")]
    assert mean["mean"] == pytest.approx((parts[0]["mean"] + parts[1]["mean"]) / 2)
    assert mean["upper"] - mean["lower"] < max(part["upper"] - part["lower"] for part in parts)
    assert mean["cases"] == 90


def test_arms_are_paired_on_the_seeds_that_both_have() -> None:
    part = pd.concat([table("a", {"real": 0.0, "synthetic": 0.02}), table("a", {"paper": -0.1}, seeds=(0, 1))])
    found = gains(part, QUICK)
    assert one(found, "a", "synthetic")["seeds"] == 3
    assert one(found, "a", "paper")["seeds"] == 2
    assert one(found, "a", "synthetic", "paper")["seeds"] == 2
    alone = pd.concat([table("a", {"real": 0.0}, seeds=(0,)), table("a", {"synthetic": 0.0}, seeds=(1,))])
    assert gains(alone, QUICK).empty


def test_budgets_are_families_of_their_own() -> None:
    found = gains(pd.concat([table("a", {"real": 0.0, "synthetic": 0.02}, budget=budget) for budget in (10, 40)]), QUICK)
    assert sorted(found["budget"]) == [10, 40]
    assert (found["p"] == found["p_holm"]).all()


def test_lesion_free_cases_and_undefined_scores_stay_out() -> None:
    whole = table("a", {"real": 0.0, "synthetic": 0.02})
    free = whole.iloc[:1].assign(case="free", stratum="empty", dice=0.0)
    pd.testing.assert_frame_equal(scores(pd.concat([whole, free]), QUICK), scores(whole, QUICK))
    found = scores(whole, QUICK)
    assert set(found["metric"]) == {"dice", "iou", "hd95", "nsd"}
    distance = found[found["metric"] == "hd95"]
    assert distance["mean"].isna().all()
    assert (distance["cases"] == 0).all()
    assert (found[found["metric"] == "dice"]["cases"] == 30).all()
