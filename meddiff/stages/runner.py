"""One stage from settings to record: what the command line, DVC and flows start."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from meddiff.errors import redacted
from meddiff.layout import Layout

if TYPE_CHECKING:
    from meddiff.params import Params


@contextmanager
def _turn(params: "Params", stage: str) -> Iterator[None]:
    """The stage's turn on the GPU, if it uses one: `prepare` doesn't."""
    from meddiff.environment import device_turn, gpu_names

    names = gpu_names(params.compute.device) if stage != "prepare" else ()
    with device_turn(f"gpu-{names[0]}", params.compute.gpu_runs) if names else nullcontext():
        yield


def execute(stage: str, root: Path) -> None:
    """Run one stage in the project at `root`, recorded in MLflow.

    When the stage fails below DVC, the outputs that DVC removed before it are brought back from DVC's cache.

    Raises:
        MeddiffError: whatever the settings, the tracking server or the stage find wrong.
    """
    from meddiff.params.file import load_params

    layout = Layout(root)
    try:
        params = load_params(layout.params)
        from meddiff.services.tracking import stage_run
        from meddiff.stages.preflight import check_ahead

        check_ahead(params, stage)
        with _turn(params, stage), stage_run(layout, params, stage) as tracker:
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
