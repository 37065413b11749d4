"""Gains of a benchmark: pairing, intervals, p-values, Holm's correction, the average over datasets."""

import numpy as np
import pandas as pd
import pytest

from meddiff.evaluation.bootstrap import bootstrap_p, holm
from meddiff.experiments.benchmark.significance import AVERAGE, by_size, detection, gains, scores
from meddiff.params import EvaluateParams

QUICK = EvaluateParams(resamples=400)


def table(dataset: str, effects: dict[str, float], budget: int | str = 40, seeds: tuple[int, ...] = (0, 1, 2), cases: int = 30,
          noise: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(len(dataset) + len(str(budget)))
    level = rng.uniform(0.4, 0.8, cases)
    rows = []
    for arm, effect in effects.items():
        for seed in seeds:
            for case in range(cases):
                dice = float(level[case] + effect + noise * rng.standard_normal())
                rows.append({"dataset": dataset, "budget": budget, "case": f"c{case}", "group": f"g{case // 2}",
                             "class": "lesion", "arm": arm, "seed": seed, "dice": dice, "iou": dice / 2, "hd95": np.nan,
                             "nsd": dice, "lesions": 1, "found": 1, "false_positives": 0, "lesion_area": 0.1, "stratum": "small"})
    return pd.DataFrame(rows)


def one(found: pd.DataFrame, dataset: str, arm: str, against: str = "real", metric: str = "dice") -> "pd.Series[float]":
    return found[(found["dataset"] == dataset) & (found["arm"] == arm) & (found["against"] == against)
                 & (found["metric"] == metric)].iloc[0]


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


def test_the_combined_arm_is_held_against_its_parts() -> None:
    found = gains(table("one", {"real": 0.0, "self_training": 0.03, "synthetic": 0.02, "combined": 0.05}), QUICK)
    over = {against: one(found, "one", "combined", against)["mean"] for against in ("real", "synthetic", "self_training")}
    assert over == pytest.approx({"real": 0.05, "synthetic": 0.03, "self_training": 0.02}, abs=0.006)


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
    assert set(found["budget"]) == {10, 40}
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
    assert (distance["left_out"] == 90).all()
    dice = found[found["metric"] == "dice"]
    assert (dice["cases"] == 30).all()
    assert (dice["left_out"] == 0).all()


def test_all_is_one_budget_of_all_datasets() -> None:
    """However many cases each of them has."""
    parts = [table(name, {"real": 0.0, "synthetic": 0.02}, budget) for name in ("a", "bb") for budget in (40, "all")]
    found = gains(pd.concat(parts), QUICK)
    of_all = found[found["budget"] == "all"]
    assert one(of_all, "a", "synthetic")["p_holm"] == pytest.approx(min(1, 2 * one(of_all, "a", "synthetic")["p"]))
    assert one(of_all, AVERAGE, "synthetic")["cases"] == 60
    assert set(scores(pd.concat(parts), QUICK)["budget"]) == {40, "all"}


def test_filter_and_corrosion_are_rivals_and_every_metric_is_compared() -> None:
    whole = table("a", {"real": 0.0, "synthetic": 0.05, "unfiltered": 0.02, "uncorroded": 0.04}, noise=0.0)
    whole.loc[whole["case"] != "c0", "hd95"] = 4 - 10 * whole["dice"]
    found = gains(whole, QUICK)
    assert one(found, "a", "synthetic", "unfiltered")["mean"] == pytest.approx(0.03)
    assert one(found, "a", "synthetic", "uncorroded")["mean"] == pytest.approx(0.01)
    assert one(found, "a", "synthetic", metric="iou")["mean"] == pytest.approx(0.025)
    distance = one(found, "a", "synthetic", metric="hd95")
    assert distance["mean"] == pytest.approx(-0.5)
    assert distance["cases"] == 29


def test_sizes_have_scores_and_gains_of_their_own() -> None:
    whole = table("a", {"real": 0.0, "synthetic": 0.0}, noise=0.0)
    large = whole["case"].isin([f"c{i}" for i in range(10)])
    whole.loc[large, "stratum"] = "large"
    whole.loc[large & (whole["arm"] == "synthetic"), "dice"] += 0.1
    found = by_size(whole, QUICK).set_index(["stratum", "arm", "metric"])
    assert found.loc[("large", "synthetic", "dice"), "gain"] == pytest.approx(0.1)
    assert found.loc[("small", "synthetic", "dice"), "gain"] == pytest.approx(0.0)
    assert found.loc[("large", "synthetic", "dice"), "cases"] == 10
    assert np.isnan(found.loc[("large", "real", "dice"), "gain"])
    assert np.isnan(found.loc[("large", "synthetic", "iou"), "gain"])


def test_detection_tells_of_lesion_free_cases() -> None:
    whole = table("a", {"real": 0.0, "synthetic": 0.0})
    whole.loc[whole["case"] == "c3", "found"] = 0
    free = whole[whole["case"].isin(["c1", "c2"])].assign(stratum="empty", lesions=0, found=0, dice=np.nan)
    free["case"] = "free " + free["case"]
    free.loc[(free["arm"] == "synthetic") & (free["case"] == "free c1"), "false_positives"] = 1
    found = detection(pd.concat([whole, free]), QUICK).set_index("arm")
    assert found.loc["real", "specificity"] == 1
    assert found.loc["synthetic", "specificity"] == pytest.approx(0.5)
    assert found.loc["real", "free"] == 2
    assert found.loc["real", "found"] == pytest.approx(29 / 30)
    assert found.loc["real", "lesions"] == 30
    without = detection(whole, QUICK).iloc[0]
    assert np.isnan(without["specificity"])
    assert without["free"] == 0
