"""Start the platform on this machine: a Prefect server, an MLflow server and a worker on 127.0.0.1, until Ctrl-C.

Profile `one`: SQLite and folders in `.work/`; MLflow shows the runs of plain `dvc repro` too. Profile `team`: PostgreSQL and an
S3 server beside them, with an account for each service, and sign-on. Logs lie in `.work/platform/`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from accounts import make_account
from filelock import Timeout
from processes import Service, Services, answers, last_lines, outer_environment
from team import Accounts, prepare, start_state, tell_accounts, write_shell

from meddiff.environment import QUIET, require_port
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params.file import load_params
from meddiff.services.backup import READY, TeamState, platform_lock, team_state
from meddiff.services.tracking import runs_page, settle_files

_NOBODY = Accounts({}, {}, {}, {}, {})


@dataclass(frozen=True)
class Platform:
    """Where everything of one platform is.

    Attributes:
        project: folder with `params.yaml`, `dvc.yaml` and `prefect.yaml`.
        prefect_port, mlflow_port, studies_port: on 127.0.0.1.
        runs: flow runs that may run at the same time.
        accounts: what each service is told beside the common variables; empty for one machine.
    """

    project: Path
    prefect_port: int
    mlflow_port: int
    studies_port: int
    runs: int
    accounts: Accounts = _NOBODY

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
        return outer_environment() | QUIET | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_UI_STATIC_DIRECTORY": str(self.folder / "prefect/ui"),
            "PREFECT_LOGGING_COLORS": "false",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def prefect(self) -> Service:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.prefect_port)]
        return Service("prefect", command, self.environment | self.accounts.prefect,
                       lambda: answers(f"{self.prefect_url}/api/health"))

    @property
    def mlflow(self) -> Service:
        work = self.project / ".work"
        state = ["--app-name", "basic-auth"] if self.accounts.mlflow else [
            "--backend-store-uri", f"sqlite:///{work / 'mlflow.db'}", "--default-artifact-root", (work / "mlartifacts").as_uri()]
        command = [sys.executable, "-m", "mlflow", "server", *state, "--host", "127.0.0.1", "--port", str(self.mlflow_port),
                   "--workers", "1"]
        return Service("mlflow", command, self.environment | self.accounts.mlflow, lambda: answers(f"{self.mlflow_url}/health"))

    @property
    def studies_url(self) -> str:
        return f"http://127.0.0.1:{self.studies_port}"

    @property
    def studies(self) -> Service:
        """Optuna's dashboard, whose sign-on answers before anything else does."""
        command = [sys.executable, "-m", "meddiff", "ui", "--tuning", "--port", str(self.studies_port)]
        return Service("studies", command, self.environment | self.accounts.studies,
                       lambda: answers(self.studies_url, httpx.codes.UNAUTHORIZED))

    @property
    def worker(self) -> Service:
        """Its flow runs have 60 seconds to end, a stage of theirs 20."""
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), "--pool", "meddiff", "--type", "process",
                   "--limit", str(self.runs)]
        log = self.folder / "worker.log"
        return Service("worker", command, self.environment | self.accounts.worker, lambda: b"started!" in log.read_bytes(),
                       seconds=75.0)


def deploy(platform: Platform, *arguments: str) -> None:
    """Register the flows, and fill their forms with the project's settings.

    Raises:
        MeddiffError: that failed.
    """
    file = platform.folder / "deploy.log"
    with file.open("wb") as log:
        done = subprocess.run([sys.executable, "-m", "flows.deploy", *arguments], cwd=platform.project, check=False,
                              env=platform.environment | platform.accounts.worker, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise MeddiffError(file, f"the flows must register with Prefect ({last_lines(file)})",
                           "Mend what this log names, then start again")


def watch(platform: Platform, services: Services) -> None:
    """Start a service again that ends, and bring each change of `params.yaml` into the forms."""
    file = platform.project / "params.yaml"
    seen = file.stat().st_mtime
    while True:
        time.sleep(1)
        services.heal()
        if file.is_file() and (now := file.stat().st_mtime) != seen:
            seen = now
            try:
                deploy(platform, "--forms")
            except MeddiffError as e:
                print(f"The forms keep their earlier values: {e}", flush=True)


def serve(platform: Platform, services: Services, state: TeamState | None) -> None:
    """Start everything, print the addresses, and watch until an interrupt.

    Raises:
        MeddiffError: a service doesn't start or ends.
    """
    prefect, mlflow, worker = platform.prefect, platform.mlflow, platform.worker
    services.start(prefect)
    settle_files(platform.project / ".work/mlflow.db")
    services.start(mlflow)
    services.wait(prefect)
    deploy(platform)
    services.wait(mlflow)
    if state:
        make_account(platform.mlflow_url, ("admin", state.settings["MLFLOW_ADMIN_PASSWORD"]), "worker",
                     state.settings["MLFLOW_WORKER_PASSWORD"], edit=True)
        services.start(platform.studies)
    services.start(worker)
    services.wait(worker)
    print(f"Prefect  {platform.prefect_url}/deployments   press Run on `pipeline`")
    print(f"MLflow   {_runs_address(platform, state)}")
    if state:
        services.wait(platform.studies)
        print(f"Studies  {platform.studies_url}", f"S3       {state.s3_url}",
              f"Sign-on  `admin` to MLflow, `meddiff` to Prefect and the studies; passwords are in {state.file}",
              f"Shell    . {write_shell(state, platform.accounts.person)}", sep="\n")
    print(READY, flush=True)
    watch(platform, services)


def _runs_address(platform: Platform, state: TeamState | None) -> str:
    """Of the project's runs, which the worker made a place for; where it didn't, of MLflow's front page, about other things."""
    address, sign_on = platform.mlflow_url, ("admin", state.settings["MLFLOW_ADMIN_PASSWORD"]) if state else None
    name = load_params(Layout(platform.project).params).tracking.experiment
    place = f"{address}/api/2.0/mlflow/experiments/get-by-name"
    found = httpx.get(place, params={"experiment_name": name}, auth=sign_on, timeout=60)
    return runs_page(address, found.json()["experiment"]["experiment_id"]) if found.is_success else address


def run(given: argparse.Namespace) -> None:
    """Hold the project's platform, and end every process that was started, whatever happens.

    Raises:
        MeddiffError: the platform runs already, a port is taken, or a service doesn't start or ends.
    """
    layout = Layout(given.project.resolve())
    platform = Platform(layout.root, given.prefect_port, given.mlflow_port, given.studies_port, given.runs)
    if not given.only_state:
        for name in ("prefect", "mlflow", *(("studies",) if given.profile == "team" else ())):
            require_port(getattr(given, f"{name}_port"), f"--{name}-port")
    try:
        lock = platform_lock(layout).acquire(timeout=0)
    except Timeout as e:
        raise MeddiffError(layout.root, "the platform of a project runs once", "Use the one that runs, or end it") from e
    with lock:
        platform.folder.mkdir(parents=True, exist_ok=True)
        state = prepare(team_state(layout), given.postgres_port, given.s3_port) if given.profile == "team" else None
        services = Services(platform.project, platform.folder)
        try:
            print(f"Starting; logs are in {platform.folder}", flush=True)
            if state:
                start_state(state, services)
                platform = replace(platform, accounts=tell_accounts(state, platform.prefect_url, platform.mlflow_url))
            if given.only_state:
                print(READY, flush=True)
                while True:
                    time.sleep(1)
                    services.heal()
            serve(platform, services, state)
        except KeyboardInterrupt:
            print("Stopping: the worker first, then the servers", flush=True)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            services.stop()


def main() -> None:
    """Parse the command line. Exit code 2 and one line where something has to be mended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, port, else_ in (("prefect", 4200, "4200"), ("mlflow", 5000, "5000"), ("studies", 8090, "8090"),
                              ("postgres", None, "as before, at first 5433"), ("s3", None, "as before, at first 8333")):
        variable = f"MEDDIFF_{name.upper()}_PORT"
        parser.add_argument(f"--{name}-port", type=int, default=os.environ.get(variable, port), help=f"${variable}, or {else_}")
    parser.add_argument("--profile", choices=["one", "team"], default="one", help="`one` if not given")
    parser.add_argument("--only-state", action="store_true", help="only PostgreSQL and the S3 server of the team")
    parser.add_argument("--runs", type=int, default=2, help="flow runs at the same time, 2 if not given")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parents[1],
                        help="folder with params.yaml; default: this one")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs, and all they start, would ignore it
        signal.signal(number, signal.default_int_handler)
    try:
        run(given)
    except MeddiffError as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
