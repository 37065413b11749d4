"""Runs in MLflow: what may be written into one, and the top-level run of a pipeline execution."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from meddiff.errors import redacted
from meddiff.layout import STAGES, Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.tracking.execution import execution_id, this_process
from meddiff.services.tracking.server import Server, answering, connect

PARENT = "mlflow.parentRunId"
EXECUTION = "meddiff.execution"
PROCESS = "meddiff.process"  # that works in the run, see `execution.this_process`
ERROR = "meddiff.error"
FLOW_VARIABLE = "MEDDIFF_FLOW_RUN"  # name of the flow run that an execution belongs to
_TOP = "meddiff.top"                # of the run of an execution
_DIRTY = "meddiff.git.dirty"
_FLUSH_SECONDS, _FLUSH_VALUES = 5.0, 500


class Run:
    """One run in MLflow.

    Attributes:
        id: MLflow's id of the run.
        env: environment variables by which stages are recorded as belonging to it.
        error: why it failed though nothing was raised; set by whoever works in it, else empty.
    """

    def __init__(self, server: Server, id: str, last: int = 0) -> None:
        """`last`: time of the newest number in it [ms]. MLflow shows the newest of a name: none may be older than one before, as
        after a clock was put back."""
        self.server, self.id, self.env, self.error, self._last = server, id, dict[str, str](), "", last
        self._pending: list[Any] = []
        self._flushed = time.monotonic()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Note numbers; they are sent in bundles, every few seconds and at the end."""
        from mlflow.entities import Metric

        now = self._last = max(int(time.time() * 1000), self._last)
        self._pending += [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        if len(self._pending) >= _FLUSH_VALUES or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the numbers noted so far."""
        with answering(self.server.uri):
            for start in range(0, len(self._pending), _FLUSH_VALUES):
                self.server.client.log_batch(self.id, metrics=self._pending[start:start + _FLUSH_VALUES])
        self._pending, self._flushed = [], time.monotonic()

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all below it."""
        with answering(self.server.uri):
            if path.is_dir():
                self.server.client.log_artifacts(self.id, str(path), f"{folder}/{path.name}" if folder else path.name)
            else:
                self.server.client.log_artifact(self.id, str(path), folder or None)

    def text(self, name: str, text: str) -> None:
        """Keep a text, `redacted`, as a file."""
        with answering(self.server.uri):
            self.server.client.log_text(self.id, redacted(text), name)

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
        """Set tags; each value is `redacted`, and cut at MLflow's limit."""
        from mlflow.entities import RunTag

        pairs = [RunTag(name, redacted(value)[:5000]) for name, value in values.items()]
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
        begun = server.client.search_runs([server.experiment], f"tags.`{EXECUTION}` = '{execution}'", max_results=1)
    if begun:
        return Run(server, begun[0].info.run_id, max((metric.timestamp for metric in begun[0].data._metric_objs), default=0))
    commit = os.environ.get("MEDDIFF_GIT_COMMIT") or versioning.git_commit(layout.root)
    tags = {EXECUTION: execution, _TOP: "true", PARENT: parent or os.environ.get("MEDDIFF_PARENT_RUN", ""),
            "mlflow.source.git.commit": commit.removesuffix("-dirty"),
            _DIRTY: str(commit.endswith("-dirty")).lower()}
    flow = os.environ.get(FLOW_VARIABLE, "")
    tags |= {"data": data_words(params), "flow run": flow}
    told = [flow, data_words(params), *_differing(server, params), f"{datetime.now():%Y-%m-%d %H:%M:%S}"]
    name = ", ".join(filter(None, told))
    run = new_run(server, name, {key: value for key, value in tags.items() if value})
    _log_params(run, params)
    return run


def past_metrics(layout: Layout, params: Params, name: str, count: int, execution: str) -> tuple[float, ...]:
    """A headline number of the complete executions before this one on the same dataset, the newest first.

    Args:
        layout: the project.
        params: all settings, whose dataset counts.
        name: of the number.
        count: most executions.
        execution: this one, which is left out.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    path = params.prepare.path.replace("'", "")
    query = (f"params.`prepare.dataset` = '{params.prepare.dataset}' and params.`prepare.path` = '{path}' "
             f"and tags.`meddiff.complete` = 'true' and tags.`{EXECUTION}` != '{execution}'")
    with answering(server.uri):
        runs = server.client.search_runs([server.experiment], query, max_results=count, order_by=["attributes.start_time DESC"])
    return tuple(run.data.metrics[name] for run in runs if name in run.data.metrics)


def search_all(server: Server, query: str) -> Iterator[Any]:
    """All of the experiment's runs that a query names, the newest first."""
    token: str | None = None
    while True:
        with answering(server.uri):
            page = server.client.search_runs([server.experiment], query, page_token=token,
                                             order_by=["attributes.start_time DESC"])
        yield from page
        token = page.token
        if not token:
            return


def commit_of(tags: Mapping[str, str]) -> str:
    """The commit that an execution's tags name, `-dirty` behind it when files differed; empty where it isn't known."""
    return tags.get("mlflow.source.git.commit", "") + ("-dirty" if tags.get(_DIRTY) == "true" else "")


def new_run(server: Server, name: str, tags: Mapping[str, str]) -> Run:
    """A run that is told to be running.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    user = os.environ.get("USER") or str(os.getuid())
    about = {"mlflow.user": user, "mlflow.source.name": "meddiff", "mlflow.source.type": "PROJECT", PROCESS: this_process()}
    with answering(server.uri):
        return Run(server, server.client.create_run(server.experiment, run_name=name, tags=about | dict(tags)).info.run_id)


def data_words(params: Params) -> str:
    """Data, size and budget in words."""
    return f"{params.prepare.dataset} {params.prepare.size} px, {params.prepare.n_labelled} labelled"


def _differing(server: Server, params: Params, most: int = 3) -> list[str]:
    """Which settings of the stages differ from those of the newest run, but for the data; at most so many."""
    with answering(server.uri):
        newest = server.client.search_runs([server.experiment], f"tags.`{_TOP}` = 'true'", max_results=1)
    before = newest[0].data.params if newest else {}
    changed = [f"{key.partition('.')[2]} {value}" for key, value in _flat(params).items()
               if key.partition(".")[0] in STAGES and not key.startswith("prepare.") and before.get(key, value) != value]
    return [*changed[:most], *([f"{len(changed) - most} more"] if len(changed) > most else [])]


def _flat(params: Params) -> dict[str, str]:
    return {f"{section}.{name}": redacted(str(value))[:6000]
            for section, own in params.model_dump(mode="json").items() for name, value in own.items()}


def _log_params(run: Run, params: Params) -> None:
    from mlflow.entities import Param

    pairs = [Param(key, value) for key, value in _flat(params).items()]
    with answering(run.server.uri):
        for start in range(0, len(pairs), 100):
            run.server.client.log_batch(run.id, params=pairs[start:start + 100])
