"""The numbers of an evaluation, from tables small enough to check by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from meddiff.errors import MeddiffError
from meddiff.evaluation.quality import Quality, assess
from meddiff.evaluation.summary import mean_over_classes, score_matrix, size_strata, summarise
from meddiff.params import EvaluateParams

SETTINGS = EvaluateParams(resamples=200)
QUALITY = Quality(10, 4, 1, 2, 0, {"copy": 1, "implausible": 5})


def scores(arms: tuple[str, ...] = ("real", "synthetic"), cases: int = 9, seeds: int = 2, nan: bool = False) -> pd.DataFrame:
    """Each case scores 0.1 more in the synthetic arm; the first has no surface distance in the real arm."""
    rows = []
    for arm in arms:
        for seed in range(seeds):
            for i in range(cases):
                dice = 0.3 + 0.05 * i + (0.1 if arm != "real" else 0)
                rows.append({"case": f"c{i}", "group": f"p{i}", "class": "lesion", "arm": arm, "seed": seed,
                             "dice": math.nan if nan else dice, "iou": dice,
                             "hd95": math.nan if i == 0 and arm == "real" else 3.0, "nsd": dice,
                             "lesions": 1, "found": int(arm != "real" or i > 2), "false_positives": int(i == 4),
                             "lesion_area": 0.01 * (i + 1), "stratum": ("small", "medium", "large")[i // 3]})
    return pd.DataFrame(rows)


def training(seeds: int = 2) -> pd.DataFrame:
    return pd.DataFrame([{"arm": arm, "seed": s, "dice": 0.5, "steps": 20, "n_real": 8, "n_synthetic": n}
                         for arm, n in (("real", 0), ("synthetic", 4)) for s in range(seeds)])


def test_means_gain_sizes_and_exclusions():
    summary = summarise(scores(), training(), QUALITY, SETTINGS)
    assert summary.arms["real"]["dice"].mean == pytest.approx(0.5)
    assert summary.arms["synthetic"]["dice"].mean == pytest.approx(0.6)
    assert summary.gain is not None
    assert (summary.gain.mean, summary.gain.lower, summary.gain.upper) == pytest.approx((0.1, 0.1, 0.1))
    assert (summary.gain.cases, summary.gain.seeds) == (9, 2)
    assert list(summary.by_size) == ["small", "medium", "large"]
    assert summary.by_size["large"]["real"].mean == pytest.approx(0.65)
    assert summary.by_size["small"]["gain"].mean == pytest.approx(0.1)
    assert summary.excluded == {"real": {"dice": 0, "iou": 0, "hd95": 2, "nsd": 0},
                                "synthetic": {"dice": 0, "iou": 0, "hd95": 0, "nsd": 0}}
    assert (summary.n_real, summary.n_synthetic, summary.steps) == (8, 4, 20)
    real = summary.detection["real"].sensitivity
    assert summary.headlines() == pytest.approx({"dice_real": 0.5, "dice_synthetic": 0.6, "acceptance": 0.4, "copies": 0.1,
                                                 "gain": 0.1, "gain_lower": 0.1, "gain_upper": 0.1, "gain_seeds": 2,
                                                 "sensitivity_real": 6 / 9, "sensitivity_real_lower": real.lower,
                                                 "sensitivity_real_upper": real.upper, "sensitivity_synthetic": 1,
                                                 "sensitivity_synthetic_lower": 1, "sensitivity_synthetic_upper": 1})


def test_undefined_numbers_become_null_and_no_headline():
    summary = summarise(scores(nan=True), training(), Quality(0, 0, 0, 0, 0, {}), SETTINGS)
    values = json.loads(json.dumps(summary.as_json(), allow_nan=False))
    assert values["arms"]["real"]["dice"]["mean"] is None
    assert values["gain"]["lower"] is None
    assert values["acceptance"] is None
    assert values["excluded"]["real"]["dice"] == 18
    assert {name for name in summary.headlines() if not name.startswith("sensitivity_")} == set()


def test_the_json_holds_what_readers_rely_on():
    values = summarise(scores(), training(), QUALITY, SETTINGS).as_json()
    assert set(values["gain"]) == {"mean", "lower", "upper", "confidence", "cases", "seeds"}
    assert (values["acceptance"], values["copies"], values["quarantined"]) == (0.4, 0.1, 0)
    assert (values["generated"], values["accepted"], values["n_real"], values["n_synthetic"]) == (10, 4, 8, 4)
    assert values["reasons"] == {"copy": 1, "implausible": 5}


def test_one_arm_has_no_gain():
    summary = summarise(scores(("synthetic",)), training(), QUALITY, SETTINGS)
    assert summary.gain is None
    assert list(summary.by_size["small"]) == ["synthetic"]
    assert "gain" not in summary.headlines()


def test_a_missing_score_is_an_error():
    with pytest.raises(MeddiffError, match=r"per_case.csv: arm synthetic must hold 9 cases"):
        summarise(scores().iloc[:-1], training(), QUALITY, SETTINGS)


def test_score_matrices_of_all_arms_share_their_axes():
    table = scores(cases=3).sample(frac=1, random_state=0)
    real, synthetic = (score_matrix(table, arm, "dice") for arm in ("real", "synthetic"))
    assert real.shape == (2, 3)
    assert np.allclose(synthetic - real, 0.1)


def test_cases_without_a_patient_are_patients_of_their_own():
    """All in one empty group, every resample would be the whole table and the interval have no width."""
    table = scores().assign(group="")
    assert summarise(table, training(), QUALITY, SETTINGS).arms["real"]["dice"].lower < 0.5
    one = summarise(table.assign(group="p"), training(), QUALITY, SETTINGS).arms["real"]["dice"]
    assert one.lower == pytest.approx(one.upper)


def test_size_strata_are_tertiles_of_the_lesions():
    assert size_strata([0.3, 0.1, 0.2, 0.0]) == ["large", "small", "medium", "empty"]
    assert [size_strata([0.01 * i for i in range(1, 31)]).count(s) for s in ("small", "medium", "large")] == [10, 10, 10]
    assert size_strata([0.0]) == ["empty"]


def test_what_people_kept_is_counted_and_told_where_there_is_any():
    decisions = pd.DataFrame([("accepted", ""), ("accepted", "person"), ("rejected", "person")], columns=["verdict", "reason"])
    quality = assess(decisions, ["b0"] * 3, 0)
    assert (quality.accepted, quality.kept, quality.reasons) == (2, 1, {"person": 1})
    assert summarise(scores(), training(), quality, SETTINGS).as_json()["kept"] == 1
    assert "kept" not in summarise(scores(), training(), QUALITY, SETTINGS).as_json()


def test_assess_counts_verdicts_and_copies():
    decisions = pd.DataFrame(
        [("accepted", ""), ("rejected", "copy"), ("rejected", "agreement"), ("rejected", "agreement"),
         ("quarantined", "batch: copy of nothing"), ("quarantined", "batch: acceptance; copy")], columns=["verdict", "reason"])
    quality = assess(decisions, ["b0"] * 4 + ["b1"] * 2, 1)
    assert (quality.generated, quality.accepted, quality.copies, quality.batches, quality.quarantined) == (6, 1, 2, 2, 1)
    assert quality.reasons == {"agreement": 2, "batch quarantined": 2, "copy": 1}
    assert quality.acceptance == pytest.approx(1 / 6)
    assert quality.kept == 0
    assert math.isnan(Quality(0, 0, 0, 0, 0, {}).acceptance)


def test_further_arms_stand_beside_the_gain_and_are_held_against_the_synthetic_one():
    table = scores(("real", "synthetic", "uncorroded"))
    table.loc[table["arm"] == "uncorroded", "dice"] -= 0.03
    summary = summarise(table, training(), QUALITY, SETTINGS)
    assert list(summary.arms) == ["real", "synthetic", "uncorroded"]
    assert summary.gain is not None
    assert summary.gain.mean == pytest.approx(0.1)
    assert {arm: effect.mean for arm, effect in summary.effects.items()} == pytest.approx({"uncorroded": 0.03})
    assert summary.as_json()["effects"]["uncorroded"]["mean"] == pytest.approx(0.03)
    assert {arm: gain.mean for arm, gain in summary.gains.items()} == pytest.approx({"synthetic": 0.1, "uncorroded": 0.07})
    assert summary.gains["synthetic"] == summary.gain
    assert summary.headlines()["gain_uncorroded"] == pytest.approx(0.07)
    assert summarise(scores(("synthetic", "uncorroded")), training(), QUALITY, SETTINGS).gains == {}
    assert list(summary.by_size["small"]) == ["real", "synthetic", "uncorroded", "gain"]
    assert summarise(scores(("real", "uncorroded")), training(), QUALITY, SETTINGS).effects == {}


def test_with_several_classes_a_case_counts_by_its_mean_over_those_it_has():
    first, second = scores().assign(**{"class": "benign"}), scores().assign(**{"class": "malignant"})
    second["dice"] = second["dice"] - 0.2
    second.loc[second["case"] == "c8", "dice"] = math.nan       # neither there nor predicted
    table = pd.concat([first, second], ignore_index=True)
    means = mean_over_classes(table).set_index(["arm", "seed", "case"])["dice"]
    assert means["real", 0, "c0"] == pytest.approx(0.2)
    assert means["real", 1, "c8"] == pytest.approx(0.7)
    summary = summarise(table, training(), QUALITY, SETTINGS)
    assert summary.arms["real"]["dice"].mean == pytest.approx((9 * 0.5 - 8 * 0.1) / 9)
    assert summary.arms["real"]["dice"].cases == 9
    assert summary.gain is not None
    assert summary.gain.mean == pytest.approx(0.1)
    assert list(summary.by_class) == ["benign", "malignant"]
    assert summary.by_class["benign"]["real"].mean == pytest.approx(0.5)
    assert (summary.by_class["malignant"]["gain"].mean, summary.by_class["malignant"]["gain"].cases) == (pytest.approx(0.1), 8)
    assert summary.excluded["real"]["dice"] == 2
    assert summary.as_json()["by_class"]["malignant"]["real"]["mean"] == pytest.approx((8 * 0.5 - 0.25 - 1.6) / 8, abs=0.1)


def test_one_class_has_no_rows_by_class():
    assert summarise(scores(), training(), QUALITY, SETTINGS).by_class == {}
    assert mean_over_classes(scores()).equals(scores())


def with_lesion_free(table: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Besides, lesion-free cases: the real arm errs in one of them with seed 0, the synthetic arm in half of them."""
    rows = []
    for (arm, seed), _ in table.groupby(["arm", "seed"], sort=False):
        for i in range(n):
            false = int(i == 0 and seed == 0) if arm == "real" else 2 * (i % 2)
            score = 0.0 if false else math.nan
            rows.append({"case": f"free{i}", "group": f"q{i}", "class": "lesion", "arm": arm, "seed": seed, "dice": score,
                         "iou": score, "hd95": math.nan, "nsd": score, "lesions": 0, "found": 0, "false_positives": false,
                         "lesion_area": 0.0, "stratum": "empty"})
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def test_lesion_free_cases_count_for_detection_alone():
    plain, summary = (summarise(table, training(), QUALITY, SETTINGS) for table in (scores(), with_lesion_free(scores())))
    for name in ("arms", "gain", "by_size", "excluded"):
        assert getattr(summary, name) == getattr(plain, name)
    real, synthetic = summary.detection["real"], summary.detection["synthetic"]
    assert (real.specificity.mean, synthetic.specificity.mean) == pytest.approx((7 / 8, 1 / 2))
    assert (real.specificity.cases, real.specificity.seeds) == (4, 2)
    assert real.specificity.lower < 7 / 8 <= real.specificity.upper
    assert (real.lesions_found, synthetic.lesions_found) == pytest.approx((6 / 9, 1))
    assert (real.sensitivity.mean, synthetic.sensitivity.mean) == pytest.approx((6 / 9, 1))
    assert real.sensitivity.lower < 6 / 9 < real.sensitivity.upper
    assert math.isnan(real.decision.mean)
    table = with_lesion_free(scores())
    table = table.assign(dice_undecided=table["dice"] + 0.02)
    decided = summarise(table, training(), QUALITY, SETTINGS).detection["real"].decision
    assert (decided.mean, decided.lower, decided.upper, decided.cases) == pytest.approx((-0.02, -0.02, -0.02, 9))
    assert real.false_positives == pytest.approx(1 / 9)             # of the cases with a lesion
    assert real.lesions == 9
    assert summary.headlines()["specificity_real"] == pytest.approx(7 / 8)
    assert summary.as_json()["detection"]["synthetic"]["specificity"]["mean"] == pytest.approx(1 / 2)
    assert math.isnan(plain.detection["real"].specificity.mean)
    assert "specificity_real" not in plain.headlines()


def test_a_lesion_free_case_is_silent_only_in_all_classes():
    first = with_lesion_free(scores()).assign(**{"class": "benign"})
    second = first.assign(**{"class": "malignant", "false_positives": 0})
    second.loc[(second["case"] == "free2") & (second["arm"] == "real"), "false_positives"] = 1
    table = pd.concat([first, second], ignore_index=True)
    found = summarise(table, training(), QUALITY, SETTINGS).detection["real"]
    assert found.specificity.mean == pytest.approx(5 / 8)
    assert found.lesions == 18
