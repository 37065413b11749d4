"""The lives of runs: of a stage, of one execution of the pipeline, and of actions that run many."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff.errors import redacted
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.tracking import links, models
from meddiff.services.tracking.cards import describe_generator, show_numbers
from meddiff.services.tracking.evidence import count_looks
from meddiff.services.tracking.execution import forget_execution, peak_memory, pending_execution, this_process
from meddiff.services.tracking.links import HEADLINES, STAGE, link_skipped, out_tags, write_note
from meddiff.services.tracking.runs import ERROR, EXECUTION, PARENT, PROCESS, Run, commit_of, execution_run, new_run, search_all
from meddiff.services.tracking.server import answering

_LAST_STAGE = "evaluate"
_MEASURING = ("generate", "filter", "evaluate")  # stages that register a model or measure with one


class Recorder:
    """The `StageRun` that writes into MLflow: a stage's own run, and the run of the execution it belongs to."""

    def __init__(self, layout: Layout, params: Params, own: Run, whole: Run) -> None:
        self.layout, self.params, self.own, self.whole = layout, params, own, whole
        self.headlines = dict[str, float]()
        self.noted: Any = None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.own.metrics(values, step)

    def headline(self, values: Mapping[str, float]) -> None:
        self.own.metrics(values)  # kept here too: a later execution that reuses the stage copies them from its run
        self.whole.metrics(values)
        self.headlines |= values

    def file(self, path: Path, folder: str = "") -> None:
        self.own.file(path, folder)

    def headline_file(self, path: Path, folder: str = "") -> None:
        self.whole.file(path, folder)

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None:
        with answering(self.own.server.uri):
            import mlflow.data
            from mlflow.entities import DatasetInput, InputTag

            noted = mlflow.data.from_pandas(frame, source=str(self.layout.home), name=name)  # a work tree goes away
            self.noted = noted._to_mlflow_entity()
            inputs = [DatasetInput(self.noted, [InputTag("mlflow.data.context", context)])]
        for run in (self.own, self.whole):
            run.datasets(inputs)

    def look(self, test: str) -> int:
        self.whole.tags({models.LOOK: test})
        return count_looks(self.whole.server, test)

    def execution(self) -> dict[str, str]:
        """What the catalogue keeps of the execution: its name, run and commit, and the models that it registered or used."""
        tags = links.tags_of(self.whole)
        return {"execution": tags[EXECUTION], "run": self.whole.id, "commit": commit_of(tags),
                **{kind.name: tags.get(kind.tag, "") for kind in models.KINDS_OF_MODELS}}

    def about(self) -> tuple[str, ...]:
        known = self.execution()
        commit, model = known["commit"], known[models.GENERATOR.name]
        words = [f"commit {commit[:12]}" + " with changes" * commit.endswith("-dirty")] if commit else []
        return (*words, f"run {self.whole.id}", *([f"generator models:/{model}"] if model else []))

    def generator(self, folder: Path) -> None:
        self._register(models.GENERATOR, folder)

    def segmenter(self, folder: Path, example: bytes, tags: Mapping[str, str]) -> None:
        made_by = links.tags_of(self.whole).get(models.GENERATOR.tag)
        self._register(models.SEGMENTER, folder, pd.DataFrame({"image": [example]}),
                       {**tags, **({"generator": made_by} if made_by else {})})

    def _register(self, kind: models.ModelKind, folder: Path, example: pd.DataFrame | None = None,
                  tags: Mapping[str, str] | None = None) -> None:
        name = models.registered_name(self.params, kind)
        version = models.log_model(self.own.server, self.own.id, folder, name, kind, example, tags)
        for run in (self.own, self.whole):
            run.tags({kind.tag: f"{name}/{version}"})


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
    with _life(whole, f"{stage}: "):
        link_skipped(whole, layout.root, stage)
        own = new_run(whole.server, stage, {PARENT: whole.id, STAGE: stage})
        recorder = Recorder(layout, params, own, whole)
        with _life(own):
            yield recorder
            entry = versioning.lock_entry(layout.root, stage)
            recorder.metrics({"peak_memory_mb": peak_memory()})
            measured = dict(recorder.headlines)
            recorder.headline({f"seconds.{stage}": time.monotonic() - begun})
            _show(recorder, stage, measured)
            own.tags(out_tags(entry) | {HEADLINES: ",".join(sorted(recorder.headlines))})
            _close(whole, layout, stage, entry)
        write_note(whole)


@contextmanager
def recorded_run(layout: Layout, params: Params, name: str, execution: str, above: Run | None = None,
                 tags: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Record an execution of many pipelines, or one of these, from its beginning to its end; one that failed goes on in its run.

    Args:
        layout: the project.
        params: all settings.
        name: of the run.
        execution: see `execution_run`.
        above: the run that it stands below.
        tags: further ones.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    run = execution_run(layout, params, execution, above.id if above else "")
    run.tags({"mlflow.runName": name, **(tags or {})})
    run.env = {"MEDDIFF_EXECUTION": execution} | ({"MEDDIFF_PARENT_RUN": above.id} if above else {})
    with _life(run):
        yield run


@contextmanager
def recorded_action(layout: Layout, params: Params, action: str, name: str) -> Iterator[Run]:
    """Record an action as `recorded_run`; until it succeeds, each new start goes on in the same run."""
    with recorded_run(layout, params, name, pending_execution(layout, action)) as run:
        yield run
    if not run.error:
        forget_execution(layout, action)


@contextmanager
def _life(run: Run, where: str = "") -> Iterator[None]:
    """RUNNING while the block works, then FINISHED, FAILED with its error as a tag, or, interrupted, KILLED."""
    try:
        run.tags({PROCESS: this_process()})
        run.status("RUNNING")
        yield
    except BaseException as e:
        try:
            run.tags({ERROR: where + " ".join(f"{type(e).__name__}: {e}".split())})
            run.status("FAILED" if isinstance(e, Exception) else "KILLED")
            if not isinstance(e, Exception):
                for begun in _begun_below(run):
                    begun.status("KILLED")
        except Exception as second:  # the first error matters more than that of its record
            print(f"meddiff: a failure could not be recorded: {redacted(str(second))}", file=sys.stderr)
        raise
    if run.error:
        run.tags({ERROR: run.error})
    else:
        run.untag(ERROR)
    run.status("FAILED" if run.error else "FINISHED")


def _begun_below(run: Run) -> list[Run]:
    """This process's runs that go on below a run: those that it was interrupted in making."""
    query = f"attributes.status = 'RUNNING' and tags.`{PARENT}` = '{run.id}' and tags.`{PROCESS}` = '{this_process()}'"
    return [Run(run.server, found.info.run_id) for found in search_all(run.server, query)]


def _show(recorder: Recorder, stage: str, measured: Mapping[str, float]) -> None:
    """Bring what a stage measured onto the pages of the models that were measured."""
    if stage not in _MEASURING:
        return
    recorder.own.flush()
    recorder.whole.flush()
    tags = links.tags_of(recorder.whole)
    made = {kind.tag: tags[kind.tag] for kind in models.KINDS_OF_MODELS if kind.tag in tags}
    show_numbers(recorder.own, recorder.whole, made, measured, recorder.noted)
    if models.GENERATOR.tag in made:
        describe_generator(recorder.whole, recorder.params, made[models.GENERATOR.tag])


def _close(whole: Run, layout: Layout, stage: str, entry: dict[str, Any]) -> None:
    """Put what is known only after a stage into the execution's run."""
    whole.tags(out_tags(*(versioning.lock(layout.root) | {stage: entry}).values()))
    whole.text(layout.params.name, layout.params.read_text(encoding="utf-8"))
    whole.text("dvc.lock", versioning.lock_text(layout.root, stage, entry))
    if stage == _LAST_STAGE:
        whole.tags({models.COMPLETE: "true"})
