"""Recording of runs and models in MLflow; this package is the only one that imports it, and only inside functions.

`stage_run` gives a stage its `StageRun`: one top-level run for each pipeline execution however it was started, a nested run
for each stage that ran, and a link to the run that made it for each stage that DVC skipped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pandas as pd

from meddiff.services.tracking.evidence import Evidence, count_looks, hash_summary, list_evidence
from meddiff.services.tracking.execution import pending_execution
from meddiff.services.tracking.history import (
    RunRecord,
    VersionRecord,
    find_version,
    list_versions,
    read_runs,
    withdraw_version,
)
from meddiff.services.tracking.links import registered_models
from meddiff.services.tracking.lost import LostRun, end_lost
from meddiff.services.tracking.models import (
    GENERATOR,
    SEGMENTER,
    ModelKind,
    Registry,
    fetch_model,
    load_generator,
    registered_name,
)
from meddiff.services.tracking.places import settle_files
from meddiff.services.tracking.recording import recorded_action, recorded_run, stage_run
from meddiff.services.tracking.runs import Run, execution_run, past_metrics
from meddiff.services.tracking.server import connect, tracking_uri, ui_command
from meddiff.services.tracking.unused import UnusedFiles, kept_outputs, remove_files, unused_files
from meddiff.services.tracking.view import runs_page
from meddiff.services.tracking.webhooks import (
    SECRET_VARIABLE,
    add_webhook,
    list_webhooks,
    remove_webhook,
    try_webhook,
)
from meddiff.services.tracking.withdrawn import refuse_withdrawn_files

__all__ = ["GENERATOR", "SECRET_VARIABLE", "SEGMENTER", "Evidence", "LostRun", "ModelKind", "Registry", "Run", "RunRecord",
           "StageRun", "Unrecorded", "UnusedFiles", "VersionRecord", "add_webhook", "connect", "count_looks", "end_lost",
           "execution_run", "fetch_model", "find_version", "hash_summary", "kept_outputs", "list_evidence", "list_versions",
           "list_webhooks", "load_generator", "past_metrics", "pending_execution", "read_runs", "recorded_action",
           "recorded_run", "refuse_withdrawn_files", "registered_models", "registered_name", "remove_files", "remove_webhook",
           "runs_page", "settle_files", "stage_run", "tracking_uri", "try_webhook", "ui_command", "unused_files",
           "withdraw_version"]


class StageRun(Protocol):
    """What a stage tells about itself. Every method is safe to call often; nothing here changes a result."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of this stage's own run."""

    def headline(self, values: Mapping[str, float]) -> None:
        """The few numbers by which whole pipeline runs are compared (Dice, gain, acceptance, cost)."""

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file (picture, page, table) with this stage's run."""

    def headline_file(self, path: Path, folder: str = "") -> None:
        """Keep a file with the pipeline's run."""

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None:
        """Note a dataset (one row a case or sample) that the stage read or made."""

    def look(self, test: str) -> int:
        """Note that the test cases with this digest are looked at; how many executions have done so, this one included."""

    def generator(self, folder: Path) -> None:
        """Log `folder` (see `served`) as an MLflow model and register it."""

    def about(self) -> tuple[str, ...]:
        """Commit, run and generator of the execution, in words for pages; nothing where nobody keeps them."""

    def segmenter(self, folder: Path, example: bytes, tags: Mapping[str, str]) -> None:
        """The same with the segmenters of an arm, their card as README.md, an image file as example, and tags of the version."""


class Unrecorded:
    """A `StageRun` that keeps nothing: for tests and for stages called from Python."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def headline(self, values: Mapping[str, float]) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def headline_file(self, path: Path, folder: str = "") -> None: ...

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None: ...

    def look(self, test: str) -> int:
        return 0  # not known

    def generator(self, folder: Path) -> None: ...

    def about(self) -> tuple[str, ...]:
        return ()

    def segmenter(self, folder: Path, example: bytes, tags: Mapping[str, str]) -> None: ...
