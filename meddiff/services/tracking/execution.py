"""Which pipeline execution this process belongs to, and what the machine spent on it. Imports no service."""

import os
import resource
import socket
import sys
from pathlib import Path
from uuid import uuid4

import psutil

from meddiff.environment import greatest_memory
from meddiff.layout import Layout

_SAME_SECONDS = 1.0


def execution_id() -> str:
    """Name shared by all stage processes of one pipeline execution, however it was started.

    MEDDIFF_EXECUTION in the environment wins (a flow sets it, because it starts one `dvc repro` a stage). Else it is the
    `dvc` process above this one, else (a stage started by hand) this process.
    """
    return os.environ.get("MEDDIFF_EXECUTION") or _identity(_dvc_process() or psutil.Process())


def this_process() -> str:
    """Name of this process among all of all machines: host, number, and when it began, since numbers come again."""
    return _identity(psutil.Process())


def is_gone(process: str) -> bool:
    """Whether a process, named as by `this_process`, is known to have ended; of other machines nothing is known."""
    try:
        host, number, begun = process.rsplit("-", 2)
        if host != socket.gethostname():
            return False
        found = psutil.Process(int(number))
        return bool(abs(_begun(found) - float(begun)) > _SAME_SECONDS or found.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.Error):
        return False


def _dvc_process() -> psutil.Process | None:
    if "DVC_STAGE" not in os.environ:
        return None
    above = psutil.Process().parents()
    # The nearest one: under `dvc exp run --queue` each experiment has a process of its own below the worker's.
    return next((process for process in above if _is_dvc(process)), None) or next((p for p in above if not _in_stage(p)), None)


def _is_dvc(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(Path(word).stem == "dvc" for word in words[:4]) and not {"repro", "exp", "experiments"}.isdisjoint(words)


def _in_stage(process: psutil.Process) -> bool:
    """Whether DVC started the process for a stage; the first one above that isn't runs DVC, be it as a library."""
    try:
        return "DVC_STAGE" in process.environ()
    except psutil.Error:
        return False


def _identity(process: psutil.Process) -> str:
    return f"{socket.gethostname()}-{process.pid}-{_begun(process):.2f}"  # the time, because process ids come again


def _begun(process: psutil.Process) -> float:
    """When a process began [seconds]; on Linux since the machine's start, which psutil adds to it by the clock as it is now: a
    process would be another one whenever the clock is put right."""
    begun = float(process.create_time())
    return begun - float(psutil.boot_time()) if sys.platform == "linux" else begun


def peak_memory() -> float:
    """Greatest resident memory of this process so far [MB]."""
    return greatest_memory(resource.getrusage(resource.RUSAGE_SELF))


def pending_execution(layout: Layout, action: str) -> str:
    """Name of the action's execution that isn't finished yet, so that its run in MLflow goes on; else a new one."""
    path = _execution_file(layout, action)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{action}-{uuid4().hex}")
    return path.read_text()


def forget_execution(layout: Layout, action: str) -> None:
    """Let the action's next start be a new execution."""
    _execution_file(layout, action).unlink(missing_ok=True)


def _execution_file(layout: Layout, action: str) -> Path:
    return layout.work / action / "execution"
