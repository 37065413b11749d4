"""Units for workers, in a module that loads at once."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meddiff.errors import MeddiffError

Receive = Callable[[tuple[int, int]], None]


def begin(folder: Path) -> Path:
    _note(folder, "begun")
    return folder


def square(folder: Path, units: Sequence[int], receive: Receive) -> None:
    """Keep what is done, as stages do: a result that is lost with its worker is there when it is asked for again."""
    for unit in units:
        if not (folder / f"done{unit}").exists():
            _note(folder, f"unit{unit}")
            (folder / f"done{unit}").touch()
        receive((unit, unit * unit))


def deadly(folder: Path, units: Sequence[int], receive: Receive) -> None:
    """Unit 3 ends its process the first time."""
    if 3 in units and not (folder / "killed").exists():
        _note(folder, "unit3")
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    square(folder, units, receive)


def failing(folder: Path, units: Sequence[int], receive: Receive) -> None:
    raise MeddiffError("case a", "a rule", "Mend it")


def ending(scheduler: int, folder: Path, units: Sequence[int], receive: Receive) -> None:
    os.kill(scheduler, signal.SIGKILL)
    time.sleep(2)


def _note(folder: Path, what: str) -> None:
    (folder / f"{what}.{os.getpid()}.{time.monotonic_ns()}").touch()


def lasting(folder: Path, units: Sequence[int], receive: Callable[[tuple[str, float, float]], None]) -> None:
    """Take a while, and tell the worker's name, the beginning and the end."""
    from distributed import get_worker

    for _ in units:
        begun = time.monotonic()
        time.sleep(0.3)
        receive((str(get_worker().name), begun, time.monotonic()))
