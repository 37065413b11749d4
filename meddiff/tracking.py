"""Recording of runs in MLflow, the only module that imports it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pandas as pd


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

    def generator(self, folder: Path) -> None:
        """Log `folder` (see `served`) as an MLflow model and register it."""


class Unrecorded:
    """A `StageRun` that keeps nothing: for tests and for stages called from Python."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def headline(self, values: Mapping[str, float]) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def headline_file(self, path: Path, folder: str = "") -> None: ...

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None: ...

    def generator(self, folder: Path) -> None: ...
