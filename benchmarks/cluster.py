"""What sharing units out to worker processes gains and costs: speed-up, overhead of a unit, memory at many units.

    python benchmarks/cluster.py PROJECT     # a project whose chain has run up to `filter`; it is copied, and left as it is
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from meddiff.cluster import share_out
from meddiff.environment import quiet
from meddiff.layout import Layout
from meddiff.params import ComputeParams, Params
from meddiff.params.file import load_params
from meddiff.params.overrides import merged

STEPS, SAMPLES, BATCH = 40, 32, 8


def nothing() -> int:
    """What units that do nothing share."""
    return 1


def idle(context: int, units: Sequence[int], receive: Callable[[int], None]) -> None:
    """Do nothing with a unit."""
    for unit in units:
        receive(unit)


def overhead() -> None:
    """Seconds of a unit that does nothing, and what units add to the memory of the process that holds the scheduler."""
    for units in (100, 1000, 10_000):
        count, process = list[int](), psutil.Process()
        before, begun = process.memory_info().rss, time.monotonic()
        share_out(range(units), nothing, idle, count.append, ComputeParams(cluster="local:2"))
        seconds, memory = time.monotonic() - begun, (process.memory_info().rss - before) / 1e6
        assert len(count) == units
        print(f"| {units} | {seconds:.1f} | {1000 * seconds / units:.1f} | {memory:.0f} |", flush=True)


def speed(project: Path) -> None:
    """Seconds of `generate` and `segment` with none and more workers, one thread each."""
    from meddiff.services.tracking import Unrecorded
    from meddiff.stages import generate, segment

    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "project")
        for part in ("data", "models", "backgrounds", "synthetic", "filtered"):
            shutil.copytree(project / part, layout.root / part)
        for where in ("", "local:1", "local:2", "local:4"):
            params = Params.model_validate(merged(load_params(project / "params.yaml"), {
                "generate": {"n": SAMPLES, "samples_per_batch": BATCH}, "segment": {
                    "steps": STEPS, "arms": ["real"], "seeds": [0, 1, 2, 3]}, "compute": {"threads": 1, "cluster": where}}))
            seconds = []
            for stage in (generate, segment):
                shutil.rmtree(layout.work, ignore_errors=True)
                begun = time.monotonic()
                stage.run(layout, params, Unrecorded())
                seconds.append(time.monotonic() - begun)
            print(f"| {where or 'none'} | {seconds[0]:.1f} | {seconds[1]:.1f} |", flush=True)


if __name__ == "__main__":
    quiet()
    print("| units | seconds | ms a unit | MB |\n|---|---|---|---|")
    overhead()
    print(f"| workers | generate {SAMPLES} samples [s] | segment 4 × {STEPS} steps [s] |\n|---|---|---|")
    speed(Path(sys.argv[1]).resolve())
