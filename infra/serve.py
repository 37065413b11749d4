"""Start the platform on this machine: a Prefect server, an MLflow server and a worker on 127.0.0.1, until Ctrl-C.

State and logs lie in `.work/platform/`; MLflow shows the runs of `.work/mlflow.db`, where plain `dvc repro` records too.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from meddiff.environment import QUIET
from meddiff.errors import MeddiffError
from meddiff.params import load_params

POOL = "meddiff"
DEPLOYMENTS = ("pipeline/meddiff", "tune/meddiff")
START_SECONDS = 120.0
STOP_SECONDS = 40.0  # a stage gets 20 s for an orderly end


@dataclass(frozen=True)
class Platform:
    """Where everything of one platform is.

    Attributes:
        project: folder with `params.yaml`, `dvc.yaml` and `prefect.yaml`.
        prefect_port, mlflow_port: on 127.0.0.1.
        runs: flow runs that may run at the same time.
    """

    project: Path
    prefect_port: int
    mlflow_port: int
    runs: int

    @property
    def folder(self) -> Path:
        return self.project / ".work/platform"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def worker(self) -> str:
        """Name of the worker: another one each time, so that the last one's heartbeats aren't taken for it."""
        return f"{socket.gethostname()}-{os.getpid()}"

    @property
    def environment(self) -> dict[str, str]:
        """For every process; the outer environment's PREFECT_ and MLFLOW_ settings concern other servers and stay outside."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        return kept | QUIET | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_UI_STATIC_DIRECTORY": str(self.folder / "prefect/ui"),
            "PREFECT_LOGGING_COLORS": "false",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, name: str) -> list[str]:
        """Of one of the three services."""
        work = self.project / ".work"
        words = {
            "prefect": f"prefect server start --host 127.0.0.1 --port {self.prefect_port}".split(),
            "mlflow": ["mlflow", "server", "--backend-store-uri", f"sqlite:///{work / 'mlflow.db'}",
                       "--default-artifact-root", (work / "mlartifacts").as_uri(), "--host", "127.0.0.1",
                       "--port", str(self.mlflow_port), "--workers", "1"],
            "worker": f"prefect worker start --pool {POOL} --type process --name {self.worker} --limit {self.runs}".split(),
        }
        return [sys.executable, "-m", *words[name]]


class Services:
    """The processes that were started, in order; they are stopped in the reverse order, the worker before its server."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a service, its output in `NAME.log`. A session of its own: Ctrl-C reaches this process alone."""
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(self.platform.command(name), cwd=self.platform.project, stdout=log,
                                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                                  env=self.platform.environment, start_new_session=True)

    def log(self, name: str) -> Path:
        return self.platform.folder / f"{name}.log"

    def wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a service is ready.

        Raises:
            MeddiffError: it ended, or isn't ready after two minutes.
        """
        until = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise MeddiffError(self.log(name), f"{name} must be ready within {START_SECONDS:.0f} s", "Read this log, then start again")
            time.sleep(0.3)

    def check(self) -> None:
        """Raise a MeddiffError if a service has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                last = self.log(name).read_text(errors="replace").strip().splitlines()[-3:]
                raise MeddiffError(self.log(name), f"{name} must keep running, it ended with code {process.returncode} "
                                   f"({' | '.join(last)})", "Read this log, then start again")

    def stop(self) -> None:
        """End all, the last started first, and whatever they started."""
        for name in reversed(list(self.running)):
            process = self.running.pop(name)
            try:
                family = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                family = []
            if process.poll() is None:
                process.terminate()
            # A worker leaves its flow runs alone when it ends; told themselves, they stop their stage and report it.
            flows = [child for child in family if name == "worker"]
            _signal(flows, psutil.Process.terminate)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS if flows else 5)
            _signal(alive, psutil.Process.kill)


def _signal(processes: list[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            send(process)
        except psutil.NoSuchProcess:
            continue


def check_port(port: int, flag: str) -> None:
    """Raise a MeddiffError if something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise MeddiffError(f"port {port}", f"the port must be free, it is taken{_holder(port)}",
                               f"End that program, or choose another port with {flag}") from e


def _holder(port: int) -> str:
    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN]
        return f" by {psutil.Process(found[0].pid).name()}, process {found[0].pid}" if found and found[0].pid else ""
    except psutil.Error:  # other users' processes
        return ""


def call(url: str, body: Mapping[str, Any] | None = None, method: str = "") -> Any:
    """Ask a server; the decoded JSON answer, or its text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method or None)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read().decode()
    try:
        return json.loads(text)
    except ValueError:
        return text


def answers(url: str) -> bool:
    try:
        call(url)
    except OSError:  # refused, reset, timed out, or not 2xx yet
        return False
    return True


def prefect(platform: Platform, *words: str) -> None:
    """Run a command of Prefect's.

    Raises:
        MeddiffError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *words], cwd=platform.project, env=platform.environment,
                          capture_output=True, text=True, check=False)
    with (platform.folder / "deploy.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-4:])
        raise MeddiffError(f"prefect {' '.join(words)}", f"the command must succeed ({last})", f"Read {platform.folder}/deploy.log")


def create_pool(platform: Platform) -> None:
    """Make the work pool if it is missing; what a user has set there stays."""
    try:
        call(f"{platform.prefect_url}/api/work_pools/{POOL}")
    except urllib.error.HTTPError:
        prefect(platform, "work-pool", "create", POOL, "--type", "process")


def fill_forms(platform: Platform) -> None:
    """Let the forms of the deployments start from the project's settings as they are now.

    Raises:
        MeddiffError: `params.yaml` breaks a rule.
    """
    settings = load_params(platform.project / "params.yaml").model_dump(mode="json")
    for name in DEPLOYMENTS:
        deployment = call(f"{platform.prefect_url}/api/deployments/name/{name}")
        sections = deployment["parameter_openapi_schema"]["properties"]
        call(f"{platform.prefect_url}/api/deployments/{deployment['id']}", {"parameters": {s: settings[s] for s in sections}}, "PATCH")


def worker_online(platform: Platform) -> bool:
    workers = call(f"{platform.prefect_url}/api/work_pools/{POOL}/workers/filter", {})
    return any(worker["name"] == platform.worker and worker["status"] == "ONLINE" for worker in workers)


def serve(platform: Platform) -> None:
    """Start everything, print the addresses, and watch until an interrupt.

    Raises:
        MeddiffError: a port is taken, or a service doesn't start or ends.
    """
    check_port(platform.prefect_port, "--prefect-port")
    check_port(platform.mlflow_port, "--mlflow-port")
    platform.folder.mkdir(parents=True, exist_ok=True)
    services = Services(platform)
    try:
        print(f"Starting; logs are in {platform.folder}", flush=True)
        services.start("prefect")
        services.start("mlflow")
        services.wait("prefect", lambda: answers(f"{platform.prefect_url}/api/health"))
        create_pool(platform)
        prefect(platform, "deploy", "--all")
        fill_forms(platform)
        services.start("worker")
        services.wait("mlflow", lambda: answers(f"{platform.mlflow_url}/health"))
        services.wait("worker", lambda: worker_online(platform))
        print(f"Prefect  {platform.prefect_url}/deployments   press Run on `pipeline`\nMLflow   {platform.mlflow_url}\nEnd with Ctrl-C", flush=True)
        watch(platform, services)
    except KeyboardInterrupt:
        print("Stopping: the worker first, then the servers", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        services.stop()


def watch(platform: Platform, services: Services) -> None:
    """See that all services live, and bring each change of `params.yaml` into the forms."""
    file = platform.project / "params.yaml"
    seen = file.stat().st_mtime
    while True:
        time.sleep(1)
        services.check()
        if file.is_file() and (now := file.stat().st_mtime) != seen:
            seen = now
            try:
                fill_forms(platform)
            except (MeddiffError, OSError) as e:
                print(f"The forms keep their earlier values: {e}", flush=True)


def main() -> None:
    """Parse the command line. Exit code 2 and one line where something has to be mended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, port in (("prefect", 4200), ("mlflow", 5000)):
        variable = f"MEDDIFF_{name.upper()}_PORT"
        parser.add_argument(f"--{name}-port", type=int, default=os.environ.get(variable, port), help=f"default: ${variable} or {port}")
    parser.add_argument("--runs", type=int, default=2, help="flow runs at the same time, 2 if not given")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parents[1], help="folder with params.yaml; default: this one")
    given = parser.parse_args()
    for interrupt in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs, and all they start, would ignore it
        signal.signal(interrupt, signal.default_int_handler)
    try:
        serve(Platform(given.project.resolve(), given.prefect_port, given.mlflow_port, given.runs))
    except MeddiffError as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
