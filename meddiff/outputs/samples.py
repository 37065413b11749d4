"""What is known of synthetic samples, without their pixels: the tables of `generate` and `filter`."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meddiff.errors import MeddiffError

SAMPLE_COLUMNS = ("id", "batch", "seed", "background", "area", "guidance_scale", "steps", "generator")
DECISION_COLUMNS = ("id", "batch", "similarity", "nearest", "agreement", "contrast", "area", "verdict", "reason")
VERDICTS = ("accepted", "rejected", "quarantined")


@dataclass(frozen=True)
class Records:
    """The tables of one synthetic dataset.

    Attributes:
        samples: one row a sample, `SAMPLE_COLUMNS`, in the order of ids.
        decisions: one row a decided sample, `DECISION_COLUMNS`, in the order of ids; empty before `filter` ran.
        reasons: for each batch that the filter saw, why it was quarantined; nothing for a batch that passed.
    """

    samples: pd.DataFrame
    decisions: pd.DataFrame
    reasons: dict[str, tuple[str, ...]]


def read_samples(synthetic: Path) -> pd.DataFrame:
    """Read `synthetic/*/batch.parquet`: one row a sample, `SAMPLE_COLUMNS`, in the order of ids.

    Raises:
        MeddiffError: no batch is there, a file doesn't decode or lacks a column, or an id occurs twice.
    """
    tables = sorted(synthetic.glob("*/batch.parquet"))
    if not tables:
        raise MeddiffError(synthetic, "there must be at least one batch of synthetic samples", "Run `dvc repro generate`")
    samples = pd.concat([_table(path, SAMPLE_COLUMNS, "generate") for path in tables]).sort_values("id", ignore_index=True)
    if not samples["id"].is_unique:
        twice = samples.loc[samples["id"].duplicated(), "id"].iloc[0]
        raise MeddiffError(synthetic, f"a sample is in one batch alone, but {twice} is in two", "Run `dvc repro generate`")
    return samples


def read_records(synthetic: Path, filtered: Path) -> Records:
    """Read `synthetic/*/batch.parquet`, `filtered/decisions.parquet` and `filtered/batches.json`.

    Raises:
        MeddiffError: no batch is there, a file doesn't decode or lacks a column, an id occurs twice, or the decisions are on
            other samples.
    """
    samples = read_samples(synthetic)
    path = filtered / "decisions.parquet"
    if not path.is_file():
        return Records(samples, pd.DataFrame(columns=list(DECISION_COLUMNS)), {})
    decisions = _table(path, DECISION_COLUMNS, "filter").sort_values("id", ignore_index=True)
    wrong = decisions.loc[~decisions["id"].isin(samples["id"]) | decisions["id"].duplicated(), "id"]
    if len(wrong):
        raise MeddiffError(path, f"each decision is on a sample of its own in {synthetic.name}/, unlike that on {wrong.iloc[0]}",
                           "Run `dvc repro filter`")
    return Records(samples, decisions, _reasons(filtered / "batches.json"))


def _table(path: Path, columns: tuple[str, ...], stage: str) -> pd.DataFrame:
    remedy = f"Run `dvc repro {stage}`"
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as e:  # pyarrow's errors are subclasses of both
        raise MeddiffError(path, f"a table must decode ({e})", remedy) from e
    if missing := [name for name in columns if name not in table]:
        raise MeddiffError(path, f"the table lacks the column {missing[0]}", remedy)
    return table[list(columns)]


def _reasons(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        return {batch: tuple(str(reason) for reason in entry["reasons"]) for batch, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise MeddiffError(path, f"the batches' checks must be there and decode ({e!r})", "Run `dvc repro filter`") from e
