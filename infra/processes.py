"""The processes of a platform: started in order, watched, started again where they end, and ended in the reverse order, whatever
becomes of their starter."""

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

import httpx

from meddiff.errors import MeddiffError

START_SECONDS = 120.0
RESTARTS, RESTART_SECONDS = 3, 600.0  # of a service, so many within this time


@dataclass(frozen=True)
class Service:
    """A program that runs until it is told to end.

    Attributes:
        name: of its log, and for messages.
        command: its words.
        environment: all of its variables.
        ready: whether it does its work.
        user: who it runs as; None for who runs this.
        signal: tells it to end.
        seconds: it has to end by itself.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    user: str | None = None
    signal: Signals = SIGTERM
    seconds: float = 15.0


class Services:
    """What was started, by name. `guard.py`, beside this file, ends it when this process asks for it or is gone.

    Args:
        project: where they run.
        folder: for `NAME.log`.
    """

    def __init__(self, project: Path, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.running: dict[str, tuple[Service, subprocess.Popen[bytes]]] = {}
        self.restarted: dict[str, list[float]] = {}
        self.guard = subprocess.Popen([sys.executable, str(Path(__file__).with_name("guard.py"))], stdin=subprocess.PIPE,
                                      start_new_session=True)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, service: Service) -> None:
        """Start a service, its output in its log. A session of its own: Ctrl-C reaches this process alone."""
        with self.log(service.name).open("ab" if service.name in self.running else "wb") as log:
            process = subprocess.Popen(service.command, cwd=self.project, env=dict(service.environment), stdout=log,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                       **as_user(service.user))
        self.running[service.name] = service, process
        assert self.guard.stdin
        self.guard.stdin.write(f"{service.name} {process.pid} {service.signal.value} {service.seconds}\n".encode())
        self.guard.stdin.flush()

    def wait(self, service: Service) -> None:
        """Wait until a service is ready.

        Raises:
            MeddiffError: it ended, or isn't ready after two minutes.
        """
        until = time.monotonic() + START_SECONDS
        while not service.ready():
            self.check()
            if time.monotonic() > until:
                raise MeddiffError(self.log(service.name), f"{service.name} must be ready within {START_SECONDS:.0f} s",
                                   "Read this log, then start again")
            time.sleep(0.3)

    def check(self) -> None:
        """Raise a MeddiffError if a service has ended."""
        for name, (_, process) in self.running.items():
            if process.poll() is not None:
                raise MeddiffError(self.log(name), f"{name} must keep running, it ended with code {process.returncode} "
                                   f"({last_lines(self.log(name))})", "Read this log, then start again")

    def heal(self) -> None:
        """Start again what has ended; raise a MeddiffError if it does so again and again."""
        for name, (service, process) in list(self.running.items()):
            if process.poll() is None:
                continue
            times = [at for at in self.restarted.get(name, ()) if time.monotonic() - at < RESTART_SECONDS]
            if len(times) == RESTARTS:
                self.check()
            print(f"{name} ended with code {process.returncode} and is started again; {self.log(name)} says why", flush=True)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)  # what a killed one left holds its port
            time.sleep(2 ** len(times))
            self.restarted[name] = [*times, time.monotonic()]
            self.start(service)

    def stop(self) -> None:
        """End all, the last first, and whatever they left behind."""
        assert self.guard.stdin
        self.guard.stdin.close()
        self.guard.wait()


def as_user(name: str | None) -> dict[str, Any]:
    """What `subprocess` takes to run a program as a user without any other's rights; nothing for None."""
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []} if name else {}


def last_lines(log: Path) -> str:
    """The end of a log in one line."""
    return " | ".join(line.strip() for line in log.read_text(errors="replace").strip().splitlines()[-3:])


def answers(url: str, code: int = httpx.codes.OK) -> bool:
    """Whether a GET of this page is answered by this code."""
    try:
        return httpx.get(url, timeout=10).status_code == code
    except httpx.HTTPError:
        return False


def outer_environment() -> dict[str, str]:
    """This process's variables without the settings of other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
