"""The benchmark: its cells, going on where it stopped, failures, several processes, and what is written and recorded."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from threading import Event, Thread
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from mlflow import MlflowClient
from typer.testing import CliRunner

from meddiff.cli.app import app
from meddiff.environment import greatest_memory
from meddiff.errors import MeddiffError
from meddiff.experiments.benchmark.benchmark import benchmark
from meddiff.experiments.benchmark.cells import Cell, cells_of, key_of, read_cell
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.file import load_params, parse_params
from meddiff.params.overrides import merged

ROOT = Path(__file__).parents[2]


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
                 "dice": dice[arm] + 0.01 * i, "iou": 0.4, "hd95": 3.0, "nsd": 0.5, "lesions": 1, "found": 1,
                 "false_positives": 0, "lesion_area": 0.1, "stratum": "small"}
                for arm in cell.arms for i in range(6)]
        pd.DataFrame(rows).to_csv(out / "per_case.csv", index=False)
        used = pd.DataFrame({"arm": cell.arms, "n_real": 10, "n_synthetic": 12, "n_wanted": 30})
        used.to_csv(out / "arms.csv", index=False)
        (out / "cell.json").write_text(json.dumps({
            "dataset": cell.dataset.name, "budget": cell.budget, "seed": cell.seed, "recipe": cell.recipe,
            "labelled": 22 + len(cell.dataset.name) if cell.budget == "all" else cell.budget,
            "samples": 20, "accepted": 12, "seconds": 3.0, "stages_run": 9, "peak_memory_mb": 900.0,
            "validation": 7, "commit": "abc", "device": "cpu", "dropped": {"copy_paste": "no room"} if cell.seed else {},
            "sets.accepted.kid.lesion.mean": 0.1}))


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


@pytest.mark.parametrize(("key", "value", "words"), [
    ("segment.steps", -1, r"benchmark cell a-10-method-0: `segment.steps` = -1"),
    ("steps", 7, r"benchmark.datasets, settings of a: a stage has no setting `steps`. Name one as `section.name`"),
    ("stage.steps", 7, r"a stage has no setting `stage.steps`"),
    ("segment.step", 7, r"a stage has no setting `segment.step`"),
    ("promote.model", "m", r"a stage has no setting `promote.model`"),
    ("prepare.n_labelled", 80, r"settings of a: the benchmark itself sets `prepare.n_labelled`. Leave it out here"),
    ("prepare.seed", 1, r"the benchmark itself sets `prepare.seed`"),
    ("generate.seed", 1, r"a stage has no setting `generate.seed`"),
    ("segment.arms", ["real"], r"the benchmark itself sets `segment.arms`"),
])
def test_settings_of_a_dataset_are_checked_before_anything_runs(key: str, value: Any, words: str, project: Layout) -> None:
    wrong, cells = settings(project, datasets=({"name": "a", "dataset": "demo", "settings": {key: value}},)), Cells()
    with pytest.raises(MeddiffError, match=words):
        benchmark(project, wrong, cells)
    assert not cells.asked


def test_a_key_changes_with_settings_code_and_data(project: Layout) -> None:
    def key(**changes: Any) -> str:
        params = settings(project, **changes)
        return key_of(project, params, cells_of(params)[0])

    (project.root / "raw").mkdir()
    (project.root / "raw/a.png").write_bytes(b"1")
    folder = {"datasets": ({"name": "demo", "dataset": "folder", "path": "raw"},)}
    first, data = key(), key(**folder)
    moved = settings(project)
    moved = moved.model_copy(update={"compute": moved.compute.model_copy(update={"cluster": "local:2"})})
    assert first == key_of(project, moved, cells_of(moved)[0]), "wherever units are done"
    assert len({first, data, key(arms=("real",)), key(datasets=({"name": "demo", "dataset": "demo",
                                                                 "settings": {"segment.steps": 7}},))}) == 4
    os.utime(project.root / "raw/a.png", (1, 1))
    assert key(**folder) == data
    (project.root / "raw/a.png").write_bytes(b"3")
    assert key(**folder) != data
    (project.root / "raw/b.png").write_bytes(b"2")
    assert key(**folder) != data
    assert key() == first
    (project.root / "foundation").mkdir()
    (project.root / "foundation/model.bin").write_bytes(b"1")
    own = {"datasets": ({"name": "demo", "dataset": "demo", "settings": {"foundation.source": "foundation"}},)}
    before = key(**own)
    (project.root / "foundation/model.bin").write_bytes(b"22")
    assert key(**own) != before
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

    gains = pd.read_csv(project.benchmark / "gains.csv").set_index(["metric", "budget", "arm", "against"]).loc["dice"]
    assert gains.loc[(40, "synthetic", "real"), "mean"] == pytest.approx(0.03)
    assert gains.loc[(40, "synthetic", "copy_paste"), "mean"] == pytest.approx(0.01)
    assert gains.loc[(40, "paper", "real"), "mean"] == pytest.approx(-0.02)
    assert gains.loc[(40, "synthetic", "paper"), "mean"] == pytest.approx(0.05)
    assert gains.loc[(10, "synthetic", "real"), "seeds"] == 2
    written = {path.name for path in project.benchmark.iterdir()}
    assert written >= {"benchmark.html", "model_card.md", "dataset_card.md", "per_case.csv", "scores.csv", "gains.csv",
                       "cells.csv", "arms.csv", "detection.csv", "sizes.csv"}
    facts = json.loads((project.benchmark / "facts.json").read_text())
    assert (facts["commit"], facts["device"], facts["validation"], facts["size"]) == ("abc", "cpu", [7], "64")
    assert facts["dropped"] == [f"demo-{budget}-{recipe}-1, copy_paste: no room" for budget, recipe in (
        (10, "method"), (40, "method"), (40, "paper"))]
    assert "2 arms are left out" not in (project.benchmark / "benchmark.html").read_text()
    assert "3 arms are left out" in (project.benchmark / "benchmark.html").read_text()

    client = MlflowClient(runs)
    whole = client.get_run(second.envs[0]["MEDDIFF_PARENT_RUN"])
    assert (whole.info.status, whole.data.metrics["gain_demo_40"]) == ("FINISHED", pytest.approx(0.03))
    assert whole.data.metrics["gain_demo_40_paper"] == pytest.approx(-0.02)
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


def test_a_full_disk_stops_one_cell_alone(project: Layout) -> None:
    result = benchmark(project, settings(project), Cells("demo-10-method-0", OSError))
    assert result.missing == ("demo-10-method-0: OSError: [Errno segment] it must work: 'Mend it'",)


def test_all_is_a_budget_of_its_own_on_every_dataset(project: Layout) -> None:
    """Also where a dataset has as many cases as another budget."""
    two = ({"name": "a", "dataset": "demo"}, {"name": "b" * 18, "dataset": "demo"})
    result = benchmark(project, settings(project, datasets=two, budgets=(23, "all"), seeds=(0, 1)), Cells())
    assert not result.missing
    of_all = result.gains[(result.gains["budget"] == "all") & (result.gains["against"] == "real")]
    assert list(of_all["dataset"]) == ["a", "b" * 18, "average"]
    assert set(pd.read_csv(project.benchmark / "cells.csv")["labelled"]) == {23, 40}
    assert "<td>all</td>" in (project.benchmark / "benchmark.html").read_text()


def test_samples_grow_with_the_annotated_cases(project: Layout) -> None:
    params = settings(project, budgets=(10, "all"), samples_per_case=7.5)
    assert {cell.budget: cell.overrides["generate"]["n"] for cell in cells_of(params)} == {10: 75, 40: 300, "all": 300}
    assert "n" not in cells_of(settings(project))[0].overrides.get("generate", {})
    few = cells_of(settings(project, budgets=("all",), samples_per_case=0.5))[0]
    assert few.overrides["generate"]["n"] == params.generate.n


def test_a_cell_that_another_process_holds_is_waited_for(project: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """The others come first, and the wait is told; let go unfinished, it is run here."""
    lock = FileLock(project.work / "benchmark/locks/demo-10-method-0.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    cells, held = Cells(), Event()

    def hold() -> None:
        with lock:
            held.set()
            until = time.monotonic() + 60
            while len(cells.asked) < 5 and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(1)  # long enough that it is waited for

    other = Thread(target=hold)
    other.start()
    assert held.wait(60)
    result = benchmark(project, settings(project), cells)
    other.join()
    assert not result.missing
    assert cells.asked == ["demo-40-method-0", "demo-40-paper-0", "demo-10-method-1", "demo-40-method-1", "demo-40-paper-1",
                           "demo-10-method-0"]
    assert capsys.readouterr().err.count("another process holds demo-10-method-0; waiting until it is done") == 1


def test_no_finished_cell_is_an_error(project: Layout) -> None:
    one = settings(project, seeds=(0,), budgets=(40,), paper=False)
    with pytest.raises(MeddiffError, match=r"one cell at least must be finished .*it must work"):
        benchmark(project, one, Cells("demo-40-method-0"))


# ---- a real DVC project with two stages, whose cells run in trees of their own

PREPARE = """
import yaml, pandas as pd
from pathlib import Path
n = yaml.safe_load(open("params.yaml"))["prepare"]["n_labelled"]
for part, cases in (("train", 12), ("val", 4)):
    Path(f"data/{part}").mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{"id": i, "labelled": int(i < n)} for i in range(cases)]).to_csv(f"data/{part}/cases.csv", index=False)
"""
STAGE = """
import json, os, yaml, pandas as pd
from pathlib import Path
p = yaml.safe_load(open("params.yaml")); s = p["segment"]
assert p["prepare"]["seed"] == s["seeds"][0]
Path("reports/evaluation/pictures").mkdir(parents=True, exist_ok=True); Path("models/segmenters").mkdir(parents=True)
kept = Path(".work/segment"); kept.mkdir(parents=True, exist_ok=True)
for a in s["arms"]:
    (kept / f"{a}.{len(list(kept.iterdir()))}").touch()
pd.DataFrame([{"arm": a, "seed": 0, "dice": 0.5, "n_real": 4, "n_synthetic": 1, "n_wanted": 12} for a in s["arms"]]).to_csv(
    "models/segmenters/validation.csv", index=False)
pd.DataFrame([], columns=["arm", "reason"]).to_csv("models/segmenters/dropped.csv", index=False)
pd.DataFrame([{"case": c, "group": "", "class": "lesion", "arm": a, "seed": s["seeds"][0], "dice": 0.5, "iou": 0.5, "hd95": 1.0,
               "nsd": 0.5, "lesions": 1, "found": 1, "false_positives": 0, "lesion_area": 0.1, "stratum": "small"}
              for a in s["arms"] for c in "xyz"]).to_csv(
    "reports/evaluation/per_case.csv", index=False)
f = Path("synthetic/b0000"); f.mkdir(parents=True, exist_ok=True)
pd.DataFrame([{"id": "s", "batch": "b0000", "seed": 0, "background": "n", "area": 0.1, "steps": 2, "generator": "g",
               "guidance_scale": 1.0}]).to_parquet(f / "batch.parquet")
f = Path("filtered"); f.mkdir(exist_ok=True)
pd.DataFrame([{"id": "s", "batch": "b0000", "similarity": 0.5, "nearest": "c", "agreement": 0.9, "contrast": 9.0, "area": 0.1,
               "verdict": "accepted", "reason": ""}]).to_parquet(f / "decisions.parquet")
(f / "batches.json").write_text(json.dumps({"b0000": {"passed": True, "reasons": []}}))
(f / "fidelity.json").write_text(json.dumps({"sets": {"accepted": {"seam": 0.5}},
    "unit": int(os.environ.get("MEDDIFF_UNIT", 0))}))
"""


@pytest.fixture
def small_pipeline(project: Layout) -> Layout:
    """A DVC project with two stages."""
    (project.root / "evaluate.py").write_text(STAGE)
    (project.root / "prepare.py").write_text(PREPARE)
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {
        "prepare": {"cmd": f"{sys.executable} prepare.py", "deps": ["prepare.py"], "params": ["prepare"],
                    "outs": ["data/train", "data/val"]},
        "evaluate": {"cmd": f"{sys.executable} evaluate.py", "deps": ["evaluate.py", "data/train"],
                     "params": ["prepare", "finetune", "segment"],
                     "outs": ["reports/evaluation", "synthetic", "filtered", "models/segmenters"]}}}))
    (project.root / ".gitignore").write_text(".work/\nreports/\n")
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=project.root, check=True, capture_output=True)
    return project


def test_cells_are_units_of_work_for_a_cluster(small_pipeline: Layout) -> None:
    values = yaml.safe_load(small_pipeline.params.read_text())
    values["benchmark"] = {"budgets": [5, 13], "budget": 5, "seeds": [3, 4], "arms": ["real", "synthetic"], "further": [],
                           "paper": False}
    small_pipeline.params.write_text(yaml.safe_dump(values, sort_keys=False))
    command = ["benchmark", "--root", str(small_pipeline.root)]
    done = CliRunner().invoke(app, [*command, "--workers", "2"])
    assert done.exit_code == 1, done.output
    assert done.output.count("a budget of 13 needs as many") == 2, "a cell that fails doesn't keep the others from running"
    cells = pd.read_csv(small_pipeline.benchmark / "cells.csv")
    assert cells[["seed", "unit"]].to_numpy().tolist() == [[3, 1], [4, 1]]
    assert CliRunner().invoke(app, command).stdout == done.stdout, "what workers have finished is known without them"


def test_the_command_runs_cells_in_trees_of_their_own(small_pipeline: Layout) -> None:
    project = small_pipeline
    values = yaml.safe_load(project.params.read_text())
    values["benchmark"] = {"budgets": [5, 13, "all"], "budget": 5, "seeds": [3], "arms": ["real", "synthetic"], "further": []}
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    done = CliRunner().invoke(app, ["benchmark", "--root", str(project.root)])
    assert done.exit_code == 1, done.output
    assert "synthetic against real" in done.output
    assert ("missing: demo-13-method-3: benchmark cell demo-13-method-3: a budget of 13 needs as many annotated training cases, "
            "there are 12.") in " ".join(done.output.split())
    cells = pd.read_csv(project.benchmark / "cells.csv")
    assert list(zip(cells["budget"], cells["recipe"], strict=True)) == [("5", "method"), ("all", "method"), ("5", "paper")]
    assert (cells["validation"] == 4).all()
    assert cells["stages_run"].tolist() == [2, 2, 1]  # the paper's recipe has the method's cases
    own = greatest_memory(getrusage(RUSAGE_SELF))  # from which a process that it starts counts on
    assert cells["peak_memory_mb"].between(20, max(2000, own)).all()
    assert pd.read_csv(project.benchmark / "arms.csv")["n_wanted"].tolist() == [12] * 5
    assert (cells["sets.accepted.seam"] == 0.5).all()
    assert (cells[["samples", "accepted", "labelled"]].to_numpy() == [[1, 1, 5], [1, 1, 12], [1, 1, 5]]).all()
    assert not list((project.work / "benchmark/trees").iterdir())
    params = load_params(project.params)
    paper = cells_of(params)[-1]
    found = read_cell(project.work / "benchmark/done" / paper.name / key_of(project, params, paper), paper)
    assert (found.row["recipe"], set(found.scores["arm"]), set(found.arms["arm"])) == ("paper", {"paper"}, {"paper"})
    page = CliRunner().invoke(app, ["benchmark", "--root", str(project.root), "--page"])
    assert page.exit_code == 1, page.output

    # A further arm finds the segmenters of the cell as they were left.
    kept = project.work / "benchmark/segmenters/demo-5-method-3"
    assert {path.name for path in kept.iterdir()} == {"real.0", "synthetic.1"}
    values["benchmark"] |= {"arms": ["real", "synthetic", "augmented"], "budgets": [5]}
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    assert CliRunner().invoke(app, ["benchmark", "--root", str(project.root)]).exit_code == 0
    assert {path.name for path in kept.iterdir()} >= {"real.0", "synthetic.1", "augmented.4"}
