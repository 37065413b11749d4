"""One stage from settings to record: what the command line, DVC and flows start."""

import os
import sys
from importlib import import_module
from pathlib import Path

from meddiff.errors import redacted
from meddiff.layout import Layout


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
        with stage_run(layout, params, stage) as tracker:
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
