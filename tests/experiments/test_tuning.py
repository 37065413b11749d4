"""The search: what it proposes, how it goes on after an interrupt, and that a change of the filter generates nothing anew."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from meddiff.errors import MeddiffError
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning.dashboard import PASSWORD_VARIABLE, serve_studies
from meddiff.experiments.tuning.search import tune
from meddiff.experiments.tuning.trials import Hopeless, TrialRow, behind, network_passes, pareto, propose, run_trial, trial_row
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.file import load_params, parse_params, write_params
from meddiff.params.overrides import Overrides
from tests.postgres import control

SETTINGS = Path(__file__).parents[2] / "params.yaml"
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE: dict[str, Any] = {
    "generate.guidance_scale": {"low": 1.0, "high": 4.0, "step": 0.5},
    "filter.similarity_low": {"low": 0.0, "high": 0.3, "step": 0.01},
    "filter.similarity_high": {"low": 0.9, "high": 0.995, "step": 0.005},
    "filter.corrosion_radius": {"choices": ["auto", 0, 1, 2, 3, 4]},
}
MEASURE = {"arms": ["synthetic"], "seeds": [0, 1, 2]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking database for all tests here, because making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture
def project(tmp_path: Path, runs: str) -> Layout:
    shutil.copy(SETTINGS, tmp_path / "params.yaml")
    write_params(tmp_path / "params.yaml", {"tune": {"space": SPACE}})
    return Layout(tmp_path)


AUTO = 1.0  # the corrosion that the stand-ins measure


class Bowl:
    """A trial that costs nothing: best at guidance 3, bounds 0.1 and 0.95, corrosion 2; with guidance 4 nothing is accepted."""

    def __init__(self) -> None:
        self.asked: list[Overrides] = []
        self.envs: list[Mapping[str, str]] = []

    def __call__(self, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
        self.asked.append(overrides)
        self.envs.append(env)
        f, guidance = overrides["filter"], overrides["generate"]["guidance_scale"]
        loss = ((guidance - 3) / 3) ** 2 + ((f["similarity_low"] - 0.1) / 0.3) ** 2 + (f["similarity_high"] - 0.95) ** 2
        radius = AUTO if f["corrosion_radius"] == "auto" else f["corrosion_radius"]
        dice = 0.8 - 0.1 * loss - 0.1 * ((radius - 2) / 4) ** 2
        return outcome((dice,) * 3, 100, 0, 100) if guidance > 3.5 else outcome((dice,) * 3, 100, 50, 100)


def outcome(dice: tuple[float, ...], samples: int, accepted: int, generated: int = 0) -> Outcome:
    scores = {"synthetic": dict(enumerate(dice))} if dice else {}
    return Outcome(scores, samples, accepted, {}, ("generate", "filter") if generated else ("filter",), 1.0, 90.0)


def read(layout: Layout) -> Params:
    return load_params(layout.params)


def test_the_first_trial_is_the_current_settings_and_the_best_is_better(project: Layout) -> None:
    bowl = Bowl()
    result = tune(project, read(project), trials=12, run=bowl)
    assert bowl.asked[0] == {"generate": {"guidance_scale": 1.0}, "segment": MEASURE,
                             "filter": {"similarity_low": 0.02, "similarity_high": 0.995, "corrosion_radius": "auto"}}
    assert len(result.rows) == len(bowl.asked) == 12
    assert result.value == max(row.dice for row in result.rows if row.outcome.accepted) > result.rows[0].dice
    for asked in bowl.asked:
        assert 1 <= asked["generate"]["guidance_scale"] <= 4
        assert asked["generate"]["guidance_scale"] % 0.5 == 0
        assert asked["filter"]["similarity_low"] < asked["filter"]["similarity_high"] <= 0.995


@pytest.mark.parametrize("tool", [["git", "apply"], ["patch", "-p1", "-i"]])
def test_the_change_can_be_applied(project: Layout, tool: list[str]) -> None:
    if not shutil.which(tool[0]):
        pytest.skip(f"{tool[0]} is not installed")
    result = tune(project, read(project), trials=8, run=Bowl())
    before = project.params.read_text()
    subprocess.run([*tool, str(result.diff_file)], cwd=project.root, check=True, capture_output=True)
    after = read(project)
    for key, value in result.best.settings.items():
        section, name = key.split(".")
        assert getattr(getattr(after, section), name) == value
    kept, now = (re.findall("#(.*)", text) for text in (before, project.params.read_text()))
    assert now == kept, "a setting that wasn't in the file is a line of its own, without a comment"
    again = tune(project, after, trials=8, run=Bowl())
    assert (again.study, again.diff) == (result.study, "")


def test_an_interrupted_search_goes_on(project: Layout, runs: str) -> None:
    class Interrupted(Bowl):
        def __call__(self, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
            if len(self.asked) == 3:
                self.cut = overrides
                raise KeyboardInterrupt
            return super().__call__(overrides, env, hopeless)

    whole, first, second = Bowl(), Interrupted(), Bowl()
    with pytest.raises(KeyboardInterrupt):
        tune(project, read(project), trials=6, run=first)
    result = tune(project, read(project), trials=6, run=second)
    assert len(first.asked) == len(second.asked) == 3
    assert second.asked[0] == first.cut
    other = Layout(project.root / "other")
    other.root.mkdir()
    shutil.copy(project.params, other.params)
    tune(other, read(other), trials=6, run=whole)
    assert first.asked + second.asked[:1] == whole.asked[:4]
    asked = len(second.asked)
    assert len(tune(project, read(project), trials=6, run=second).rows) == len(result.rows) == 6
    assert len(second.asked) == asked


KILLED = """
import os, sys, warnings
from pathlib import Path
from meddiff.experiments.tuning import search
from meddiff.layout import Layout
from meddiff.params.file import load_params, parse_params, write_params

warnings.simplefilter("ignore")
search.HEARTBEAT_SECONDS = 1
layout = Layout(Path(sys.argv[1]))
search.tune(layout, load_params(layout.params), 2, lambda *given: os.kill(os.getpid(), 9))
"""


def test_a_killed_trial_is_made_up_for(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", KILLED, str(project.root)]
    died = subprocess.run(command, cwd=SETTINGS.parent, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    monkeypatch.setattr("meddiff.experiments.tuning.search.HEARTBEAT_SECONDS", 1)
    time.sleep(4)
    bowl = Bowl()
    result = tune(project, read(project), trials=2, run=bowl)
    assert [row.number for row in result.rows] == [1, 2]
    assert bowl.asked[0]["generate"]["guidance_scale"] == 1.0
    assert bowl.asked[0]["filter"] == {"similarity_low": 0.02, "similarity_high": 0.995, "corrosion_radius": "auto"}


def test_each_trial_is_a_nested_run(project: Layout, runs: str) -> None:
    bowl = Bowl()
    tune(project, read(project), trials=3, run=bowl)
    client, study = MlflowClient(runs), bowl.envs[0]["MEDDIFF_PARENT_RUN"]
    experiment = client.get_experiment_by_name("meddiff").experiment_id
    trials = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study}'")
    assert len(trials) == 3
    assert {run.data.tags["meddiff.execution"] for run in trials} == {env["MEDDIFF_EXECUTION"] for env in bowl.envs}
    assert all({"validation_dice", "cost", "generated", "seconds"} <= run.data.metrics.keys() for run in trials)
    first = min(trials, key=lambda run: run.info.start_time)
    assert first.data.params["generate.guidance_scale"] == "1.0"
    assert client.get_run(study).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(study)] == ["best.diff"]


def test_other_settings_begin_another_study(project: Layout) -> None:
    one = tune(project, read(project), trials=1, run=Bowl())
    values = read(project).model_dump()
    values["generate"]["steps"] += 1
    other = tune(project, Params.model_validate(values), trials=1, run=Bowl())
    assert one.study != other.study
    values["evaluate"]["resamples"] += 1
    assert tune(project, Params.model_validate(values), trials=1, run=Bowl()).study == other.study


def test_current_settings_beside_the_grid(project: Layout) -> None:
    values = read(project).model_dump()
    values["generate"]["guidance_scale"], values["filter"]["similarity_low"] = 7.3, 0.123
    asked: list[Overrides] = []

    def note(overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
        asked.append(overrides)
        return outcome((0.5,) * 3, 4, 2, 4)

    result = tune(project, Params.model_validate(values), trials=9, run=note)
    assert (asked[0]["generate"]["guidance_scale"], asked[0]["filter"]["similarity_low"]) == (7.3, 0.123)
    assert all(each["generate"]["guidance_scale"] <= 4 for each in asked[1:])
    first, *_ = optuna.load_study(study_name=result.study, storage=f"sqlite:///{project.work / 'optuna.db'}").trials
    assert first.params == result.rows[0].settings  # as they ran, for the dashboard too
    assert first.params["filter.corrosion_radius"] == "auto"


def test_failures(project: Layout) -> None:
    class Failing(Bowl):
        def __call__(self, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
            super().__call__(overrides, env, hopeless)
            if len(self.asked) in self.bad:
                raise MeddiffError("stage", "it must work", "Mend it")
            return outcome((0.5, 0.6, 0.7), 10, 5, 10)

    failing = Failing()
    failing.bad = {1}
    with pytest.raises(MeddiffError, match="it must work"):  # the current settings: nothing to compare with
        tune(project, read(project), trials=3, run=failing)
    assert len(failing.asked) == 1
    failing.bad = {3, 4}
    assert len(tune(project, read(project), trials=3, run=failing).rows) == 3
    assert failing.asked[1] == failing.asked[0]
    assert len(failing.asked) == 6
    failing.bad = {7, 8, 9}
    with pytest.raises(MeddiffError, match="it must work"):
        tune(project, read(project), trials=5, run=failing)
    assert len(failing.asked) == 9


def test_nothing_is_ever_accepted(project: Layout) -> None:
    with pytest.raises(MeddiffError, match="Loosen"):
        tune(project, read(project), trials=2, run=lambda *given: outcome((), 10, 0, 10))


@pytest.mark.parametrize(("change", "rule"), [
    ({"generate.guidance_scale": {"low": 0.5, "high": 2.0}}, "tune.space.generate.guidance_scale"),
    ({"filter.agreement": {"low": 0.8, "high": 0.2}}, "from the lesser to the greater"),
    ({"filter.agreement": {"low": 0.1, "high": 0.2, "choices": [0.3]}}, "either `choices` or a range"),
    ({"finetune.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "begins above 0"),
    ({"filter.similarity_low": {"low": 0.0, "high": 0.95}}, "must end below that of similarity_high"),
    ({"filter.corrosion_radius": {"low": 0.0, "high": 2.0}}, "the value of today, `auto`, is no number"),
    ({"filter.similarity_high": {"low": 0.9, "high": 0.9995}}, "tune.space.filter.similarity_high"),
    ({"filter.keep_copies": {"choices": ["a"]}}, "switches a safety rule off"),
    ({"segment.seeds": {"low": 0, "high": 2}}, "what trials are measured with"),
    ({"prepare.size": {"low": 32, "high": 64}}, "what trials are measured with"),
    ({"filter.nothing": {"low": 0, "high": 2}}, "there must be such a setting"),
])
def test_spaces_that_cannot_be(project: Layout, change: dict[str, object], rule: str) -> None:
    values = read(project).model_dump()
    values["tune"]["space"] |= change
    with pytest.raises(MeddiffError, match=rule):
        tune(project, parse_params(values, "params.yaml"), trials=1, run=Bowl())


def test_a_storage_that_does_not_answer(project: Layout) -> None:
    values = read(project).model_dump()
    values["tune"]["storage"] = "mysql+nothing://x/y"
    with pytest.raises(MeddiffError, match="the study's database must answer"):
        tune(project, Params.model_validate(values), trials=1, run=Bowl())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "studies.example.org"])
def test_pages_that_other_machines_reach_ask_for_a_password(project: Layout, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(MeddiffError, match=rf"--host {host}: pages that other machines reach must ask .*{PASSWORD_VARIABLE}"):
        serve_studies(project, read(project), 0, host)


def test_the_bound_of_copies_is_never_loosened(project: Layout) -> None:
    class Loose(Bowl):
        """The looser the bound, the better the Dice, as where copies help."""

        def __call__(self, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
            self.asked.append(overrides)
            return outcome((overrides["filter"]["similarity_high"],) * 3, 100, 50, 100)

    write_params(project.params, {"filter": {"similarity_high": 0.95}})
    loose = Loose()
    result = tune(project, read(project), trials=10, run=loose)
    assert max(each["filter"]["similarity_high"] for each in loose.asked) == 0.95
    assert len({each["filter"]["similarity_high"] for each in loose.asked}) > 1
    assert "+  similarity_high" not in result.diff
    write_params(project.params, {"filter": {"similarity_high": 0.92}})  # tightened by hand since
    again = tune(project, read(project), trials=10, run=loose)
    assert again.study == result.study
    assert float(again.best.settings["filter.similarity_high"]) <= 0.92


def test_each_setting_keeps_its_kind(project: Layout) -> None:
    values = read(project).model_dump()
    values["tune"]["space"] = {"finetune.steps": {"low": 50, "high": 200, "step": 25}, "generate.n": {"choices": [25, 50]},
                               "finetune.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    asked: list[Overrides] = []

    def note(overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
        asked.append(overrides)
        return outcome((0.5,) * 3, 4, 2, 4)

    tune(project, Params.model_validate(values), trials=8, run=note)
    assert asked[0] == {"finetune": {"steps": 75, "learning_rate": 5e-4}, "generate": {"n": 75}, "segment": MEASURE}
    assert {type(each["finetune"]["steps"]) for each in asked} == {type(each["generate"]["n"]) for each in asked} == {int}
    assert {each["generate"]["n"] for each in asked} <= {25, 50, 75}
    assert all(1e-5 <= each["finetune"]["learning_rate"] <= 1e-3 for each in asked)


def test_a_trial_is_stopped_after_a_bad_first_seed(project: Layout) -> None:
    asked: list[Hopeless | None] = []

    def run(overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
        asked.append(hopeless)
        dice, n = (0.6 if len(asked) <= 7 else 0.4), read(project).generate.n
        first = outcome((dice,), n, 50, n)
        return first if hopeless and hopeless(first) else outcome((dice,) * 3, n, 50, n)

    values = read(project).model_dump()
    values["tune"]["space"] = {"filter.corrosion_radius": {"choices": ["auto", 4]}}
    result = tune(project, Params.model_validate(values), trials=9, run=run)
    assert [hopeless is None for hopeless in asked] == [True] * 6 + [False] * 3
    assert [row.state for row in result.rows] == ["complete"] * 7 + ["stopped"] * 2
    assert result.best.state == "complete"
    values["tune"] |= {"prune": False, "study": "whole"}
    asked.clear()
    assert {row.state for row in tune(project, Params.model_validate(values), trials=9, run=run).rows} == {"complete"}
    assert set(asked) == {None}


def test_only_trials_that_cost_no_more_stop_another() -> None:
    given = [(0.7, 9), (0.6, 2), (0.5, 2), (0.5, 1)]
    rows = [replace(row(i, (dice,) * 3, 50), cost=cost) for i, (dice, cost) in enumerate(given)]
    poor = outcome((0.52,), 100, 50)
    assert not behind(poor, 2.0, rows, 2)
    assert behind(outcome((0.49,), 100, 50), 2.0, rows, 2)
    assert behind(poor, 9.0, rows, 2)
    assert not behind(poor, 9.0, rows, 5)


def row(number: int, dice: tuple[float, ...], accepted: int, guidance: float = 1.5) -> TrialRow:
    params = Params.model_validate({"generate": {"guidance_scale": guidance}})
    return trial_row(number, {"generate.guidance_scale": guidance}, outcome(dice, 100, accepted, 0), params)


def test_the_cheapest_within_the_noise_is_proposed_and_the_reason_told() -> None:
    top, near, far = row(0, (0.70, 0.72, 0.74), 20), row(1, (0.71, 0.71, 0.71), 50), row(2, (0.6, 0.6, 0.6), 90)
    found = propose([top, near, far])
    assert found.row is near
    assert found.reason == ("its Dice is within one standard error (0.0115) of the best, 0.7200 of trial 0, which is noise, "
                            "and it has 50 accepted pairs, that one 20")
    assert (propose([top, far]).row, propose([top, far]).reason) == (top, "it has the best Dice")
    cheap = row(3, (0.71, 0.71, 0.71), 10, guidance=1.0)
    assert propose([top, near, cheap]).row is cheap
    assert propose([top, near, cheap]).reason.endswith(f"it costs {cheap.cost:.1f} thousand passes, that one {top.cost:.1f}")
    assert propose([replace(top, cost=1.0), near]).reason == (
        "it has the best Dice, and none within its standard error (0.0115) is cheaper")
    assert math.isclose(top.error, 0.02 / math.sqrt(3))
    assert (top.cost - cheap.cost) * 1000 == pytest.approx(100 * 20)  # guidance doubles the 20 steps of 100 samples
    assert row(4, (), 0).state == "nothing accepted"
    single = row(5, (0.72,), 20), row(6, (0.719,), 90)
    assert propose(single).row is single[0]
    assert pareto([top, near, far, cheap]) == [top, cheap]


def test_cost_counts_all_networks_up_to_the_samples() -> None:
    base = network_passes(Params(), 75)
    for section, name, value, more in (("finetune", "steps", 76, 3 * 16), ("mask_model", "steps", 81, 3 * 16),
                                       ("backgrounds", "finder_steps", 131, 3 * 2 * 8), ("foundation", "steps", 16, 3 * 16),
                                       ("generate", "steps", 21, 75)):
        assert network_passes(Params.model_validate({section: {name: value}}), 75) - base == pytest.approx(more)


STAGES = {
    "generate": """
folder = root / "synthetic/b0000"; folder.mkdir(parents=True, exist_ok=True)
pd.DataFrame([{"id": f"s{i}", "batch": "b0000", "seed": i, "background": "n", "area": 0.1, "steps": 20, "generator": "g",
               "guidance_scale": p["generate"]["guidance_scale"]} for i in range(10)]).to_parquet(folder / "batch.parquet")
""",
    "filter": """
folder = root / "filtered"; folder.mkdir(exist_ok=True)
kept = round(10 * p["filter"]["similarity_high"]) - round(10 * p["filter"].get("similarity_low", 0.02))
pd.DataFrame([{"id": f"s{i}", "batch": "b0000", "similarity": 0.5, "nearest": "c", "agreement": 0.9, "contrast": 9.0, "area": 0.1,
               "verdict": "accepted" if i < kept else "rejected", "reason": ""} for i in range(10)]
             ).to_parquet(folder / "decisions.parquet")
(folder / "batches.json").write_text(json.dumps({"b0000": {"passed": True, "reasons": []}}))
""",
    "segment": """
assert p["segment"]["arms"] == ["synthetic"]
folder = root / "models/segmenters"; folder.mkdir(parents=True, exist_ok=True)
radius = p["filter"]["corrosion_radius"]
dice = 0.7 + 0.02 * (1.0 if radius == "auto" else radius) + 0.01 * p["generate"]["guidance_scale"]
lines = ["arm,seed,dice,seconds", *(f"synthetic,{seed},{dice},1" for seed in p["segment"]["seeds"])]
(folder / "validation.csv").write_text("\\n".join(lines) + "\\n")
""",
}


@pytest.fixture
def small_pipeline(project: Layout) -> Layout:
    """A real DVC project with the stages' names and files, whose stages take no time and note that they ran."""
    outs = {"generate": "synthetic", "filter": "filtered", "segment": "models/segmenters"}
    deps: dict[str, list[str]] = {"generate": [], "filter": ["synthetic"], "segment": ["filtered"]}
    stages = {}
    for name, code in STAGES.items():
        head = f"""
import json, yaml, pandas as pd
from pathlib import Path
root = Path('.'); p = yaml.safe_load(open('params.yaml'))
def log(name):
    with open({str(project.root / 'ran.log')!r}, 'a') as lines: lines.write(name + ' ')
log('{name}')
"""
        (project.root / f"{name}.py").write_text(head + code)
        stages[name] = {"cmd": f"{sys.executable} {name}.py", "deps": [f"{name}.py", *deps[name]], "params": [name],
                        "outs": [outs[name]]}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (project.root / ".gitignore").write_text(".work/\nran.log\n")
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=project.root, check=True, capture_output=True)
    return project


def test_a_change_of_the_filter_alone_generates_nothing_anew(small_pipeline: Layout) -> None:
    values = read(small_pipeline).model_dump()
    values["tune"]["space"]["generate.guidance_scale"] = {"low": 1.0, "high": 1.0}
    result = tune(small_pipeline, Params.model_validate(values), trials=3)
    assert [row.outcome.generated for row in result.rows] == [10, 0, 0]
    ran = (small_pipeline.root / "ran.log").read_text().split()
    assert ran.count("generate") == 1
    assert ran.count("filter") == ran.count("segment") == 3
    asked = [row.settings["filter.corrosion_radius"] for row in result.rows]
    assert asked[0] == result.rows[0].shown("filter.corrosion_radius") == "auto"
    assert len(set(asked)) > 1
    corrosion = [AUTO if radius == "auto" else float(radius) for radius in asked]
    assert [row.dice for row in result.rows] == pytest.approx([0.71 + 0.02 * radius for radius in corrosion])
    assert not list((small_pipeline.work / "tune/trees").iterdir())
    assert not small_pipeline.synthetic.exists()


def test_trials_are_units_of_work_for_a_cluster(small_pipeline: Layout) -> None:
    values = read(small_pipeline).model_dump()
    values["compute"]["cluster"] = "local:2"
    for stage in ("generate", "filter", "segment"):
        with (small_pipeline.root / f"{stage}.py").open("a") as code:
            code.write("import os; log(os.environ.get('MEDDIFF_UNIT', 'here'))\n")
    result = tune(small_pipeline, Params.model_validate(values), trials=5)
    assert [row.number for row in result.rows] == [0, 1, 2, 3, 4]
    assert len({tuple(row.settings.values()) for row in result.rows}) == 5, "no worker repeats another's draw"
    assert "here" not in (ran := (small_pipeline.root / "ran.log").read_text().split())
    assert ran.count("1") == len(ran) / 2
    assert tune(small_pipeline, Params.model_validate(values), trials=5).rows == result.rows, "nothing is left to do"


def test_a_stage_that_fails_is_told(small_pipeline: Layout) -> None:
    (small_pipeline.root / "filter.py").write_text("raise SystemExit('meddiff: filter.agreement: it must be so. Mend it.')")
    with pytest.raises(MeddiffError, match=r"filter\.agreement: it must be so\. Mend it"):
        tune(small_pipeline, read(small_pipeline), trials=2)
    assert not list((small_pipeline.work / "tune/trees").iterdir())


@pytest.mark.parametrize("hopeless", [True, False])
def test_the_other_seeds_are_trained_if_the_first_is_not_hopeless(small_pipeline: Layout, hopeless: bool) -> None:
    overrides = {"segment": {"arms": ["synthetic"], "seeds": [3, 4]}, "generate": {"guidance_scale": 1.0}}
    seen: list[Outcome] = []

    def judge(first: Outcome) -> bool:
        seen.append(first)
        return hopeless

    made = run_trial(small_pipeline, overrides, {}, judge)
    assert list(seen[0].dice["synthetic"]) == [3]
    assert list(made.dice["synthetic"]) == ([3] if hopeless else [3, 4])
    ran = (small_pipeline.root / "ran.log").read_text().split()
    assert (ran.count("generate"), ran.count("filter"), ran.count("segment")) == (1, 1, 1 if hopeless else 2)


SLOW = """
import os, time
with open('pids', 'a') as lines: lines.write(f"{os.getpid()} {os.getppid()} ")
time.sleep(100)
"""
TUNE = """
import sys, warnings
from pathlib import Path
from meddiff.experiments.tuning.search import tune
from meddiff.layout import Layout
from meddiff.params.file import load_params

warnings.simplefilter("ignore")
layout = Layout(Path(sys.argv[1]))
tune(layout, load_params(layout.params), 1)
"""


@pytest.mark.parametrize("cluster", ["", "local:2"])
def test_a_killed_search_leaves_nothing_running(small_pipeline: Layout, cluster: str) -> None:
    write_params(small_pipeline.params, {"compute": {"cluster": cluster}})
    (small_pipeline.root / "filter.py").write_text(SLOW.replace("'pids'", repr(str(small_pipeline.root / "pids"))))
    with subprocess.Popen([sys.executable, "-c", TUNE, str(small_pipeline.root)], cwd=SETTINGS.parent) as search:
        until = time.monotonic() + 150
        while not (noted := small_pipeline.root / "pids").exists() or not noted.read_text().endswith(" "):
            assert time.monotonic() < until
            assert search.poll() is None
            time.sleep(0.1)
        below = psutil.Process(search.pid).children(recursive=True)
        search.send_signal(signal.SIGKILL)
    stage = int(noted.read_text().split()[0])
    assert stage in {process.pid for process in below}
    assert not psutil.wait_procs(below, timeout=60)[1]


WORKER = """
import os, sys, time, warnings
from pathlib import Path
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning import search
from meddiff.layout import Layout
from meddiff.params.file import load_params

warnings.simplefilter("ignore")
search.HEARTBEAT_SECONDS = 1
layout, dies, made = Layout(Path(sys.argv[1])), sys.argv[2] == "dies", []

def run(overrides, env, hopeless):
    made.append(overrides)
    if dies and len(made) == 2:
        print("dies", flush=True)
        os.kill(os.getpid(), 9)
    time.sleep(0.5)
    return Outcome({"synthetic": {0: 0.5, 1: 0.6, 2: 0.7}}, 100, 50, {}, ("filter",), 1.0, 90.0)

print(len(search.tune(layout, load_params(layout.params), 6, run).rows), len(made))
"""


@pytest.mark.services
def test_workers_share_a_study_in_postgresql_and_make_up_for_one_that_is_killed(project: Layout, postgres_database: str) -> None:
    write_params(project.params, {"tune": {"storage": postgres_database}})
    command = [sys.executable, "-c", WORKER, str(project.root)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, how], cwd=SETTINGS.parent, env=env, text=True, stdout=subprocess.PIPE)
               for how in ("dies", "lives")]
    (told, _), (last, _) = (worker.communicate(timeout=300) for worker in workers)
    assert (workers[0].returncode, told) == (-9, "dies\n")
    assert workers[1].returncode == 0
    finished, own = map(int, last.split())
    assert (finished, own) == (6, 5)
    storage = optuna.storages.RDBStorage(postgres_database)
    (study,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=study, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    (killed,) = (trial for trial in trials if trial.state == TrialState.FAIL)
    (again,) = (trial for trial in trials if trial.system_attrs.get("failed_trial") == killed.number)
    assert (again.state, again.params) == (TrialState.COMPLETE, killed.params)


@pytest.mark.services
def test_a_study_outlives_a_restart_of_postgresql_and_one_that_lasts_ends_in_one_line(
        project: Layout, postgres: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(project.params, {"tune": {"storage": postgres_database}})
    begun, end, bowl = 1, 2, Bowl()

    def shaken(overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
        if len(bowl.asked) == begun:
            control(postgres, "restart", "-m", "fast")
        if len(bowl.asked) == end:
            control(postgres, "stop", "-m", "fast")
        return bowl(overrides, env, hopeless)

    monkeypatch.setattr("meddiff.experiments.tuning.search.HEARTBEAT_SECONDS", 1)
    try:
        with pytest.raises(MeddiffError, match=r"tune\.storage: the study's database must answer"):
            tune(project, read(project), trials=4, run=shaken)
    finally:
        control(postgres, "start", "-o", f"-c listen_addresses= -c fsync=off -k {postgres}")
    assert len(bowl.asked) == end + 1
    result = tune(project, read(project), trials=4, run=shaken)
    assert len(result.rows) == 4
    assert bowl.asked.count(bowl.asked[end]) == 2, "the trial whose end could not be told is tried again, and no other"
    assert len(bowl.asked) == 5
