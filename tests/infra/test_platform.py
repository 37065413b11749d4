"""`make platform` for real, in a copy of the project: servers, worker, runs through Prefect's API, cancelling and stopping."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.form import FORM
from meddiff.layout import STAGES
from meddiff.params import Params
from tests.infra.platforms import Running, clean_environment, command, copy_project, free_ports, running

pytestmark = pytest.mark.services
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("platform") / "project")


@pytest.fixture(scope="module")
def environment(project: Path) -> dict[str, str]:
    return clean_environment(project)


@pytest.fixture(scope="module")
def platform(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(project, free_ports(2), tmp_path_factory.mktemp("output") / "serve.txt") as platform:
        yield platform


def test_the_form_starts_from_params_yaml_and_names_a_bad_value(platform: Running) -> None:
    settings = yaml.safe_load((platform.project / "params.yaml").read_text())
    usual, shown = Params().model_dump(mode="json"), {field: settings[section][name] for field, (section, name) in FORM.items()}
    changed = [(section, name) for section in settings for name, value in settings[section].items()
               if (section, name) not in FORM.values() and value != usual[section][name]]
    advanced = {section: {name: settings[section][name] for own, name in changed if own == section} for section, _ in changed}
    assert platform.deployment["parameters"] == shown | {"advanced": advanced}
    answer = platform.trigger(guidance_scale=99)
    assert answer.status_code == 409
    assert "guidance_scale" in answer.text
    assert platform.trigger(size="wide").status_code == 409


def form(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Settings as fields of the form and, under `advanced`, the others."""
    fields = {field: settings[section][name] for field, (section, name) in FORM.items() if name in settings.get(section, {})}
    rest = {section: {name: value for name, value in own.items() if (section, name) not in FORM.values()}
            for section, own in settings.items()}
    return fields | {"advanced": rest}


def test_a_run_completes_while_another_is_cancelled(platform: Running, tiny: Params) -> None:
    own = {name: getattr(tiny, name).model_dump(mode="json", exclude_unset=True) for name in (*STAGES, "compute")}
    own["segment"]["seeds"] = [0]
    given, endless = form(own), form(own | {"prepare": own["prepare"] | {"seed": 1},
                                            "foundation": own["foundation"] | {"steps": 10**6}})
    run = platform.trigger(**given).json()["id"]
    other = platform.trigger(**endless).json()["id"]

    platform.until(lambda: platform.tasks(other).get("foundation") == "RUNNING", 300)
    tree = platform.tree(other)
    assert tree
    platform.until(lambda: [p for p in psutil.process_iter(["cmdline", "cwd"]) if p.info["cwd"] == str(tree)], 120)
    platform.prefect.post(f"/flow_runs/{other}/set_state", json={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    platform.until(lambda: platform.state(other)["type"] in ENDED, 180)
    assert platform.state(other)["type"] == "CANCELLED"
    platform.until(lambda: not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tree)], 90)
    assert (tree / "data/split.json").is_file()  # what was done stays, for a retry

    platform.until(lambda: platform.state(run)["type"] in ENDED, 900)
    state = platform.state(run)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"].startswith("Dice: real 0.")
    assert platform.tasks(run) == dict.fromkeys(STAGES, "COMPLETED")
    assert platform.tree(run) is None
    results = next((platform.project / ".work/results").glob(f"*-{run[:8]}"))
    assert (results / "evaluation/report.html").is_file()
    check_artifacts(platform, run)


def check_artifacts(platform: Running, run: str) -> None:
    found = platform.prefect.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
    artifacts = {artifact["key"]: artifact["data"] for artifact in found}
    assert {"mlflow", "data", "model", "quality", "dice"} <= set(artifacts)
    assert "meddiff-generator version 1" in artifacts["model"]
    assert "| real |" in artifacts["dice"]
    search = {"experiment_ids": ["1"], "filter": f"tags.`meddiff.execution` = '{run}'"}
    recorded = platform.mlflow.post("/api/2.0/mlflow/runs/search", json=search).json()["runs"]
    assert len(recorded) == 1
    assert recorded[0]["info"]["status"] == "FINISHED"
    assert recorded[0]["info"]["run_id"] in artifacts["mlflow"]
    metrics = {metric["key"] for metric in recorded[0]["data"]["metrics"]}
    assert {"dice_real", "dice_synthetic", "gain", "acceptance"} <= metrics


def test_a_taken_port_is_named(platform: Running, environment: dict[str, str]) -> None:
    taken = int(platform.prefect.base_url.port or 0)
    words = command(platform.project, [taken, *free_ports(1)])
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"meddiff: port {taken}: the port must be free")
    assert "--prefect-port" in done.stderr


def test_ctrl_c_ends_runs_worker_and_servers_in_order(platform: Running) -> None:
    """The last test: it stops the platform."""
    run = platform.trigger(size=32, n_labelled=8, source="scratch", advanced={
        "prepare": {"demo_cases": 24, "demo_normal": 8, "seed": 2},
        "foundation": {"steps": 10**6, "channels": [32, 32]}}).json()["id"]
    platform.until(lambda: platform.tasks(run).get("foundation") == "RUNNING", 300)
    time.sleep(3)
    family = psutil.Process(platform.process.pid).children(recursive=True)
    assert len(family) >= 5  # two servers, the worker, the flow run, its stage
    platform.process.send_signal(signal.SIGINT)
    assert platform.process.wait(100) == 0
    assert not psutil.wait_procs(family, timeout=30)[1]
    with sqlite3.connect(platform.project / ".work/platform/prefect/prefect.db") as database:
        rows = database.execute("SELECT id, state_type FROM flow_run").fetchall()
    states = {str(id).replace("-", ""): state for id, state in rows}
    assert states[run.replace("-", "")] == "CRASHED"  # not `RUNNING` for ever


def test_all_ends_when_the_one_who_started_it_is_killed(project: Path, tmp_path: Path) -> None:
    """As by the kernel when memory is out; nothing is left that holds ports and databases."""
    with running(project, free_ports(2), tmp_path / "serve.txt") as platform:
        family = psutil.Process(platform.process.pid).children(recursive=True)
        assert len(family) >= 4  # the guard, two servers, the worker
        assert subprocess.run(command(project, free_ports(2)), env=clean_environment(project), capture_output=True, text=True,
                              check=False).stderr.startswith(f"meddiff: {project}: the platform of a project runs once")
        platform.process.kill()
        assert not psutil.wait_procs(family, timeout=100)[1]
