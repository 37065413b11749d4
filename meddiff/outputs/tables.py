"""Every table that a stage leaves: its file, its rows, and the one way to read and to write it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import parquet

from meddiff.errors import MeddiffError
from meddiff.outputs.rows import (
    ArmRow,
    BackgroundRow,
    CaseRow,
    ComparisonRow,
    CorrosionRow,
    DecisionRow,
    DroppedRow,
    LeftOutRow,
    LossRow,
    NormalRow,
    RemovalRow,
    SampleRow,
    ScoreRow,
    SimilarRow,
    ValidationCaseRow,
    ValidationRow,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Row = TypeVar("_Row", bound="DataclassInstance")


@dataclass(frozen=True)
class StageTable(Generic[_Row]):
    """A kind of table.

    Attributes:
        name: of its file; the ending tells the format, CSV or Parquet.
        row: class of its rows, see `rows`.
        stage: that leaves it, or to run where it is missing.
        title: what it is, in words.
        digits: format of the numbers in a CSV file; None: all digits.
    """

    name: str
    row: type[_Row]
    stage: str
    title: str
    digits: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, in the order of the file."""
        return tuple(self._columns())

    def read(self, folder: Path, *columns: str) -> pd.DataFrame:
        """The table of a folder.

        Args:
            folder: that holds the file.
            columns: those that are needed, in this order; all where none is named.

        Raises:
            MeddiffError: the file is missing, doesn't decode, or lacks a column.
        """
        path, remedy, known = folder / self.name, f"Run `dvc repro {self.stage}`", self._columns()
        if not path.is_file():
            raise MeddiffError(path, f"{self.title} must be there", remedy)
        types = {name: kind for name, (kind, _) in known.items()}
        blanks = {name: [""] for name, kind in types.items() if kind is float}
        try:
            table = (_read_parquet(path, known) if path.suffix == ".parquet" else
                     pd.read_csv(path, dtype=types, keep_default_na=False, na_values=blanks))
        except (OSError, ValueError) as e:  # pyarrow's and pandas' errors are subclasses of both
            raise MeddiffError(path, f"a table must decode ({' '.join(str(e).split())})", remedy) from e
        for name in columns or known:
            if name not in table:
                if known[name][1] is MISSING:
                    raise MeddiffError(path, f"the table lacks the column {name}", remedy)
                table[name] = known[name][1]
        return table[list(columns or known)]

    def rows(self, folder: Path) -> list[_Row]:
        """The table of a folder, row by row; raises as `read` does."""
        table = self.read(folder)
        return [self.row(*values) for values in zip(*(table[name].tolist() for name in table), strict=True)]

    def rows_if_there(self, folder: Path) -> list[_Row]:
        """The same, none where the file is missing."""
        return self.rows(folder) if (folder / self.name).is_file() else []

    def write(self, folder: Path, rows: Iterable[_Row] | pd.DataFrame, further: Sequence[str] = ()) -> pd.DataFrame:
        """Write rows, or a table's columns of these and `further` names, into a folder; return what was written."""
        table = (rows if isinstance(rows, pd.DataFrame) else self.table(rows))[[*self.columns, *further]]
        path = folder / self.name
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False, float_format=self.digits, lineterminator="\n")
        return table

    def table(self, rows: Iterable[_Row]) -> pd.DataFrame:
        """Rows as they are written."""
        names = [field.name for field in fields(self.row)]
        return pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=list(self.columns))

    def _columns(self) -> dict[str, tuple[type, object]]:
        """Type and default of each column."""
        return {field.name.rstrip("_"): (field.type, field.default) for field in fields(self.row)}  # type: ignore[misc]


def _read_parquet(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Those of the columns that are there: a shard has pictures, too."""
    return pd.read_parquet(path, columns=[name for name in parquet.read_schema(path).names if name in columns])


def write_losses(folder: Path, losses: Iterable[float]) -> None:
    """Write the loss of each training step, as `LOSSES`."""
    LOSSES.write(folder, (LossRow(step, loss) for step, loss in enumerate(losses, start=1)))


def read_losses(folder: Path) -> NDArray[np.float64]:
    """The loss of each step of a training, none where it left no curve."""
    return LOSSES.read(folder)["loss"].to_numpy(np.float64) if (folder / LOSSES.name).is_file() else np.empty(0)


def loss_points(folder: Path, most: int = 50) -> dict[int, float]:
    """Of the losses in a folder at most so many, evenly spread, by the number of their step."""
    losses = read_losses(folder)
    return {step + 1: float(losses[step]) for step in range(0, len(losses), math.ceil(len(losses) / most))}


CASES = StageTable("cases.csv", CaseRow, "prepare", "the prepared split")
NORMAL = StageTable("backgrounds.csv", NormalRow, "prepare", "the table of the dataset's lesion-free images")
LEFT_OUT = StageTable("left_out.csv", LeftOutRow, "prepare", "the table of what isn't used")
SIMILAR = StageTable("near_duplicates.csv", SimilarRow, "prepare", "the table of images that look alike", "%.4f")
BACKGROUNDS = StageTable("backgrounds.csv", BackgroundRow, "backgrounds", "the table of backgrounds")
REMOVALS = StageTable("removals.csv", RemovalRow, "backgrounds", "the attempts at removing lesions", "%.4f")
LOSSES = StageTable("loss.csv", LossRow, "finetune", "the curve of a training's loss")
COMPARISON = StageTable("comparison.csv", ComparisonRow, "mask_model", "the invented masks' comparison with the real ones")
SAMPLES = StageTable("batch.parquet", SampleRow, "generate", "a batch's table")
DECISIONS = StageTable("decisions.parquet", DecisionRow, "filter", "the filter's decisions")
CORROSION = StageTable("corrosion.csv", CorrosionRow, "filter", "the border profiles", "%.4f")
VALIDATION = StageTable("validation.csv", ValidationRow, "segment", "the table of trained segmenters")
VALIDATION_CASES = StageTable("validation_cases.csv", ValidationCaseRow, "segment", "the scores of the validation cases")
DROPPED = StageTable("dropped.csv", DroppedRow, "segment", "the table of arms that were left out")
CASE_SCORES = StageTable("per_case.csv", ScoreRow, "evaluate", "the scores of the test cases")
ENSEMBLE_SCORES = StageTable("ensemble.csv", ScoreRow, "evaluate", "the test scores of the delivered segmenters together")
ARM_PAIRS = StageTable("arms.csv", ArmRow, "segment", "the numbers of pairs of the arms")
