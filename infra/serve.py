"""Start the platform on this machine: a Prefect server, an MLflow server and a worker on 127.0.0.1, until Ctrl-C.

State and logs lie in `.work/platform/`; MLflow shows the runs of `.work/mlflow.db`, where plain `dvc repro` records too.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from meddiff.environment import QUIET
from meddiff.errors import MeddiffError

START_SECONDS = 120.0
STOP_SECONDS = {"worker": 75.0}  # its flow runs have 60, a stage of theirs 20
SOON = 15.0


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
        """Of one of the services, or of the deployment."""
        work = self.project / ".work"
        commands = {
            "prefect": ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.prefect_port)],
            "mlflow": ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{work / 'mlflow.db'}",
                       "--default-artifact-root", (work / "mlartifacts").as_uri(), "--host", "127.0.0.1",
                       "--port", str(self.mlflow_port), "--workers", "1"],
            "worker": [str(Path(__file__).with_name("worker.py")), "--pool", "meddiff", "--type", "process",
                       "--limit", str(self.runs)],
            "deploy": ["-m", "flows.deploy"],
        }
        return [sys.executable, *commands[name]]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


class Services:
    """The processes that were started, in order; they are stopped in the reverse order, the worker before its server."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a service, its output in `NAME.log`. A session of its own: Ctrl-C reaches this process alone."""
        with self.platform.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(self.platform.command(name), cwd=self.platform.project, stdout=log,
                                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                                  env=self.platform.environment, start_new_session=True)

    def wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a service is ready.

        Raises:
            MeddiffError: it ended, or isn't ready after two minutes.
        """
        until = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise MeddiffError(self.platform.log(name), f"{name} must be ready within {START_SECONDS:.0f} s",
                                   "Read this log, then start again")
            time.sleep(0.3)

    def check(self) -> None:
        """Raise a MeddiffError if a service has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise MeddiffError(self.platform.log(name), f"{name} must keep running, it ended with code "
                                   f"{process.returncode} ({_tail(self.platform.log(name))})", "Read this log, then start again")

    def stop(self) -> None:
        """End all in order, and whatever they left behind."""
        for name in reversed(list(self.running)):
            process = self.running.pop(name)
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(STOP_SECONDS.get(name, SOON))
            except subprocess.TimeoutExpired:
                process.kill()
            for left in psutil.wait_procs(family, timeout=1)[1]:
                left.kill()


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


def answers(url: str) -> bool:
    """Whether a GET of this page succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:  # refused, reset, timed out, or not 2xx yet
        return False


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-3:])


def deploy(platform: Platform, *arguments: str) -> None:
    """Register the flows, and fill their forms with the project's settings.

    Raises:
        MeddiffError: that failed.
    """
    with platform.log("deploy").open("wb") as log:
        done = subprocess.run([*platform.command("deploy"), *arguments], cwd=platform.project, env=platform.environment,
                              stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise MeddiffError(platform.log("deploy"), f"the flows must register with Prefect ({_tail(platform.log('deploy'))})",
                           "Mend what this log names, then start again")


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
                deploy(platform, "--forms")
            except MeddiffError as e:
                print(f"The forms keep their earlier values: {e}", flush=True)


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
        deploy(platform)
        services.wait("mlflow", lambda: answers(f"{platform.mlflow_url}/health"))
        services.start("worker")
        services.wait("worker", lambda: b"started!" in platform.log("worker").read_bytes())
        print(f"Prefect  {platform.prefect_url}/deployments   press Run on `pipeline`", f"MLflow   {platform.mlflow_url}",
              "End with Ctrl-C", sep="\n", flush=True)
        watch(platform, services)
    except KeyboardInterrupt:
        print("Stopping: the worker first, then the servers", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        services.stop()


def main() -> None:
    """Parse the command line. Exit code 2 and one line where something has to be mended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, port in (("prefect", 4200), ("mlflow", 5000)):
        variable = f"MEDDIFF_{name.upper()}_PORT"
        parser.add_argument(f"--{name}-port", type=int, default=os.environ.get(variable, port),
                            help=f"default: ${variable} or {port}")
    parser.add_argument("--runs", type=int, default=2, help="flow runs at the same time, 2 if not given")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parents[1],
                        help="folder with params.yaml; default: this one")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs, and all they start, would ignore it
        signal.signal(number, signal.default_int_handler)
    try:
        serve(Platform(given.project.resolve(), given.prefect_port, given.mlflow_port, given.runs))
    except MeddiffError as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
