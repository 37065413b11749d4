"""The benchmark: its cells, going on where it stopped, failures, several processes, and what is written and recorded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from mlflow import MlflowClient
from typer.testing import CliRunner

from meddiff.benchmark import benchmark
from meddiff.cells import PAPER, Cell, cells_of, key_of, read_cell
from meddiff.cli import app
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.params import Params
from meddiff.params_file import load_params, parse_params
from meddiff.parts import setting
from meddiff.trials import merged

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking database for all tests here, because making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture
def project(tmp_path: Path, runs: str) -> Layout:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return Layout(tmp_path)


def settings(layout: Layout, **changes: Any) -> Params:
    values = load_params(layout.params).model_dump()
    values["benchmark"] |= {"budgets": (10,), "budget": 40, "seeds": (0, 1), "arms": ("real", "synthetic"),
                            "further": ("copy_paste",), **changes}
    values["evaluate"]["resamples"] = 50
    return Params.model_validate(values)


class Cells:
    """Cells that cost nothing: scores by arm; notes what was asked."""

    def __init__(self, fail: str = "", error: type[BaseException] = MeddiffError) -> None:
        self.asked: list[str] = []
        self.envs: list[Mapping[str, str]] = []
        self.fail, self.error = fail, error

    def __call__(self, cell: Cell, env: Mapping[str, str], out: Path) -> None:
        self.asked.append(cell.name)
        self.envs.append(env)
        if cell.name == self.fail:
            raise self.error("segment", "it must work", "Mend it")
        dice = {"real": 0.5, "synthetic": 0.53 if cell.recipe == "method" else 0.48, "copy_paste": 0.52}
        rows = [{"case": f"c{i}", "group": "", "class": "lesion", "arm": arm, "seed": cell.seed,
                 "dice": dice[arm] + 0.01 * i, "iou": 0.4, "hd95": 3.0, "nsd": 0.5, "lesion_area": 0.1, "stratum": "small"}
                for arm in cell.arms for i in range(6)]
        with replacing(out) as fresh:
            pd.DataFrame(rows).to_csv(fresh / "per_case.csv", index=False)
            (fresh / "cell.json").write_text(json.dumps({
                "dataset": cell.dataset.name, "budget": cell.budget, "seed": cell.seed, "recipe": cell.recipe,
                "labelled": cell.budget, "samples": 20, "accepted": 12, "seconds": 3.0, "stages_run": 9, "peak_memory_mb": 900.0,
                "sets.accepted.kid.lesion.mean": 0.1}))


def test_the_papers_recipe_is_that_of_its_profile() -> None:
    profile = yaml.safe_load((ROOT / "params/paper.yaml").read_text())
    published = {f"{section}.{name}": value for section in ("finetune", "generate") for name, value in profile[section].items()}
    for name, value in published.items():
        if name not in ("finetune.prompt", "generate.batch_size"):
            assert PAPER[name] == value, name
    assert PAPER["generate.batch_size"] == 1  # one image at a time
    default = Params()
    for name in PAPER:
        setting(default, name)


def test_cells_cover_datasets_budgets_and_seeds(project: Layout) -> None:
    cells = cells_of(settings(project, datasets=({"name": "a", "dataset": "demo"}, {"name": "b", "dataset": "demo",
                                                                                    "settings": {"segment.steps": 7}})))
    assert [cell.name for cell in cells[:6]] == ["a-10-method-0", "a-40-method-0", "b-10-method-0", "b-40-method-0",
                                                 "a-40-paper-0", "b-40-paper-0"]
    assert len(cells) == 12
    assert cells[0].arms == ("real", "synthetic")
    assert cells[1].arms == ("real", "synthetic", "copy_paste")
    assert cells[4].arms == ("synthetic",)
    full = parse_params(merged(settings(project), cells[-1].overrides), "test")
    assert (full.prepare.n_labelled, full.prepare.seed, full.generate.seed, full.segment.seeds) == (40, 1, 1, (1,))
    assert (full.segment.steps, full.finetune.learning_rate, full.filter.agreement) == (7, 3e-6, 0.0)
    assert full.segment.empty_arms == "real"


def test_settings_of_a_dataset_are_checked_before_anything_runs(project: Layout) -> None:
    wrong = settings(project, datasets=({"name": "a", "dataset": "demo", "settings": {"segment.steps": -1}},))
    with pytest.raises(MeddiffError, match=r"benchmark cell a-10-method-0: `segment.steps` = -1"):
        benchmark(project, wrong, Cells())


def test_a_key_changes_with_settings_code_and_data(project: Layout) -> None:
    def key(**changes: Any) -> str:
        params = settings(project, **changes)
        return key_of(project, params, cells_of(params)[0])

    (project.root / "raw").mkdir()
    (project.root / "raw/a.png").write_bytes(b"1")
    folder = {"datasets": ({"name": "demo", "dataset": "folder", "path": "raw"},)}
    first, data = key(), key(**folder)
    assert first == key(workers=3)
    assert len({first, data, key(arms=("real",)), key(datasets=({"name": "demo", "dataset": "demo",
                                                                 "settings": {"segment.steps": 7}},))}) == 4
    os.utime(project.root / "raw/a.png", (1, 1))
    assert key(**folder) == data
    (project.root / "raw/a.png").write_bytes(b"3")
    assert key(**folder) != data
    (project.root / "raw/b.png").write_bytes(b"2")
    assert key(**folder) != data
    assert key() == first
    (project.root / "meddiff/stages").mkdir(parents=True)
    (project.root / "meddiff/stages/evaluate.py").write_text("changed")
    assert key() != first


def test_an_interrupted_benchmark_goes_on_in_the_same_run(project: Layout, runs: str) -> None:
    params = settings(project)
    first, second, third = Cells("demo-40-paper-0", KeyboardInterrupt), Cells(), Cells()
    with pytest.raises(KeyboardInterrupt):
        benchmark(project, params, first)
    assert not project.benchmark.exists()
    result = benchmark(project, params, second)
    assert first.asked == ["demo-10-method-0", "demo-40-method-0", "demo-40-paper-0"]
    assert second.asked == ["demo-40-paper-0", "demo-10-method-1", "demo-40-method-1", "demo-40-paper-1"]
    assert not result.missing
    assert first.envs[0]["MEDDIFF_PARENT_RUN"] == second.envs[0]["MEDDIFF_PARENT_RUN"]

    gains = pd.read_csv(project.benchmark / "gains.csv").set_index(["budget", "arm", "against"])
    assert gains.loc[(40, "synthetic", "real"), "mean"] == pytest.approx(0.03)
    assert gains.loc[(40, "synthetic", "copy_paste"), "mean"] == pytest.approx(0.01)
    assert gains.loc[(40, "paper", "real"), "mean"] == pytest.approx(-0.02)
    assert gains.loc[(40, "synthetic", "paper"), "mean"] == pytest.approx(0.05)
    assert gains.loc[(10, "synthetic", "real"), "seeds"] == 2
    written = {path.name for path in project.benchmark.iterdir()}
    assert written >= {"benchmark.html", "model_card.md", "dataset_card.md", "per_case.csv", "scores.csv", "gains.csv",
                       "cells.csv"}

    client = MlflowClient(runs)
    whole = client.get_run(second.envs[0]["MEDDIFF_PARENT_RUN"])
    assert (whole.info.status, whole.data.metrics["gain_demo_40"]) == ("FINISHED", pytest.approx(0.03))
    assert "benchmark/benchmark.html" in {file.path for file in client.list_artifacts(whole.info.run_id, "benchmark")}
    nested = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{whole.info.run_id}'")
    assert {run.info.run_name: run.info.status for run in nested} == dict.fromkeys({*first.asked, *second.asked}, "FINISHED")

    benchmark(project, params, third)
    assert third.asked == []


def test_a_failed_cell_is_told_and_the_others_go_on(project: Layout) -> None:
    result = benchmark(project, settings(project), Cells("demo-10-method-0"))
    assert result.missing == ("demo-10-method-0: segment: it must work. Mend it.",)
    page = (project.benchmark / "benchmark.html").read_text()
    assert "demo-10-method-0: segment: it must work. Mend it." in page
    gains = pd.read_csv(project.benchmark / "gains.csv")
    assert set(gains.loc[gains["budget"] == 10, "seeds"]) == {1}
    mended = Cells()
    assert not benchmark(project, settings(project), mended).missing
    assert mended.asked == ["demo-10-method-0"]


def test_a_cell_that_another_process_holds_is_left_to_it(project: Layout) -> None:
    lock = FileLock(project.work / "benchmark/locks/demo-40-method-0.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    cells = Cells()
    with lock:
        result = benchmark(project, settings(project), cells)
    assert "demo-40-method-0" not in cells.asked
    assert result.missing == ("demo-40-method-0: not finished",)


def test_no_finished_cell_is_an_error(project: Layout) -> None:
    one = settings(project, seeds=(0,), budgets=(40,), paper=False)
    with pytest.raises(MeddiffError, match=r"one cell at least must be finished .*it must work"):
        benchmark(project, one, Cells("demo-40-method-0"))


# ---- a real DVC project with one stage, whose cells run in trees of their own

STAGE = """
import json, yaml, pandas as pd
from pathlib import Path
p = yaml.safe_load(open("params.yaml")); s = p["segment"]
assert p["finetune"]["seed"] == s["seeds"][0]
Path("reports/evaluation/pictures").mkdir(parents=True, exist_ok=True); Path("data/train").mkdir(parents=True, exist_ok=True)
pd.DataFrame([{"case": c, "group": "", "class": "lesion", "arm": a, "seed": s["seeds"][0], "dice": 0.5, "iou": 0.5, "hd95": 1.0,
               "nsd": 0.5, "lesion_area": 0.1, "stratum": "small"} for a in s["arms"] for c in "xyz"]).to_csv(
    "reports/evaluation/per_case.csv", index=False)
n = p["prepare"]["n_labelled"]
pd.DataFrame([{"id": i, "labelled": i < n} for i in range(12)]).to_csv("data/train/cases.csv", index=False)
f = Path("synthetic/b0000"); f.mkdir(parents=True, exist_ok=True)
pd.DataFrame([{"id": "s", "batch": "b0000", "seed": 0, "background": "n", "area": 0.1, "steps": 2, "generator": "g",
               "guidance_scale": 1.0}]).to_parquet(f / "batch.parquet")
f = Path("filtered"); f.mkdir(exist_ok=True)
pd.DataFrame([{"id": "s", "batch": "b0000", "similarity": 0.5, "nearest": "c", "agreement": 0.9, "contrast": 9.0, "area": 0.1,
               "verdict": "accepted", "reason": ""}]).to_parquet(f / "decisions.parquet")
(f / "batches.json").write_text(json.dumps({"b0000": {"passed": True, "reasons": []}}))
(f / "fidelity.json").write_text(json.dumps({"sets": {"accepted": {"seam": 0.5}}}))
"""


def test_the_command_runs_cells_in_trees_of_their_own(project: Layout, runs: str) -> None:
    (project.root / "evaluate.py").write_text(STAGE)
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": {
        "cmd": f"{sys.executable} evaluate.py", "deps": ["evaluate.py"], "params": ["prepare", "finetune", "segment"],
        "outs": ["reports/evaluation", "synthetic", "filtered", "data/train"]}}}))
    (project.root / ".gitignore").write_text(".work/\nreports/\n")
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=project.root, check=True, capture_output=True)
    values = yaml.safe_load(project.params.read_text())
    values["benchmark"] = {"budgets": [5, "all"], "budget": 5, "seeds": [3], "arms": ["real", "synthetic"], "further": []}
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    done = CliRunner().invoke(app, ["benchmark", "--root", str(project.root)])
    assert done.exit_code == 0, done.output
    assert "synthetic against real" in done.output
    cells = pd.read_csv(project.benchmark / "cells.csv")
    assert list(zip(cells["budget"], cells["recipe"], strict=True)) == [(5, "method"), (12, "method"), (5, "paper")]
    assert (cells["sets.accepted.seam"] == 0.5).all()
    assert (cells[["samples", "accepted", "labelled"]].to_numpy() == [[1, 1, 5], [1, 1, 12], [1, 1, 5]]).all()
    assert not list((project.work / "benchmark/trees").iterdir())
    params = load_params(project.params)
    paper = cells_of(params)[2]
    row, table = read_cell(project.work / "benchmark/done" / key_of(project, params, paper), paper)
    assert (row["recipe"], set(table["arm"])) == ("paper", {"paper"})
    page = CliRunner().invoke(app, ["benchmark", "--root", str(project.root), "--page"])
    assert page.exit_code == 0, page.output
