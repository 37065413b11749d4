"""The benchmark's page and cards: honest words, the numbers of the tables, nothing from outside, gaps told."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meddiff.experiments.benchmark.cards import dataset_card, model_card
from meddiff.experiments.benchmark.figures import figures
from meddiff.experiments.benchmark.page import benchmark_page, limits, verdicts
from meddiff.experiments.benchmark.significance import GAINS
from meddiff.experiments.benchmark.tables import Tables
from meddiff.pages import Picture
from tests.markup import Checker

FACTS: dict[str, Any] = {
    "size": "64",
    "budget": 40,
    "seeds": [0, 1, 2, 3, 4],
    "steps": "400",
    "network": "unet",
    "datasets": ["busi", "a<b>"],
    "device": "cpu",
    "threads": 1,
    "extractor": "lesion",
    "tolerance": "2.0",
    "validation": [97, 321],
    "energy": False,
    "commit": "0123abc",
    "seen": True,
    "paper": False,
    "confidence": 0.95,
    "made": "2026-11-22",
    "command": "meddiff benchmark",
    "foundation": "embedded",
}


def gain(
    dataset: str = "busi",
    arm: str = "synthetic",
    against: str = "real",
    mean: float = 0.03,
    half: float = 0.01,
    p: float = 0.001,
    budget: int | str = 40,
    metric: str = "dice",
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "budget": budget,
        "arm": arm,
        "against": against,
        "metric": metric,
        "mean": mean,
        "lower": mean - half,
        "upper": mean + half,
        "p": p / 2,
        "p_holm": p,
        "cases": 162,
        "seeds": 5,
    }


def score(dataset: str, arm: str, mean: float, budget: int | str = 40) -> list[dict[str, Any]]:
    return [
        {
            "dataset": dataset,
            "budget": budget,
            "arm": arm,
            "metric": metric,
            "mean": np.nan if metric == "hd95" else mean,
            "lower": mean - 0.05,
            "upper": mean + 0.05,
            "cases": 162,
            "seeds": 5,
            "left_out": 7 if metric == "hd95" else 0,
        }
        for metric in ("dice", "iou", "hd95", "nsd")
    ]


def cells() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "budget": 40,
                "seed": seed,
                "recipe": recipe,
                "labelled": 40,
                "validation": 97,
                "samples": 100,
                "accepted": 60 + seed,
                "seconds": 600.0,
                "joules": 84000.0 if dataset == "busi" else float("nan"),
                "stages_run": 9,
                "peak_memory_mb": 1500.0,
                "sets.accepted.kid.lesion.mean": 0.25,
                "sets.accepted.copies.share": 0.013,
                "sets.accepted.copies.expected_share": 0.0102,
                "sets.generated.kid.lesion.mean": 0.5,
            }
            for dataset in ("busi", "a<b>")
            for seed in (0, 1)
            for recipe in ("method", "paper")
        ]
    )


def arms() -> pd.DataFrame:
    used = {"real": (0, 0), "synthetic": (62, 120), "synthetic_x0.5": (20, 20)}
    return pd.DataFrame([{"dataset": dataset, "budget": budget, "seed": seed, "arm": arm, "n_real": n, "n_synthetic": pairs,
                          "n_wanted": wanted} for dataset in ("busi", "a<b>") for budget, n in ((40, 40), ("all", 377))
                         for seed in (0, 1) for arm, (pairs, wanted) in used.items()])


def tables(scores: pd.DataFrame, gains: pd.DataFrame) -> Tables:
    detection = pd.DataFrame([{"dataset": "busi", "budget": 40, "arm": arm, "specificity": 0.75, "lower": 0.6, "upper": 0.9,
                               "free": 44, "found": 0.9, "lesions": 165, "false_positives": 0.31, "seeds": 5}
                              for arm in ("real", "synthetic")])
    sizes = pd.concat([scores.assign(stratum=size, gain=gain, gain_lower=gain, gain_upper=gain)
                       for size, gain in (("small", 0.045), ("large", np.nan))])
    return Tables(scores, gains, cells(), arms(), detection, sizes, pd.DataFrame())


def page(gains: list[dict[str, Any]], missing: list[str] | None = None, scores: list[dict[str, Any]] | None = None) -> str:
    table = pd.DataFrame(
        scores or [*score("busi", "real", 0.611), *score("busi", "synthetic", 0.641), *score("a<b>", "real", 0.8)]
    )
    shown = [
        *figures(table, pd.DataFrame(gains), FACTS),
        Picture("busi-cases", b"png", "Cases."),
        Picture("busi-pairs", b"png", "Pairs."),
    ]
    return benchmark_page(tables(table, pd.DataFrame(gains)), shown, FACTS, missing or [],
                          ["busi-40-method-1, copy_paste: no <room>"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (gain(), "busi: synthetic pairs raised the Dice against real images only: +3.0 (+2.0 to +4.0) Dice points, p = 0.001."),
        (
            gain(mean=-0.03),
            "busi: synthetic pairs lowered the Dice against real images only: −3.0 (−4.0 to −2.0) Dice points, p = 0.001.",
        ),
        (
            gain(p=0.06),
            "busi: synthetic pairs were not shown to differ from real images only: +3.0 (+2.0 to +4.0) Dice points, p = 0.060.",
        ),
        (
            gain(mean=0.0, p=0.04),
            "busi: synthetic pairs were not shown to differ from real images only: +0.0 (−1.0 to +1.0) Dice points, p = 0.040.",
        ),
        (
            gain("average", against="copy_paste", p=0.5),
            "On average over the datasets: synthetic pairs were not shown to differ from real + pasted real lesions: "
            "+3.0 (+2.0 to +4.0) Dice points, p = 0.500.",
        ),
    ],
)
def test_the_verdict_claims_only_what_interval_and_test_say(row: dict[str, Any], words: str) -> None:
    assert verdicts(pd.DataFrame([row]), 40) == [words]
    shown = words if row["against"] == "real" else "+3.0+2.0 to +4.0no difference shown, p = 0.500"
    assert shown in re.sub("<[^>]+>", "", page([row]))


def test_the_combined_arm_has_its_own_differences() -> None:
    rows = [gain(), gain(arm="combined", mean=0.04), gain(arm="combined", against="synthetic", mean=0.012)]
    over = "synthetic pairs with unlabelled images raised the Dice against"
    assert verdicts(pd.DataFrame(rows), 40)[1:] == [
        f"busi: {over} real images only: +4.0 (+3.0 to +5.0) Dice points, p = 0.001.",
        f"busi: {over} real + synthetic images: +1.2 (+0.2 to +2.2) Dice points, p = 0.001."]
    assert len(verdicts(pd.DataFrame(rows), 40, rivals=False)) == 2
    shown = re.sub("<[^>]+>", " ", page(rows))
    assert re.search(r"points of real \+ synthetic \+ unlabelled images over\s+busi\s+real \+ synthetic images\s+\+1\.2", shown)


def test_fewer_than_five_seeds_claim_nothing() -> None:
    assert verdicts(pd.DataFrame([gain() | {"seeds": 4}]), 40) == [
        "busi: too few seeds (4) to tell synthetic pairs from real images only: +3.0 (+2.0 to +4.0) Dice points, p = 0.001."]
    assert "verdict better" in page([gain()])
    assert "verdict better" not in page([gain() | {"seeds": 4}])


def test_other_budgets_are_not_the_verdict() -> None:
    assert verdicts(pd.DataFrame([gain(budget=10)]), 40) == [
        "No gain measured at 40 annotated images: that needs the arms `real` and `synthetic`."
    ]
    assert verdicts(pd.DataFrame(columns=list(GAINS)), 40)[0].startswith("No gain measured")


def test_numbers_of_the_tables_are_on_the_page() -> None:
    whole = page(
        [gain(), gain(budget=10, mean=0.015), gain(arm="paper", mean=-0.02)],
        scores=[*score("busi", "real", 0.611), *score("busi", "synthetic", 0.641), *score("busi", "real", 0.4, 10)],
    )
    for shown in (
        "0.611",
        "0.591 to 0.691",
        "+3.0 (+2.0 to +4.0)",
        "<td>+1.5<small>+0.5 to +2.5</small></td>",
        "real + the paper&#39;s recipe",
        "0.25",
        "0.013",
        "0.0102",
        "1.5 GB",
        "64 pixels",
        "162 test cases",
        "The machine doesn&#39;t tell what energy it takes",
        "<td>9.0</td><td>84</td>",
        "meddiff benchmark at 0123abc",
        "97 or 321 validation cases",
        "7 scores left out",
        "<td>62<small>of 120: as far as there were</small></td>",
        "<td>75%<small>60% to 90%</small></td>",
        "90% of 165",
        "0.641<small>+4.5 (+4.5 to +4.5)</small>",
        "<td>all</td><td>377</td>",
        "1 arm is left out",
        "busi-40-method-1, copy_paste: no &lt;room&gt;",
    ):
        assert shown in whole, shown
    assert "20<small>of" not in whole
    assert "trained on is unknown" not in whole
    assert "60% of" in whole
    assert whole.count("<figure>") == 4  # arms, budgets, cases, pairs


def test_other_metrics_and_all_as_a_budget_stand_beside_the_verdict() -> None:
    others = [gain(metric="hd95", mean=-0.8, half=0.3), gain(metric="iou", mean=0.04),
              gain(arm="combined", metric="iou", mean=0.05)]
    shown = page([gain(), gain(budget="all", mean=0.002), *others])
    assert "<td>all</td>" in shown
    assert "<td>−0.8<small>−1.1 to −0.5</small></td>" in shown
    assert "<td>+0.050<small>+0.040 to +0.060</small></td>" in shown
    assert "HD95 [px]" in shown
    assert shown.count("raised the Dice") == 1


def test_a_foundation_of_unknown_training_is_told() -> None:
    found = tables(pd.DataFrame(score("busi", "real", 0.6)), pd.DataFrame(columns=list(GAINS)))
    whole = benchmark_page(found, [], FACTS | {"seen": False, "foundation": "hub/model"}, [])
    assert "What the foundation (hub/model) was trained on is unknown here" in whole


def test_what_weakens_the_proof_is_told() -> None:
    def told(**changes: Any) -> str:
        return " ".join(limits(FACTS | changes))

    assert "a benchmark that was run before on the same test parts" in told().lower()
    assert "nothing is claimed" in told(seeds=[0, 1, 2, 3])
    assert "of five in simulations: 89 to 96 % instead of 95" in told()
    assert "may hold the true gain less often" not in told(seeds=list(range(10)))
    assert "The paper's settings were chosen for Stable Diffusion" in told(paper=True)
    assert "The paper's settings" not in told()


def test_intervals_are_named_by_their_confidence() -> None:
    scores, over = pd.DataFrame(score("busi", "real", 0.6)), pd.DataFrame([gain()])
    assert all("with 90% intervals" in one.caption for one in figures(scores, over, FACTS | {"confidence": 0.9}))


def test_arms_of_fewer_seeds_are_named() -> None:
    few = [row | {"seeds": 1} for row in score("busi", "paper", 0.6)]
    scores = [*score("busi", "real", 0.6), *score("busi", "synthetic", 0.6), *few]
    whole = page([gain()], scores=scores)
    assert "162 test cases with a lesion, 5 seeds (but real + the paper&#39;s recipe: 1;" in whole


def test_the_page_stands_alone_and_escapes() -> None:
    whole = page([gain("a<b>")])
    assert "a&lt;b&gt;" in whole
    assert "a<b>" not in whole
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", whole)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", whole)
    assert "aren't anonymous" in whole


def test_names_of_datasets_are_escaped() -> None:
    evil = "<script>x</script>"
    named = [gain(evil), gain(evil, against="copy_paste"), gain(evil, metric="iou")]
    found = tables(pd.DataFrame([*score(evil, "real", 0.6), *score(evil, "synthetic", 0.7)]), pd.DataFrame(named))
    found = replace(found, cells=found.cells.assign(dataset=evil, recipe=evil), arms=found.arms.assign(dataset=evil),
                    detection=found.detection.assign(dataset=evil))
    names = ("size", "steps", "network", "device", "extractor", "tolerance", "commit", "made", "command", "foundation")
    facts = FACTS | dict.fromkeys(names, evil) | {"datasets": [evil], "seen": False}
    whole = benchmark_page(found, [Picture(f"{evil}-cases", b"png", evil)], facts, [evil], [evil])
    checker = Checker()
    checker.feed(whole)
    assert "<script" not in whole
    assert checker.open == []
    assert checker.text.count(evil) == whole.count("&lt;script&gt;x&lt;/script&gt;") - 1 > 30  # one is a picture's `alt`


def test_missing_cells_are_told() -> None:
    whole = page([gain()], ["busi-40-method-3: filter: it must <work>."])
    assert "1 cell is missing" in whole
    assert "busi-40-method-3: filter: it must &lt;work&gt;." in whole
    assert "missing" not in page([gain()])


def test_a_benchmark_without_any_comparison_has_a_page() -> None:
    whole = benchmark_page(tables(pd.DataFrame(score("busi", "real", 0.6)), pd.DataFrame(columns=list(GAINS))), [], FACTS, [])
    assert "No gain measured" in whole


def test_cards_hold_the_numbers_and_the_warnings() -> None:
    gains = pd.DataFrame([gain(mean=-0.004, p=0.7)])
    model, data = model_card(FACTS, gains, cells()), dataset_card(FACTS, gains, cells())
    for card in (model, data):
        assert "were not shown to differ from real images only: −0.4 (−1.4 to +0.6) Dice points" in card
        assert "Not privacy-preserving" in card
        assert "5 seeds" in card
    assert "4 generators" in model
    assert "| busi | 40 | 2 | 200 | 121 | 0.013 | 0.0102 | 0.25 |" in data
