"""Ends the processes of a platform, the last first, once nobody holds the other end of its standard input any more.

That is so when whoever started them has asked for it, and when that one was killed. A line names a process: `NAME PID SIGNAL
SECONDS`; one that was started again under its name keeps its place.
"""

import os
import signal
import sys
import time
from contextlib import suppress

import psutil


def end(process: psutil.Process, number: int, seconds: float) -> None:
    """Send the signal, wait, then kill the process, its group, and what is left of its children."""
    with suppress(psutil.NoSuchProcess):
        family = process.children(recursive=True)
        process.send_signal(number)
        until = time.monotonic() + seconds
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.05)
        for left in psutil.wait_procs(family, timeout=1)[1]:
            with suppress(psutil.NoSuchProcess):
                left.kill()
    with suppress(ProcessLookupError):  # each was started as the first of a group
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Read until the end, then end them all."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    started = {}
    for line in sys.stdin:
        name, pid, number, seconds = line.split()
        with suppress(psutil.NoSuchProcess):
            started[name] = psutil.Process(int(pid)), int(number), float(seconds)
    for process, code, patience in reversed(started.values()):
        end(process, code, patience)


if __name__ == "__main__":
    main()
