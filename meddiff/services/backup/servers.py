"""The team's servers while a backup is made or put back: those that run, else started for as long as that takes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.services.backup.team import TeamState, team_state

READY = "End with Ctrl-C"  # the last line that infra/serve.py prints when all is up


def platform_lock(layout: Layout) -> FileLock:
    """Held by whoever runs the platform of this project."""
    layout.work.mkdir(parents=True, exist_ok=True)
    return FileLock(layout.work / "platform.lock")


def check_stopped(layout: Layout) -> None:
    """Raise a MeddiffError if the platform of this project runs."""
    if _platform_runs(layout):
        raise MeddiffError(layout.root, "the platform must stand still", "End `make platform` with Ctrl-C first")


def _platform_runs(layout: Layout) -> bool:
    lock = platform_lock(layout)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def serving(layout: Layout) -> Iterator[TeamState]:
    """The team's PostgreSQL and S3 server, running.

    Raises:
        MeddiffError: they don't start.
    """
    if _platform_runs(layout):
        yield team_state(layout)
        return
    script = [str(layout.root / "infra/serve.py"), "--project", str(layout.root), "--profile", "team", "--only-state"]
    with subprocess.Popen([sys.executable, *script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.strip())
                if line.startswith(READY):
                    break
            else:
                raise MeddiffError("the team's servers", f"they must start ({' '.join(lines[-2:])})", "Mend what this names")
            yield team_state(layout)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
