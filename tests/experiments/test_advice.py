"""The advice for a project: the arm from its evaluation, the curve by training the real arm alone, or from a benchmark."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.summary import Advice
from meddiff.experiments import advice as advising
from meddiff.experiments.advice import advise_user
from meddiff.layout import Layout
from meddiff.outputs.tables import VALIDATION_CASES
from meddiff.params import Params
from meddiff.params.overrides import merged
from meddiff.services import versioning
from meddiff.services.tracking import Unrecorded
from meddiff.services.versioning import Reproduced
from meddiff.stages import prepare, segment

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "prepare": {"size": 32, "n_labelled": 8, "demo_cases": 60, "demo_normal": 12},
    "compute": {"threads": 2, "precision": "float32"},
    "segment": {"arms": ["real", "augmented"], "steps": 5, "seeds": [0, 1, 2], "batch_size": 4}, "evaluate": {"resamples": 50}}


def put_advice(layout: Layout, arm: str = "augmented") -> None:
    dice = Interval(0.5, 0.4, 0.6, 0.95, 9, 3)
    layout.report.mkdir(parents=True, exist_ok=True)
    (layout.report / "summary.json").write_text(json.dumps({"advice": asdict(Advice(arm, 2, dice, dice, dice))}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, Params, list[int]]:
    """A project with trained segmenters, whose trees are plain folders in which `prepare` runs as it is."""
    layout, params, prepared = Layout(tmp_path), Params.model_validate(SMALL), list[int]()
    settings: dict[Path, Params] = {}

    def work_tree(source: Path, dest: Path, overrides: Mapping[str, Any]) -> Path:
        dest.mkdir(parents=True, exist_ok=True)
        settings[dest] = Params.model_validate(merged(params, overrides))
        return dest

    def reproduce(root: Path, stage: str, env: Mapping[str, str], single: bool, show: Callable[[str], None]) -> Reproduced:
        assert stage == "prepare"
        prepare.run(Layout(root), settings[root], Unrecorded())
        prepared.append(settings[root].prepare.n_labelled)
        return Reproduced((stage,), (), (), 1.0)

    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setattr(versioning, "work_tree", work_tree)
    monkeypatch.setattr(versioning, "reproduce", reproduce)
    prepare.run(layout, params, Unrecorded())
    segment.run(layout, params, Unrecorded())
    put_advice(layout)
    return layout, params, prepared


def test_the_curve_is_of_the_real_arm_alone_and_goes_on_where_it_stopped(
        project: tuple[Layout, Params, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, params, prepared = project
    fit, calls = advising.train_segmenter, list[int]()

    def failing(*given: Any, **named: Any) -> Any:
        calls.append(len(given[0]))
        if len(calls) > 4:
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(advising, "train_segmenter", failing)
    with pytest.raises(KeyboardInterrupt):
        advise_user(layout, params, [4, 8, 12])
    monkeypatch.setattr(advising, "train_segmenter", fit)
    lines = advise_user(layout, params, [4, 8, 12])
    assert prepared == [4, 12, 12]      # 8 is that of the project, and 4 was finished
    assert calls[:4] == [4, 4, 4, 12]
    assert lines[0].startswith("Use the arm augmented (real images, tuned augmentation)")
    for words in ("at 4,", "at 8,", "at 12;", "annotated images"):
        assert words in lines[1]
    assert lines[2] == "This curve alone used the annotation of up to 12 training cases."
    assert advise_user(layout, params, [12, 4]) == lines
    assert prepared == [4, 12, 12]
    kept = next((layout.work / "advise/done/12").iterdir())
    assert VALIDATION_CASES.read(kept)["seed"].nunique() == 3
    assert not (layout.work / "advise/trees/budget-12").exists()


def test_a_budget_above_the_annotated_cases_is_refused(project: tuple[Layout, Params, list[int]]) -> None:
    layout, params, _ = project
    with pytest.raises(MeddiffError, match="a budget of 500 needs as many annotated training cases, there are"):
        advise_user(layout, params, [500])


def test_a_benchmark_that_is_there_is_used(project: tuple[Layout, Params, list[int]]) -> None:
    layout, params, prepared = project
    assert "can't be told without the real arm's curve over budgets" in advise_user(layout, params)[1]
    rows = [{"dataset": "demo", "budget": budget, "case": f"c{i}", "group": f"p{i}", "class": "lesion", "arm": arm, "seed": seed,
             "dice": dice + 0.01 * i, "iou": dice, "hd95": 1.0, "nsd": dice, "lesions": 1, "found": 1, "false_positives": 0,
             "lesion_area": 0.1, "stratum": "small" if i else "empty", "dice_undecided": ""}
            for arm, budget, dice in (("real", "10", 0.5), ("real", "40", 0.6), ("real", "all", 0.9), ("augmented", "40", 0.55))
            for seed in range(3) for i in range(9)]
    layout.benchmark.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(layout.benchmark / "per_case.csv", index=False)
    worth = advise_user(layout, params)[1]
    assert worth.startswith("Worth no more annotated images. The real arm's Dice by annotated images: 0.545 at 10, 0.645 at 40; ")
    assert "8 test cases, 3 seeds" in worth
    assert prepared == []


def test_what_can_not_be_told_is_said(project: tuple[Layout, Params, list[int]]) -> None:
    layout, params, _ = project
    put_advice(layout, "real")
    assert advise_user(layout, params, [4])[1:] == ["No other arm is better, so none is worth more annotated images."]
    (layout.report / "summary.json").write_text('{"advice": null}')
    assert advise_user(layout, params) == ["Which arm to use can't be told: the validation or the test cases say nothing."]
    (layout.report / "summary.json").unlink()
    with pytest.raises(MeddiffError, match="the evaluation must be there"):
        advise_user(layout, params)
