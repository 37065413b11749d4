"""A Prefect server, and workers in two copies of the project that are killed: what ends what they leave, and that it goes on.

Minutes, because Prefect takes no sign of life more often than every 30 seconds.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect.client.base import PrefectHttpxSyncClient

from flows.automations import FELL
from meddiff.layout import Layout
from meddiff.params.file import edit_params, load_params, settings_text
from meddiff.services.tracking.server import connect
from tests.infra.platforms import answers, clean_environment, copy_project, free_ports, until

pytestmark = pytest.mark.services
SMALL = {"demo_cases": 24, "demo_normal": 8}
ENDLESS = {"steps": 10**6, "channels": [32, 32]}


@dataclass
class Fleet:
    """A server, and workers in the folders of projects.

    Attributes:
        client: of the server.
        address: of its API.
        home: folder with a log for each process.
    """

    client: PrefectHttpxSyncClient
    address: str
    home: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, project: Path, *words: str, **env: str) -> subprocess.Popen[bytes]:
        env = clean_environment(project) | {"PREFECT_API_URL": self.address, "PREFECT_HOME": str(self.home), **env}
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, *words], cwd=project, env=env, stdout=log, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, start_new_session=True)
        self.processes.append(process)
        return process

    def worker(self, project: Path) -> subprocess.Popen[bytes]:
        log = self.home / f"{project.name}.log"
        started = log.read_bytes().count(b"started!") if log.is_file() else 0
        process = self.start(project.name, project, "infra/worker.py", "--pool", "meddiff", "--type", "process", "--limit", "2")
        until(lambda: log.read_bytes().count(b"started!") > started, 120)
        return process

    def trigger(self, name: str, **parameters: Any) -> str:
        deployment = self.client.get(f"/deployments/name/{name}").json()["id"]
        return str(self.client.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters}).json()["id"])

    def state(self, run: str) -> str:
        return str(self.client.get(f"/flow_runs/{run}").json()["state"]["type"])

    def runs_stage(self, run: str, stage: str) -> bool:
        found = self.client.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
        return any(task["name"] == stage and task["state_type"] == "RUNNING" for task in found)


def kill(process: subprocess.Popen[bytes]) -> None:
    """A worker, and all below it, by SIGKILL, as by a machine that goes down."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        each.suspend()  # none starts another, or reports that one is gone
    for each in family:
        each.kill()
    process.wait(20)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home, (port,) = tmp_path_factory.mktemp("fleet"), free_ports(1)
    with PrefectHttpxSyncClient(base_url=f"http://127.0.0.1:{port}/api", timeout=60, raise_on_all_errors=False) as client:
        fleet = Fleet(client, f"http://127.0.0.1:{port}/api", home)
        try:
            fleet.start("server", home, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
            until(lambda: answers(f"{fleet.address}/health"), 120)
            yield fleet
        finally:
            for process in reversed(fleet.processes):
                family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
                process.terminate()
                process.wait(100)
                for left in psutil.wait_procs(family, timeout=1)[1]:
                    left.kill()


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[str]]]:
    """A webhook on loopback: its address, and what it has been told."""
    texts = list[str]()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/SECRET", texts
        server.shutdown()


@pytest.fixture(scope="module")
def deployer(fleet: Fleet, told: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has registered its flows, impatiently, with all rules."""
    project = copy_project(tmp_path_factory.mktemp("deployer") / "deployer")
    rules = {"platform": {"silent_seconds": 40, "retune": True}}
    (project / "params.yaml").write_text(edit_params(settings_text(project / "params.yaml"), rules, project / "params.yaml"))
    done = fleet.start("deploy", project, "-m", "flows.deploy", MEDDIFF_NOTIFY_URL=told[0]).wait(180)
    assert done == 0, (fleet.home / "deploy.log").read_text()
    return project


def statuses(project: Path) -> Counter[str]:
    server = connect(Layout(project), load_params(project / "params.yaml").tracking)
    return Counter(run.info.status for run in server.client.search_runs([server.experiment]))


def test_a_fallen_acceptance_is_told_and_starts_a_search(fleet: Fleet, deployer: Path, told: tuple[str, list[str]]) -> None:
    event = {"event": FELL, "occurred": datetime.now(UTC).isoformat(), "id": str(uuid4()), "payload": {"text": "9% are accepted"},
             "resource": {"prefect.resource.id": "meddiff.acceptance.demo"}}
    assert fleet.client.post("/events", json=[event]).is_success
    until(lambda: any("9% are accepted" in text for text in told[1]), 60)
    until(lambda: fleet.client.post("/flow_runs/filter", json={}).json(), 60)
    (run,) = fleet.client.post("/flow_runs/filter", json={}).json()
    assert run["deployment_id"] == fleet.client.get("/deployments/name/tune/tune").json()["id"]
    fleet.client.delete(f"/flow_runs/{run['id']}")


def test_what_a_killed_worker_leaves_ends_and_goes_on(fleet: Fleet, deployer: Path, told: tuple[str, list[str]],
                                                      tmp_path: Path) -> None:
    project = copy_project(tmp_path / "other")
    worker = fleet.worker(project)
    runs = [fleet.trigger("pipeline/pipeline", size=32, n_labelled=8, source="scratch",
                          advanced={"prepare": SMALL | {"seed": seed}, "foundation": ENDLESS}) for seed in (1, 2)]
    until(lambda: all(fleet.runs_stage(run, "foundation") for run in runs), 240)
    trees = {path.name[-8:] for path in (project / ".work/runs").iterdir()}
    assert trees == {run[:8] for run in runs}
    assert not (deployer / ".work/runs").exists()  # a worker works in its own folder
    until(lambda: statuses(project)["RUNNING"] == 4, 60)  # of both, the execution's and its stage's
    kill(worker)

    fleet.client.post(f"/flow_runs/{runs[1]}/set_state", json={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert fleet.state(runs[0]) == "RUNNING"  # so far nobody has noticed
    until(lambda: [fleet.state(run) for run in runs] == ["CRASHED", "CANCELLED"], 150)
    assert statuses(project)["RUNNING"] == 4
    until(lambda: any("is Crashed" in text and "Retry goes on" in text for text in told[1]), 60)

    worker = fleet.worker(project)
    assert "RUNNING" not in statuses(project)
    assert b"is ended, its process was killed" in (fleet.home / "other.log").read_bytes()
    fleet.client.post(f"/flow_runs/{runs[0]}/set_state", json={"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}})
    until(lambda: fleet.runs_stage(runs[0], "foundation") and statuses(project)["RUNNING"] == 2, 120)
    assert statuses(project)["KILLED"] >= 3  # the retried execution's is open again
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(100) == 0
    assert fleet.state(runs[0]) == "CRASHED"
    until(lambda: "RUNNING" not in statuses(project), 60)  # the stage closes its own
