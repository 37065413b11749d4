"""One stage from settings to record: what the command line, DVC and flows start."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from meddiff.errors import ServiceError, redacted
from meddiff.layout import Layout

if TYPE_CHECKING:
    from meddiff.params import Params
    from meddiff.services.tracking.recording import Recorder

CATALOGUE_WAITS = (1, 2, 4, 8, 16)  # of flow runs between tries [seconds]


@contextmanager
def _turn(layout: Layout, params: "Params", stage: str) -> Iterator[None]:
    """The stage's turn in this folder, where a process whose DVC was killed may still be at it, and on the GPU, if it uses one:
    `prepare` doesn't."""
    from meddiff.environment import device_turn, stage_gpus, turn

    names = stage_gpus(stage, params.compute.device)
    layout.work.mkdir(parents=True, exist_ok=True)
    with (turn(f"{stage} in this folder", [layout.work / f"{stage}.lock"]),
          device_turn(f"gpu-{names[0]}", params.compute.gpu_runs) if names else nullcontext()):
        yield


def execute(stage: str, root: Path) -> None:
    """Run one stage in the project at `root`, recorded in MLflow and in the catalogue.

    When the stage fails below DVC, the outputs that DVC removed before it are brought back from DVC's cache.

    Raises:
        MeddiffError: whatever the settings, the tracking server or the stage find wrong.
    """
    from meddiff.params.file import load_params

    layout = Layout(root)
    try:
        params = load_params(layout.params)
        from meddiff.outputs.sources import refuse_withdrawn_sources
        from meddiff.services.tracking import stage_run
        from meddiff.stages.preflight import check_ahead

        check_ahead(params, stage)
        if stage != "prepare":
            refuse_withdrawn_sources(layout)
        with _turn(layout, params, stage), stage_run(layout, params, stage) as tracker:
            import_module(f"meddiff.stages.{stage}").run(layout, params, tracker)
    except BaseException:
        if "DVC_STAGE" in os.environ:
            from meddiff.services.versioning import restore_outs

            try:
                restore_outs(root, stage)
            except Exception as second:  # the stage's own error matters more
                print(redacted(f"earlier outputs of {stage} could not be brought back, try `dvc checkout`: {second}"),
                      file=sys.stderr)
        raise
    _catalogue(layout, params, stage, tracker)


def _catalogue(layout: Layout, params: "Params", stage: str, tracker: "Recorder") -> None:
    """Write the finished stage into the catalogue. Its work counts also where that fails: one line says so, a rebuild repairs.

    Not so in the tree of a flow run, which goes away: there a catalogue that doesn't answer is waited for, then the stage fails.
    """
    from meddiff.services.catalog import REBUILD, RECORDED, record_stage
    from meddiff.services.tracking.runs import FLOW_VARIABLE

    if stage not in RECORDED:
        return
    flow = FLOW_VARIABLE in os.environ
    try:
        for seconds in CATALOGUE_WAITS if flow else ():
            try:
                return record_stage(layout, params, stage, **tracker.execution())
            except ServiceError as e:
                why = redacted(" ".join(str(e).split()))
                print(f"{stage}: not in the catalogue yet, tried again in {seconds} s ({why})", file=sys.stderr)
                time.sleep(seconds)
        record_stage(layout, params, stage, **tracker.execution())
    except Exception as e:
        if flow and isinstance(e, ServiceError):
            raise
        print(redacted(f"{stage}: finished, but not in the catalogue ({' '.join(str(e).split())}). {REBUILD} when it answers"),
              file=sys.stderr)
