"""On PYTHONPATH of processes: ends them by SIGKILL at moments known by what one of them is about to do to a file.

MEDDIFF_TEST_DEATHS has a line for each moment, in their order, `[HOW ]EVENT PATTERN`. EVENT is `open` (for writing) or `rename`
(to it). HOW is `after`: the file has its new name; `half`: it has been cut, as by a writing that had begun; `stop`: the process
stands still, and doesn't die; else nothing is done. Each counts once: the file MEDDIFF_TEST_SEEN gets its line.
"""

import os
import re
import signal
import sys
from pathlib import Path
from threading import local

busy = local()


def place_of(event: str, args: tuple[object, ...]) -> str:
    """The path that an event is about, empty for what is only read."""
    path = args[1] if event == "os.rename" else args[0]
    if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        return ""
    return os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""


def die_in_time(event: str, args: tuple[object, ...]) -> None:
    if module := sys.modules.get("meddiff.training"):
        module.CHECKPOINT_SECONDS = 0.0  # type: ignore[attr-defined]
    place, seen = place_of(event, args), Path(os.environ["MEDDIFF_TEST_SEEN"])
    lines = os.environ["MEDDIFF_TEST_DEATHS"].splitlines()[len(seen.read_text().splitlines()):]
    if not place or not lines:
        return
    *how, kind, pattern = lines[0].split()
    if kind == event.removeprefix("os.") and re.search(pattern, place):
        with seen.open("a") as stream:
            stream.write(f"{lines[0]}\n")
        if how == ["after"]:
            os.replace(args[0], place)  # type: ignore[type-var]
        if how == ["half"]:
            os.truncate(place, os.path.getsize(place) // 2)
        os.kill(os.getpid(), signal.SIGSTOP if how == ["stop"] else signal.SIGKILL)


def watch(event: str, args: tuple[object, ...]) -> None:
    if event in ("open", "os.rename") and "MEDDIFF_TEST_DEATHS" in os.environ and not getattr(busy, "here", False):
        busy.here = True
        try:
            die_in_time(event, args)
        finally:
            busy.here = False


sys.addaudithook(watch)
