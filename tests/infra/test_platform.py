"""`make platform` for real, in a copy of the project: servers, worker, runs through Prefect's API, cancelling and stopping."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient

from meddiff.layout import STAGES
from meddiff.params import Params

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Running:
    """A platform that was started, and the clients of its servers."""

    project: Path
    process: subprocess.Popen[str]
    prefect: httpx.Client
    mlflow: httpx.Client

    @property
    def deployment(self) -> dict[str, Any]:
        return self.prefect.get("/deployments/name/pipeline/pipeline").json()  # type: ignore[no-any-return]

    def trigger(self, **parameters: Any) -> httpx.Response:
        return self.prefect.post(f"/deployments/{self.deployment['id']}/create_flow_run", json={"parameters": parameters})

    def state(self, run: str) -> dict[str, Any]:
        return self.prefect.get(f"/flow_runs/{run}").json()["state"]  # type: ignore[no-any-return]

    def tasks(self, run: str) -> dict[str, str]:
        """Name -> state of the task runs."""
        found = self.prefect.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
        return {task["name"]: task["state_type"] for task in found}

    def tree(self, run: str) -> Path | None:
        return next((self.project / ".work/runs").glob(f"*-{run[:8]}"), None)

    def until(self, condition: Callable[[], Any], seconds: float) -> None:
        """Wait; if in vain, say what the runs and the logs of the platform tell."""
        try:
            until(condition, seconds)
        except AssertionError as e:
            runs = self.prefect.post("/flow_runs/filter", json={}).json()
            told = [f"{run['name']}: {run['state']['name']} {run['state']['message']} {self.tasks(run['id'])}" for run in runs]
            for log in ("worker", "prefect"):
                told += (self.project / f".work/platform/{log}.log").read_text(errors="replace").splitlines()[-40:]
            raise AssertionError("\n".join([str(e), *told])) from e


def until(condition: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def command(project: Path, ports: list[int]) -> list[str]:
    return [sys.executable, str(project / "infra/serve.py"), "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("platform") / "project"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def environment(project: Path) -> dict[str, str]:
    other = ("MLFLOW_", "PREFECT_", "MEDDIFF_", "DVC_STAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(other)} | {"PYTHONPATH": str(project)}


@pytest.fixture(scope="module")
def platform(project: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ports, output = free_ports(2), tmp_path_factory.mktemp("output") / "serve.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(command(project, ports), cwd=project, env=environment, text=True, stdout=stream,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        until(lambda: "End with Ctrl-C" in output.read_text() or process.poll() is not None, 150)
        assert process.poll() is None, output.read_text()
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        assert all(address in output.read_text() for address in addresses)
        # Prefect's own client: it tries again where SQLite was busy with another writer (503).
        with (PrefectHttpxSyncClient(base_url=f"{addresses[0]}/api", timeout=60, raise_on_all_errors=False) as prefect,
              httpx.Client(base_url=addresses[1], timeout=60) as mlflow):
            yield Running(project, process, prefect, mlflow)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(120)


def test_the_form_starts_from_params_yaml_and_names_a_bad_value(platform: Running) -> None:
    settings = yaml.safe_load((platform.project / "params.yaml").read_text())
    assert platform.deployment["parameters"] == settings | {"advanced": {}}
    answer = platform.trigger(generate={"guidance_scale": 99})
    assert answer.status_code == 409
    assert "guidance_scale" in answer.text
    assert platform.trigger(generate={"guidence_scale": 2}).status_code == 409


def test_a_run_completes_while_another_is_cancelled(platform: Running, tiny: Params) -> None:
    given = {name: getattr(tiny, name).model_dump(mode="json", exclude_unset=True) for name in (*STAGES, "compute")}
    given["segment"]["seeds"] = [0]
    given["advanced"] = {"generate": {"samples_per_batch": given["generate"].pop("samples_per_batch")}}
    run = platform.trigger(**given).json()["id"]
    endless = {"prepare": given["prepare"] | {"seed": 1}, "foundation": given["foundation"] | {"steps": 10**6}}
    other = platform.trigger(**given | endless).json()["id"]

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
    assert {"mlflow", "quality", "dice"} <= set(artifacts)
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
    small = {"size": 32, "n_labelled": 8, "demo_cases": 24, "demo_normal": 8, "seed": 2}
    run = platform.trigger(prepare=small, foundation={"source": "scratch", "steps": 10**6, "channels": [32, 32]}).json()["id"]
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
