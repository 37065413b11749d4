"""Against a real SQLite MLflow and a real `dvc repro` in temporary projects: which runs there are, and what they hold."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag

from meddiff.errors import MeddiffError, ServiceError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.file import load_params
from meddiff.services import tracking, versioning
from meddiff.services.tracking import end_lost, execution_run, recorded_action, recorded_run, stage_run, tracking_uri, ui_command
from meddiff.services.tracking.execution import this_process
from meddiff.services.tracking.runs import PROCESS, Run
from meddiff.services.tracking.server import connect
from tests.postgres import control

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # dvc's own, in pygtrie

# The command line of meddiff with tiny stages in the place of the real ones.
COMMAND = '''
import sys, types
import pandas as pd

def run(layout, params, tracker):
    settings = getattr(params, stage)
    if getattr(settings, "tolerance", 0) == 13:
        from meddiff.errors import MeddiffError
        raise MeddiffError("data/test", "it must be there", "Make it")
    out = {"prepare": layout.split.parent / "train", "filter": layout.filtered, "evaluate": layout.report}[stage]
    out.mkdir(parents=True, exist_ok=True)
    (out / "a.txt").write_text(f"{stage} {settings.seed}")
    tracker.metrics({"loss": 1.0}, 0)
    tracker.metrics({"loss": 0.5}, 1)
    tracker.file(out / "a.txt", "tables")
    if stage == "prepare":
        tracker.dataset(pd.DataFrame({"id": ["a", "b"], "labelled": [1, 0]}), "train", "training")
    if stage == "filter":
        tracker.headline({"acceptance": 0.25})
    if stage == "evaluate":
        tracker.headline({"gain_lower": 0.5})
        tracker.headline_file(out / "a.txt")

stage = sys.argv[1]
module = types.ModuleType(stage)
module.run = run
sys.modules[f"meddiff.stages.{stage}"] = module
from meddiff.__main__ import main
main()
'''
PIPELINE = {"stages": {
    "prepare": {"cmd": "python command.py prepare", "params": ["prepare"], "outs": ["data/train"]},
    "filter": {"cmd": "python command.py filter", "deps": ["data/train"], "params": ["filter"], "outs": ["filtered"]},
    "evaluate": {"cmd": "python command.py evaluate", "deps": ["filtered"], "params": ["evaluate"],
                 "outs": ["reports/evaluation"]},
}}
SETTINGS = "prepare:\n  seed: 1\nfilter:\n  min_contrast: 1\nevaluate:\n  tolerance: 1\n"


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_EXECUTION", "MEDDIFF_PARENT_RUN", "MEDDIFF_GIT_COMMIT", "DVC_STAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder whose MLflow database is made, for copies: the making takes seconds."""
    root = tmp_path_factory.mktemp("tracking") / "project"
    root.mkdir()
    (root / "params.yaml").write_text(SETTINGS)
    connect(Layout(root), Params().tracking)
    return root


def runs(root: Path, query: str = "") -> list[Any]:
    server = connect(Layout(root), Params().tracking)
    return list(server.client.search_runs([server.experiment], query, order_by=["attributes.start_time ASC"]))


def tops(root: Path) -> list[Any]:
    return [run for run in runs(root) if "mlflow.parentRunId" not in run.data.tags]


def below(root: Path, top: Any) -> dict[str, Any]:
    return {run.data.tags["meddiff.stage"]: run for run in runs(root, f"tags.`mlflow.parentRunId` = '{top.info.run_id}'")}


def repro(root: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", "repro", *words]
    return subprocess.run(command, cwd=root, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that ran once by a bare `dvc repro`."""
    root = tmp_path_factory.mktemp("tracked") / "project"
    root.mkdir()
    (root / "params.yaml").write_text(SETTINGS)
    (root / "command.py").write_text(COMMAND)
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=root, check=True)
    done = repro(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alembic" not in done.stderr
    assert "Warning" not in done.stderr
    return root


def test_one_run_for_the_execution_and_one_below_for_each_stage(project: Path) -> None:
    (top,) = tops(project)[:1]
    stages = below(project, top)
    assert set(stages) == {"prepare", "filter", "evaluate"}
    assert {run.info.status for run in (top, *stages.values())} == {"FINISHED"}
    assert top.info.run_name.startswith(f"demo 64 px, {Params().prepare.n_labelled} labelled, 20")
    assert top.data.tags["meddiff.complete"] == "true"
    assert "3 stages" not in top.data.tags["mlflow.note.content"]
    assert "[finished]" in top.data.tags["mlflow.note.content"]
    assert len(runs(project, f"tags.`meddiff.execution` = '{top.data.tags['meddiff.execution']}'")) == 1


def test_the_execution_holds_parameters_numbers_files_and_data(project: Path) -> None:
    top = tops(project)[0]
    expected = {f"{section}.{name}" for section, values in Params().model_dump().items() for name in values}
    assert set(top.data.params) == expected
    assert len(expected) > 90
    assert top.data.params["prepare.seed"] == "1"
    assert top.data.params["foundation.channels"] == "[64, 128]"
    assert top.data.metrics["acceptance"] == 0.25
    assert top.data.metrics["gain_lower"] == 0.5
    assert "seconds.filter" in top.data.metrics
    assert [each.dataset.name for each in top.inputs.dataset_inputs] == ["train"]
    client = connect(Layout(project), Params().tracking).client
    assert {each.path for each in client.list_artifacts(top.info.run_id)} == {"params.yaml", "dvc.lock", "a.txt"}
    kept, written = Path(client.download_artifacts(top.info.run_id, "dvc.lock")), project / "dvc.lock"
    assert yaml.safe_load(kept.read_text()) == yaml.safe_load(written.read_text())


def test_hashes_in_the_tags_are_those_of_the_lock_file(project: Path) -> None:
    top = tops(project)[0]
    stages = below(project, top)
    locked = versioning.locked(project)
    assert set(locked) == set(stages)
    for stage, outs in locked.items():
        for path, md5 in outs.items():
            assert stages[stage].data.tags[f"meddiff.out.{path}"] == md5 == top.data.tags[f"meddiff.out.{path}"]


def test_a_stage_keeps_its_own_numbers_files_and_cost(project: Path) -> None:
    run = below(project, tops(project)[0])["prepare"]
    client = connect(Layout(project), Params().tracking).client
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(0, 1.0), (1, 0.5)]
    assert 50 < run.data.metrics["peak_memory_mb"] < 10_000
    assert 0 < run.data.metrics["seconds.prepare"] < 60
    assert [each.path for each in client.list_artifacts(run.info.run_id, "tables")] == ["tables/a.txt"]
    assert "loss" not in tops(project)[0].data.metrics


@pytest.fixture(scope="module")
def changed(project: Path) -> Path:
    """The same project after only `evaluate` had to run again, and failed, and ran."""
    for tolerance, code in ((13, 255), (2, 0)):
        (project / "params.yaml").write_text(SETTINGS.replace("tolerance: 1", f"tolerance: {tolerance}"))
        done = repro(project, MEDDIFF_EXECUTION=f"flow-{tolerance}", MEDDIFF_GIT_COMMIT="abc-dirty")
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert "meddiff: data/test: it must be there. Make it." in done.stderr.splitlines()
            # DVC removed it, the failing stage brought it back.
            assert (project / "reports/evaluation/a.txt").read_text() == "evaluate 1"
    return project


def test_skipped_stages_are_linked_and_their_numbers_repeated(changed: Path) -> None:
    first, _, last = tops(changed)
    makers, stages = below(changed, first), below(changed, last)
    assert set(stages) == {"evaluate"}
    for name in ("prepare", "filter"):
        assert last.data.tags[f"skipped.{name}"] == makers[name].info.run_id
    assert last.data.metrics["acceptance"] == 0.25
    assert last.data.metrics["gain_lower"] == 0.5
    assert [each.dataset.name for each in last.inputs.dataset_inputs] == ["train"]
    assert f"runs/{makers['filter'].info.run_id}" in last.data.tags["mlflow.note.content"]
    names = ("meddiff.execution", "mlflow.source.git.commit", "meddiff.git.dirty")
    assert [last.data.tags[name] for name in names] == ["flow-2", "abc", "true"]


def test_a_failure_is_recorded(changed: Path) -> None:
    failed = tops(changed)[1]
    assert failed.info.status == "FAILED" == below(changed, failed)["evaluate"].info.status
    assert failed.data.tags["meddiff.error"] == "evaluate: MeddiffError: data/test: it must be there. Make it."
    assert "meddiff.complete" not in failed.data.tags


def test_one_execution_is_one_run_and_a_retry_heals_it(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shutil.copytree(empty, tmp_path / "p")
    monkeypatch.setenv("MEDDIFF_EXECUTION", "flow-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(Layout(empty), Params().tracking))
    layout, params = Layout(root), load_params(root / "params.yaml")
    with pytest.raises(ValueError, match="once"), stage_run(layout, params, "prepare"):
        raise ValueError("once")
    mine = [run for run in tops(empty) if run.data.tags["meddiff.execution"] == "flow-1"]
    assert [run.info.status for run in mine] == ["FAILED"]
    assert "meddiff.error" in mine[0].data.tags
    with stage_run(layout, params, "prepare"):
        assert execution_run(layout, params).id == mine[0].info.run_id
        (running,) = (run for run in tops(empty) if run.data.tags["meddiff.execution"] == "flow-1")
        assert running.info.status == "RUNNING"
    with pytest.raises(KeyboardInterrupt), stage_run(layout, params, "filter"):
        raise KeyboardInterrupt
    (healed,) = (run for run in tops(empty) if run.data.tags["meddiff.execution"] == "flow-1")
    assert healed.info.status == "KILLED"
    assert set(below(empty, healed)) == {"prepare", "filter"}
    assert not (root / ".work/mlartifacts").exists()
    assert not (Path.cwd() / "mlruns").exists()


def test_a_trial_stands_below_its_study(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, params = Layout(empty), load_params(empty / "params.yaml")
    study = execution_run(layout, params, "study")
    given = execution_run(layout, params, "trial-0", study.id)
    monkeypatch.setenv("MEDDIFF_PARENT_RUN", study.id)
    trial = execution_run(layout, params, "trial-1")
    trial.metrics({"validation_dice": 0.5})
    trial.status("FINISHED")
    other, kept = runs(empty, f"tags.`mlflow.parentRunId` = '{study.id}'")
    assert other.info.run_id == given.id
    assert kept.info.run_id == trial.id
    assert kept.data.metrics == {"validation_dice": 0.5}
    assert kept.data.params["prepare.seed"] == "1"
    assert execution_run(layout, params, "trial-1").id == trial.id


def test_a_run_lives_from_its_beginning_to_its_end(empty: Path) -> None:
    layout, params = Layout(empty), load_params(empty / "params.yaml")

    def now(name: str) -> tuple[str, str | None]:
        *_, run = runs(empty, f"tags.`mlflow.runName` = '{name}'")  # the newest
        return run.info.status, run.data.tags.get("meddiff.error")

    def attempt(error: BaseException | None = None, told: str = "") -> str:
        with recorded_action(layout, params, "search", "whole") as whole:
            assert now("whole")[0] == "RUNNING"
            with recorded_run(layout, params, "part", f"{whole.id}-part", whole, {"meddiff.part": "x"}) as part:
                assert part.env == {"MEDDIFF_EXECUTION": f"{whole.id}-part", "MEDDIFF_PARENT_RUN": whole.id}
                if error:
                    raise error
            whole.error = told
        return whole.id

    for error, status in ((MeddiffError("a stage", "it must work", "Mend it"), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        with pytest.raises(type(error)):
            attempt(error)
        assert now("whole") == now("part") == (status, " ".join(f"{type(error).__name__}: {error}".split()))
    first = attempt(told="a part is missing")
    assert (now("whole"), now("part")) == (("FAILED", "a part is missing"), ("FINISHED", None))
    assert attempt() == first, "what isn't finished goes on in the same run"
    assert now("whole") == ("FINISHED", None)
    (part,) = runs(empty, f"tags.`mlflow.parentRunId` = '{first}'")
    assert (part.info.run_name, part.data.tags["meddiff.part"]) == ("part", "x")
    assert attempt() != first


@pytest.mark.parametrize("moment", ["new_run", "this_process"])
def test_an_interruption_while_runs_are_made_closes_them(empty: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    layout, params = Layout(empty), load_params(empty / "params.yaml")
    monkeypatch.setenv("MEDDIFF_EXECUTION", f"interrupted-{moment}")
    whole = execution_run(layout, params)
    real = getattr(tracking.recording, moment)

    def interrupted(*given: Any) -> Any:
        monkeypatch.setattr(tracking.recording, moment, real)
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.recording, moment, interrupted)
    with pytest.raises(KeyboardInterrupt), stage_run(layout, params, "filter"):
        pytest.fail("never begins")
    (seen,) = (run for run in tops(empty) if run.info.run_id == whole.id)
    assert seen.info.status == "KILLED"
    assert [run.info.status for run in below(empty, seen).values()] == ["KILLED"] * (moment == "new_run")


KILLED = """
import sys, time
from pathlib import Path
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import stage_run

with stage_run(Layout(Path(sys.argv[1])), Params(), "filter"):
    print("in it", flush=True)
    time.sleep(600)
"""


def test_runs_of_a_killed_process_end_and_others_go_on(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shutil.copytree(empty, tmp_path / "p")
    layout, params, before = Layout(root), Params(), {run.info.run_id for run in runs(root)}
    with subprocess.Popen([sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "MEDDIFF_EXECUTION": "killed"}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in it\n"
        assert end_lost(layout, params) == ()
        process.kill()
    monkeypatch.setenv("MEDDIFF_EXECUTION", "elsewhere")
    with stage_run(layout, params, "filter") as other:
        for run in (other.own, other.whole):
            run.tags({PROCESS: "another-host-1-1.00"})
        monkeypatch.setenv("MEDDIFF_EXECUTION", "alive")
        with stage_run(layout, params, "filter"):
            ended = {run.id for run in end_lost(layout, params)}
            left = {run.info.run_id: run.info.status for run in runs(root) if run.info.run_id not in before}
            assert {left[id] for id in ended} == {"KILLED"}
            assert sorted(left.values()) == ["KILLED"] * 2 + ["RUNNING"] * 4
            found = end_lost(layout, params, lambda execution: execution == "elsewhere")
            assert {run.id for run in found} == {other.own.id, other.whole.id}
    (top, *_) = [run for run in tops(root) if run.data.tags["meddiff.execution"] == "killed"]
    assert top.data.tags["meddiff.error"].startswith("its process was killed")
    monkeypatch.setenv("MEDDIFF_EXECUTION", "killed")
    with stage_run(layout, params, "filter"):
        pass
    (healed,) = [run for run in tops(root) if run.data.tags["meddiff.execution"] == "killed"]
    assert (healed.info.status, "meddiff.error" in healed.data.tags) == ("FINISHED", False)


@pytest.mark.services
def test_a_run_outlives_a_restart_of_postgresql(empty: Path, postgres: Path, postgres_database: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres_database)
    monkeypatch.setenv("MEDDIFF_EXECUTION", "shaken")
    layout, params = Layout(empty), Params()
    with stage_run(layout, params, "filter") as tracker:
        tracker.metrics({"loss": 1.0}, 0)
        control(postgres, "restart", "-m", "fast")
        tracker.metrics({"loss": 0.5}, 1)
        tracker.headline({"acceptance": 0.25})
    run, client = tracker.whole, tracker.whole.server.client
    try:
        with pytest.raises(ServiceError, match="the tracking server must answer"), stage_run(layout, params, "filter"):
            control(postgres, "stop", "-m", "fast")
    finally:
        control(postgres, "start", "-o", f"-c listen_addresses= -c fsync=off -k {postgres}")
    assert client.get_run(run.id).info.status == "RUNNING", "nobody could tell its end"
    with stage_run(layout, params, "filter") as tracker:
        tracker.headline({"acceptance": 0.5})
    assert tracker.whole.id == run.id
    told = client.get_run(run.id)
    assert (told.info.status, told.data.metrics["acceptance"]) == ("FINISHED", 0.5)
    assert len(client.search_runs([run.server.experiment], f"tags.`mlflow.parentRunId` = '{run.id}'")) == 3


def test_what_is_measured_last_counts_though_the_clock_was_put_back(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow shows the number with the greatest time."""
    layout, params, now = Layout(empty), Params(), time.time()
    for hours, value in ((5, 0.25), (0, 0.5), (-30, 0.75)):
        monkeypatch.setattr("meddiff.services.tracking.runs.time.time", lambda hours=hours: now + 3600 * hours)
        run = execution_run(layout, params, "clock")
        run.metrics({"acceptance": 0.1})
        run.metrics({"acceptance": value})
        run.status("FINISHED")
        assert run.server.client.get_run(run.id).data.metrics["acceptance"] == value


IS_GONE = """
import sys
from meddiff.services.tracking.execution import is_gone, this_process
print(is_gone(sys.argv[1]), is_gone(sys.argv[2]))
"""


def test_a_process_stays_itself_when_the_clock_is_set(tmp_path: Path) -> None:
    """The kernel tells when the machine started by the clock as it is now."""
    own = this_process()
    host, number, begun = own.rsplit("-", 2)
    other = f"{host}-{number}-{float(begun) - 100:.2f}"
    stat = re.sub(r"^btime (\d+)", lambda found: f"btime {int(found[1]) - 7200}", Path("/proc/stat").read_text(), flags=re.M)
    (tmp_path / "stat").write_text(stat)
    inside = 'mount --bind "$1" /proc/stat && exec "$2" -c "$3" "$4" "$5"'
    words = ["unshare", "-rm", "sh", "-c", inside, "sh", str(tmp_path / "stat"), sys.executable, IS_GONE, own, other]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and re.search("unshare|mount", done.stderr):
        pytest.skip(f"no file system of its own for a process here ({done.stderr.strip()})")
    assert done.stdout == "False True\n", done.stderr


def test_no_password_of_the_settings_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that read the runs would see it: parameters, the settings file, a stage's error."""
    monkeypatch.setenv("MEDDIFF_EXECUTION", "with a password")
    layout, address = Layout(tmp_path), "postgresql+psycopg://u:SECRET@db.example.org/x"
    layout.params.write_text(f'catalog:\n  url: "{address}"\ntune:\n  storage: {address}\n')
    with stage_run(layout, load_params(layout.params), "prepare"):
        pass
    with pytest.raises(ValueError, match="SECRET"), stage_run(layout, load_params(layout.params), "filter"):
        raise ValueError(f"no answer from {address}")
    top = tops(tmp_path)[-1]
    assert top.data.params["catalog.url"] == top.data.params["tune.storage"] == address.replace("SECRET", "***")
    files = [path for path in (tmp_path / ".work").rglob("*") if path.is_file()]
    assert [path for path in files if path.name == "params.yaml" and b"u:***@db" in path.read_bytes()]
    assert not [path for path in files if b"SECRET" in path.read_bytes()]


def test_many_numbers_arrive_whole(empty: Path) -> None:
    run = execution_run(Layout(empty), Params(), "many")
    for step in range(1203):
        run.metrics({"loss": step / 2}, step)
    run.metrics({"nan": float("nan")})
    run.status("FINISHED")
    history = run.server.client.get_metric_history(run.id, "loss")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == [step / 2 for step in range(1203)]


def test_datasets_with_odd_columns(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDDIFF_EXECUTION", "datasets")
    with stage_run(Layout(empty), Params(), "filter") as tracker:
        frame = pd.DataFrame({"id": ["a"], "reason": [None], "score": [float("nan")], "labelled": [True]})
        tracker.dataset(frame, "decisions", "filtering")
        tracker.dataset(frame, "decisions", "filtering")
    assert len(tracker.whole.server.client.get_run(tracker.whole.id).inputs.dataset_inputs) == 1


def test_runs_note_the_same_dataset_at_the_same_moment(empty: Path) -> None:
    runs = [execution_run(Layout(empty), Params(), f"together {number}") for number in range(4)]
    together = Barrier(len(runs), timeout=60)

    def note(run: Run) -> int:
        for number in range(20):
            dataset = Dataset("train", str(number), "local", "{}")
            together.wait()
            run.datasets([DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return len(run.server.client.get_run(run.id).inputs.dataset_inputs)

    with ThreadPoolExecutor(len(runs)) as threads:
        assert list(threads.map(note, runs)) == [20] * len(runs)


def test_work_trees_and_experiments_record_with_their_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in (".", ".work/trees/a", ".dvc/tmp/exps/tmpx"):
        (tmp_path / inside).mkdir(parents=True, exist_ok=True)
        assert tracking_uri(Layout(tmp_path / inside), Params().tracking) == f"sqlite:///{tmp_path}/.work/mlflow.db"
    settings = Params().tracking.model_copy(update={"uri": "http://here"})
    assert tracking_uri(Layout(tmp_path), settings) == "http://here"
    assert ui_command(Layout(tmp_path), settings, 1) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracking_uri(Layout(tmp_path), settings) == "http://there"


def test_an_unreachable_server_is_told_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begun = time.monotonic()
    told = pytest.raises(MeddiffError, match=r"http://127\.0\.0\.1:9.*MLFLOW_TRACKING_URI")
    with told, stage_run(Layout(tmp_path), Params(), "prepare"):
        pytest.fail("the stage must not begin")
    assert time.monotonic() - begun < 40
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value", "message"), [
    ("MLFLOW_TRACKING_URI", "foo://u:SECRET@x", r"MLflow at foo://u:\*\*\*@x: the tracking server must answer"),
    ("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/x.db", "No such file or directory: '/proc/nowhere'"),
    ("MLFLOW_TRACKING_URI", "sqlite:////proc", "the tracking server must answer"),
    ("MLFLOW_TRACKING_URI", "postgresql://u:SECRET@127.0.0.1:port/x", "the tracking server must answer"),
    ("MLFLOW_TRACKING_URI", "postgresql+psycopg://u:SECRET@127.0.0.1:9/x", "the tracking server must answer"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "long", "MLFLOW_HTTP_REQUEST_TIMEOUT"),
])
def test_a_variable_that_is_wrong_is_told(name: str, value: str, message: str, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(MeddiffError, match=message) as caught:
        connect(Layout(tmp_path), Params().tracking)
    assert "SECRET" not in str(caught.value)


def test_processes_that_start_together_make_one_database(tmp_path: Path) -> None:
    code = ("from pathlib import Path; from meddiff.layout import Layout; from meddiff.params import Params; "
            "from meddiff.services.tracking.server import connect; connect(Layout(Path.cwd()), Params().tracking)")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    together = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env) for _ in range(3)]
    assert [process.wait(120) for process in together] == [0, 0, 0]


def test_a_deleted_experiment_is_told(empty: Path, tmp_path: Path) -> None:
    settings = Params().tracking.model_copy(update={"experiment": "gone"})
    server = connect(Layout(empty), settings)
    server.client.delete_experiment(server.experiment)
    with pytest.raises(MeddiffError, match="deleted"):
        connect(Layout(empty), settings)
