"""The energy that the machine takes, from the counters of its processors and the power of its NVIDIA GPUs."""

import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_COUNTERS = Path("/sys/class/powercap")  # RAPL, on Linux; often for the root user alone
_EVERY = 10.0  # seconds between two looks: counters of processors wrap within minutes to hours
_SMI = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")


@contextmanager
def metered(counters: Path = _COUNTERS, every: float = _EVERY) -> Iterator[Callable[[], float]]:
    """Meter the energy of the whole machine while a block runs, whatever else it does.

    Args:
        counters: folder of RAPL's zones, each with `name`, `energy_uj` and `max_energy_range_uj`; packages count, the parts of
            one don't.
        every: seconds between two looks. A GPU's power is taken as constant in between.

    Yields:
        A function that tells the energy so far [J]: of the processors and GPUs that tell theirs, NaN where none does.
    """
    meter, stop = _Meter(counters), threading.Event()

    def look() -> None:
        while not stop.wait(every):
            meter.look()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield meter.look
    finally:
        stop.set()
        watcher.join()


class _Meter:
    """Sums what the counters have gone on, and what the GPUs drew since the look before."""

    def __init__(self, counters: Path) -> None:
        self.lock, self.joules, self.at = threading.Lock(), 0.0, time.monotonic()
        packages = [zone for zone in sorted(counters.glob("*-rapl:*")) if _text(zone / "name").startswith("package")]
        self.counts = {zone: count for zone in packages if not math.isnan(count := _number(zone / "energy_uj"))}
        self.ranges = {zone: _number(zone / "max_energy_range_uj") for zone in self.counts}
        self.gpus = shutil.which(_SMI[0]) is not None and not math.isnan(_watts())

    def look(self) -> float:
        """Energy so far [J]; NaN if nothing tells now: what was used meanwhile counts at the next look that is answered."""
        with self.lock:
            now, joules = time.monotonic(), self.joules
            counts = {zone: _number(zone / "energy_uj") for zone in self.ranges}
            for zone, count in counts.items():
                gone = count - self.counts[zone]
                joules += (gone if gone >= 0 else gone + self.ranges[zone]) / 1e6
            if self.gpus:
                joules += _watts() * (now - self.at)
            if math.isnan(joules) or not (self.ranges or self.gpus):
                return math.nan
            self.joules, self.at, self.counts = joules, now, counts
            return joules


def _watts() -> float:
    """Power of all NVIDIA GPUs of the machine, NaN if they don't tell."""
    try:
        return sum(map(float, subprocess.run(_SMI, capture_output=True, text=True, check=True, timeout=30).stdout.split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return math.nan


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return math.nan


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
