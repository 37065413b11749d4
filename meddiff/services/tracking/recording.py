"""The record of a stage: its own run, below the run of the pipeline execution it belongs to."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.tracking import models
from meddiff.services.tracking.execution import peak_memory
from meddiff.services.tracking.links import HEADLINES, STAGE, link_skipped, out_tags, write_note
from meddiff.services.tracking.runs import PARENT, Run, execution_run, new_run
from meddiff.services.tracking.server import answering

LAST_STAGE = "evaluate"
ERROR = "meddiff.error"


class Recorder:
    """The `StageRun` that writes into MLflow: a stage's own run, and the run of the execution it belongs to."""

    def __init__(self, layout: Layout, params: Params, own: Run, whole: Run) -> None:
        self.layout, self.params, self.own, self.whole = layout, params, own, whole
        self.headlines: set[str] = set()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.own.metrics(values, step)

    def headline(self, values: Mapping[str, float]) -> None:
        self.own.metrics(values)  # kept here too: a later execution that reuses the stage copies them from its run
        self.whole.metrics(values)
        self.headlines |= set(values)

    def file(self, path: Path, folder: str = "") -> None:
        self.own.file(path, folder)

    def headline_file(self, path: Path, folder: str = "") -> None:
        self.whole.file(path, folder)

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None:
        with answering(self.own.server.uri):
            import mlflow.data
            from mlflow.entities import DatasetInput, InputTag

            noted = mlflow.data.from_pandas(frame, source=str(self.layout.root.resolve()), name=name)
            inputs = [DatasetInput(noted._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])]
        for run in (self.own, self.whole):
            run.datasets(inputs)

    def generator(self, folder: Path) -> None:
        name = self.params.promote.model
        version = models.log_generator(self.own.server, self.own.id, folder, name)
        for run in (self.own, self.whole):
            run.tags({models.VERSION: f"{name}/{version}"})


@contextmanager
def stage_run(layout: Layout, params: Params, stage: str) -> Iterator[Recorder]:
    """Record one run of a stage, below the run of the execution it belongs to.

    Args:
        layout: the project, whose `dvc.lock` tells which earlier stages DVC skipped.
        params: all settings; the execution's run holds each of them.
        stage: name of the stage.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    begun = time.monotonic()
    whole = execution_run(layout, params)
    whole.status("RUNNING")
    link_skipped(whole, layout.root, stage)
    own = new_run(whole.server, stage, {PARENT: whole.id, STAGE: stage})
    recorder = Recorder(layout, params, own, whole)
    try:
        yield recorder
        entry = versioning.lock_entry(layout.root, stage)
        recorder.metrics({"peak_memory_mb": peak_memory()})
        recorder.headline({f"seconds.{stage}": time.monotonic() - begun})
        own.tags(out_tags(entry) | {HEADLINES: ",".join(sorted(recorder.headlines))})
        _close(whole, layout, stage, entry)
        own.status("FINISHED")
    except BaseException as e:
        _fail(own, whole, stage, e)
        raise
    write_note(whole)
    whole.untag(ERROR)
    whole.status("FINISHED")


def _close(whole: Run, layout: Layout, stage: str, entry: dict[str, Any]) -> None:
    """Put what is known only after a stage into the execution's run."""
    whole.tags(out_tags(*(versioning.lock(layout.root) | {stage: entry}).values()))
    whole.file(layout.params)
    whole.text("dvc.lock", versioning.lock_text(layout.root, stage, entry))
    if stage == LAST_STAGE:
        whole.tags({models.COMPLETE: "true"})


def _fail(own: Run, whole: Run, stage: str, error: BaseException) -> None:
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        own.tags({ERROR: text})
        whole.tags({ERROR: f"{stage}: {text}"})
        for run in (own, whole):
            run.status(status)
    except Exception as second:  # the stage's own error matters more than that of its record
        print(f"meddiff: the failure of {stage} could not be recorded: {second}", file=sys.stderr)
