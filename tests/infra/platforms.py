"""A copy of the project for tests that start its platform, and the platform that runs."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prefect.client.base import PrefectHttpxSyncClient

ROOT = Path(__file__).parents[2]


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


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).is_success
    except httpx.HTTPError:
        return False


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def copy_project(root: Path) -> Path:
    """Every file of the project that git knows or would, but `dvc.lock`, in a repository of its own."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def clean_environment(project: Path) -> dict[str, str]:
    """This process's variables without what concerns another project."""
    other = ("MLFLOW_", "PREFECT_", "MEDDIFF_", "DVC_STAGE", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(other)} | {"PYTHONPATH": str(project)}


def command(project: Path, ports: list[int], *more: str) -> list[str]:
    words = ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]), *more]
    return [sys.executable, str(project / "infra/serve.py"), *words]


@contextmanager
def running(project: Path, ports: list[int], output: Path, *more: str) -> Iterator[Running]:
    """The platform, stopped by Ctrl-C at the end."""
    with output.open("w") as stream:
        process = subprocess.Popen(command(project, ports, *more), cwd=project, env=clean_environment(project), text=True,
                                   stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        until(lambda: "End with Ctrl-C" in output.read_text() or process.poll() is not None, 400)
        assert process.poll() is None, output.read_text()
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        assert f"{addresses[0]}/deployments" in output.read_text()
        assert re.search(rf"{addresses[1]}/#/experiments/\d+/runs", output.read_text()), "not MLflow's front page"
        # Prefect's own client: it tries again where SQLite was busy with another writer (503).
        with (PrefectHttpxSyncClient(base_url=f"{addresses[0]}/api", timeout=60, raise_on_all_errors=False) as prefect,
              httpx.Client(base_url=addresses[1], timeout=60) as mlflow):
            yield Running(project, process, prefect, mlflow)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(120)
