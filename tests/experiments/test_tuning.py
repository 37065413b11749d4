"""The search: what it proposes, how it goes on after an interrupt, and that a change of the filter generates nothing anew."""

import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from meddiff.errors import MeddiffError
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning.search import tune
from meddiff.experiments.tuning.trials import TrialRow, propose, trial_row
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.file import load_params
from meddiff.params.overrides import Overrides

SETTINGS = Path(__file__).parents[2] / "params.yaml"
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


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
    return Layout(tmp_path)


AUTO = 1.0  # the corrosion that the stand-ins measure


class Bowl:
    """A trial that costs nothing: best at guidance 3, bounds 0.1 and 0.95, corrosion 2; with guidance 4 nothing is accepted."""

    def __init__(self) -> None:
        self.asked: list[Overrides] = []
        self.envs: list[Mapping[str, str]] = []

    def __call__(self, overrides: Overrides, env: Mapping[str, str]) -> Outcome:
        self.asked.append(overrides)
        self.envs.append(env)
        f, guidance = overrides["filter"], overrides["generate"]["guidance_scale"]
        loss = ((guidance - 3) / 3) ** 2 + ((f["similarity_low"] - 0.1) / 0.3) ** 2 + (f["similarity_high"] - 0.95) ** 2
        radius = AUTO if f["corrosion_radius"] == "auto" else f["corrosion_radius"]
        dice = 0.8 - 0.1 * loss - 0.1 * ((radius - 2) / 4) ** 2
        return outcome((dice, dice), 100, 0, 100) if guidance > 3.5 else outcome((dice, dice), 100, 50, 100)


def outcome(dice: tuple[float, ...], samples: int, accepted: int, generated: int = 0) -> Outcome:
    scores = {"synthetic": dict(enumerate(dice))} if dice else {}
    return Outcome(scores, samples, accepted, {}, ("generate", "filter") if generated else ("filter",), 1.0, 90.0)


def read(layout: Layout) -> Params:
    return load_params(layout.params)


def test_the_first_trial_is_the_current_settings_and_the_best_is_better(project: Layout) -> None:
    bowl = Bowl()
    result = tune(project, read(project), trials=12, run=bowl)
    assert bowl.asked[0] == {"generate": {"guidance_scale": 1.0}, "segment": {"arms": ["synthetic"]},
                             "filter": {"similarity_low": 0.02, "similarity_high": 0.995, "corrosion_radius": "auto"}}
    assert len(result.rows) == len(bowl.asked) == 12
    assert result.value == max(row.dice for row in result.rows if row.outcome.accepted) > result.rows[0].dice
    for asked in bowl.asked:
        assert 1 <= asked["generate"]["guidance_scale"] <= 4
        assert asked["generate"]["guidance_scale"] % 0.5 == 0
        assert asked["filter"]["similarity_low"] < asked["filter"]["similarity_high"] <= 1


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
        def __call__(self, overrides: Overrides, env: Mapping[str, str]) -> Outcome:
            if len(self.asked) == 3:
                self.cut = overrides
                raise KeyboardInterrupt
            return super().__call__(overrides, env)

    whole, first, second = Bowl(), Interrupted(), Bowl()
    with pytest.raises(KeyboardInterrupt):
        tune(project, read(project), trials=6, run=first)
    result = tune(project, read(project), trials=6, run=second)
    assert len(first.asked) == len(second.asked) == 3
    assert second.asked[0] == first.cut
    other = Layout(project.root / "other")
    other.root.mkdir()
    shutil.copy(SETTINGS, other.params)
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
from meddiff.params.file import load_params

warnings.simplefilter("ignore")
search.HEARTBEAT_SECONDS = 1
layout = Layout(Path(sys.argv[1]))
search.tune(layout, load_params(layout.params), 2, lambda overrides, env: os.kill(os.getpid(), 9))
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

    def note(overrides: Overrides, env: Mapping[str, str]) -> Outcome:
        asked.append(overrides)
        return outcome((0.5,), 4, 2, 4)

    tune(project, Params.model_validate(values), trials=2, run=note)
    assert (asked[0]["generate"]["guidance_scale"], asked[0]["filter"]["similarity_low"]) == (7.3, 0.123)
    assert asked[1]["generate"]["guidance_scale"] <= 4


def test_failures(project: Layout) -> None:
    class Failing(Bowl):
        def __call__(self, overrides: Overrides, env: Mapping[str, str]) -> Outcome:
            super().__call__(overrides, env)
            if len(self.asked) in self.bad:
                raise MeddiffError("stage", "it must work", "Mend it")
            return outcome((0.5, 0.6), 10, 5, 10)

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
        tune(project, read(project), trials=2, run=lambda o, e: outcome((), 10, 0, 10))


@pytest.mark.parametrize(("change", "rule"), [
    ({"guidance_scale": (0.5, 2.0)}, "tune.guidance_scale"),
    ({"corrosion_radius": (3.0, 1.0)}, "from the lesser to the greater"),
    ({"similarity_low": (0.0, 0.95)}, "must end below that of similarity_high"),
    ({"storage": "mysql+nothing://x/y"}, "the study's database must answer"),
])
def test_settings_that_cannot_be(project: Layout, change: dict[str, object], rule: str) -> None:
    values = read(project).model_dump()
    values["tune"] |= change
    with pytest.raises(MeddiffError, match=rule):
        tune(project, Params.model_validate(values), trials=1, run=Bowl())


def row(number: int, dice: tuple[float, ...], accepted: int, guidance: float = 1.5) -> TrialRow:
    return trial_row(number, {"generate.guidance_scale": guidance}, outcome(dice, 100, accepted, 0), Params().generate)


def test_the_cheapest_within_the_noise_is_proposed() -> None:
    top, near, far = row(0, (0.70, 0.72, 0.74), 20), row(1, (0.71, 0.71, 0.71), 50), row(2, (0.6, 0.6, 0.6), 90)
    assert propose([top, near, far]) is near
    assert propose([top, far]) is top
    assert math.isclose(top.error, 0.02 / math.sqrt(3))
    assert (near.cost, row(3, (0.5,), 50, guidance=1.0).cost) == (80.0, 40.0)  # 20 steps, twice with guidance, half accepted
    assert row(4, (), 0).cost == math.inf
    single = row(5, (0.72,), 20), row(6, (0.719,), 90)
    assert propose(single) is single[0]


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
(folder / "validation.csv").write_text(f"arm,seed,dice,seconds\\nsynthetic,0,{dice},1\\nsynthetic,1,{dice},1\\n")
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
    values["tune"]["guidance_scale"] = (1.0, 1.0)
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


def test_a_stage_that_fails_is_told(small_pipeline: Layout) -> None:
    (small_pipeline.root / "filter.py").write_text("raise SystemExit('meddiff: filter.agreement: it must be so. Mend it.')")
    with pytest.raises(MeddiffError, match=r"filter\.agreement: it must be so\. Mend it"):
        tune(small_pipeline, read(small_pipeline), trials=2)
    assert not list((small_pipeline.work / "tune/trees").iterdir())
