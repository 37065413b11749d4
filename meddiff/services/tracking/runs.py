"""Runs of pipeline executions and of their stages, and what a stage may write into them."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.tracking import models
from meddiff.services.tracking.execution import execution_id, peak_memory
from meddiff.services.tracking.links import EXECUTION, HEADLINES, PARENT, STAGE, link_skipped, out_tags, write_note
from meddiff.services.tracking.server import Server, answering, connect

if TYPE_CHECKING:
    import pandas as pd

LAST_STAGE = "evaluate"
ERROR = "meddiff.error"
FLUSH_SECONDS, FLUSH_VALUES = 5.0, 500


class Run:
    """One run in MLflow.

    Attributes:
        id: MLflow's id of the run.
    """

    def __init__(self, server: Server, id: str) -> None:
        self.server, self.id = server, id
        self._pending: list[Any] = []
        self._flushed = time.monotonic()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Note numbers; they are sent in bundles, every few seconds and at the end."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending += [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        if len(self._pending) >= FLUSH_VALUES or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the numbers noted so far."""
        with answering(self.server.uri):
            for start in range(0, len(self._pending), FLUSH_VALUES):
                self.server.client.log_batch(self.id, metrics=self._pending[start:start + FLUSH_VALUES])
        self._pending, self._flushed = [], time.monotonic()

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all below it."""
        with answering(self.server.uri):
            if path.is_dir():
                self.server.client.log_artifacts(self.id, str(path), f"{folder}/{path.name}" if folder else path.name)
            else:
                self.server.client.log_artifact(self.id, str(path), folder or None)

    def text(self, name: str, text: str) -> None:
        """Keep a text as a file."""
        with answering(self.server.uri):
            self.server.client.log_text(self.id, text, name)

    def datasets(self, inputs: Sequence[Any]) -> None:
        """Note `DatasetInput`s.

        MLflow adds a dataset that it doesn't find in its table: of two runs that note the same one at the same moment the
        second breaks the table's key (BAD_REQUEST), and finds it there when it tries again.
        """
        from mlflow.exceptions import MlflowException

        with answering(self.server.uri):
            for noted in inputs:
                try:
                    self.server.client.log_inputs(self.id, [noted])
                except MlflowException as e:
                    if e.error_code != "BAD_REQUEST":
                        raise
                    self.server.client.log_inputs(self.id, [noted])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; each value is cut at MLflow's limit."""
        from mlflow.entities import RunTag

        pairs = [RunTag(name, value[:5000]) for name, value in values.items()]
        with answering(self.server.uri):
            for start in range(0, len(pairs), 100):
                self.server.client.log_batch(self.id, tags=pairs[start:start + 100])

    def untag(self, name: str) -> None:
        """Take a tag away if it is there."""
        with answering(self.server.uri):
            if name in self.server.client.get_run(self.id).data.tags:
                self.server.client.delete_tag(self.id, name)

    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self.flush()
        with answering(self.server.uri):
            if status == "RUNNING":
                self.server.client.update_run(self.id, status)
            else:
                self.server.client.set_terminated(self.id, status)


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

    def dataset(self, frame: "pd.DataFrame", name: str, context: str) -> None:
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
    own = _new_run(whole.server, stage, {PARENT: whole.id, STAGE: stage})
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


def execution_run(layout: Layout, params: Params, execution: str = "", parent: str = "") -> Run:
    """The top-level run of an execution, made when it is missing.

    Args:
        layout: the project.
        params: all settings.
        execution: see `execution.execution_id`; empty for the one this process belongs to.
        parent: id of the run that it stands below, such as a search's; empty for MEDDIFF_PARENT_RUN or none.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    execution = execution or execution_id()
    server = connect(layout, params.tracking)
    with answering(server.uri):
        found = server.client.search_runs([server.experiment], f"tags.`{EXECUTION}` = '{execution}'", max_results=1)
    if found:
        return Run(server, found[0].info.run_id)
    commit = os.environ.get("MEDDIFF_GIT_COMMIT") or versioning.git_commit(layout.root)
    tags = {EXECUTION: execution, PARENT: parent or os.environ.get("MEDDIFF_PARENT_RUN", ""),
            "mlflow.source.git.commit": commit.removesuffix("-dirty"),
            "meddiff.git.dirty": str(commit.endswith("-dirty")).lower()}
    name = f"{params.prepare.dataset} {params.prepare.n_labelled} labelled {datetime.now():%Y-%m-%d %H:%M:%S}"
    run = _new_run(server, name, {key: value for key, value in tags.items() if value})
    _log_params(run, params)
    return run


def _new_run(server: Server, name: str, tags: Mapping[str, str]) -> Run:
    user = os.environ.get("USER") or str(os.getuid())
    about = {"mlflow.user": user, "mlflow.source.name": "meddiff", "mlflow.source.type": "PROJECT"}
    with answering(server.uri):
        return Run(server, server.client.create_run(server.experiment, run_name=name, tags=about | dict(tags)).info.run_id)


def _log_params(run: Run, params: Params) -> None:
    from mlflow.entities import Param

    values = params.model_dump(mode="json")
    pairs = [Param(f"{section}.{name}", str(value)[:6000]) for section, own in values.items() for name, value in own.items()]
    with answering(run.server.uri):
        for start in range(0, len(pairs), 100):
            run.server.client.log_batch(run.id, params=pairs[start:start + 100])
