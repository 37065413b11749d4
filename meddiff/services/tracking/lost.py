"""Runs that are `RUNNING` in MLflow though nobody works in them any more: their process was killed, or its machine went down."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.execution import is_gone
from meddiff.services.tracking.runs import ERROR, EXECUTION, PARENT, PROCESS, Run, search_all
from meddiff.services.tracking.server import connect


@dataclass(frozen=True)
class LostRun:
    """A run without a process.

    Attributes:
        id: in MLflow.
        name: of the run.
        process: that worked in it, as HOST-NUMBER-BEGUN.
    """

    id: str
    name: str
    process: str


def end_lost(layout: Layout, params: Params, over: Callable[[str], bool] = lambda execution: False) -> tuple[LostRun, ...]:
    """End the runs whose process is gone as KILLED, so that MLflow shows what is so; going on in one makes it RUNNING again.

    Args:
        layout: the project.
        params: all settings.
        over: whether an execution, by its name, is known to have ended otherwise: of other machines' processes nothing is known.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    running = list(search_all(server, "attributes.status = 'RUNNING'"))
    known = {run.info.run_id: run for run in running}
    ended = []
    for run in running:
        process = run.data.tags.get(PROCESS, "")
        if is_gone(process) or over(_execution(run, known)):
            found = Run(server, run.info.run_id)
            found.tags({ERROR: f"its process was killed ({process})"})
            found.status("KILLED")
            ended.append(LostRun(run.info.run_id, run.info.run_name or "", process))
    return tuple(ended)


def _execution(run: Any, known: dict[str, Any]) -> str:
    """The execution that a run, or one above it, stands for; empty if neither is among those known."""
    while run is not None and EXECUTION not in run.data.tags:
        run = known.get(run.data.tags.get(PARENT, ""))
    return str(run.data.tags[EXECUTION]) if run is not None else ""
