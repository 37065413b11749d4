"""Tables that stages leave: text stays text, empty numbers are NaN, what is missing is named."""

import math
import re
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from meddiff.cases import Frame
from meddiff.errors import MeddiffError
from meddiff.outputs import tables
from meddiff.outputs.rows import BackgroundRow, CaseRow, RemovalRow, SampleRow, ValidationRow
from meddiff.outputs.tables import BACKGROUNDS, CASES, REMOVALS, SAMPLES, VALIDATION, StageTable

EVERY = [table for table in vars(tables).values() if isinstance(table, StageTable)]
ODD = ["NA", "null", "None", "nan", "007", "1e5", "true", " x", "a,b"]


def test_every_kind_of_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """With text that others take for numbers or nothing, and numbers that aren't there."""
    assert len(EVERY) == 17
    for table in EVERY:
        values = {str: ODD, int: list(range(len(ODD))), float: [math.nan, *(0.5 * i for i in range(1, len(ODD)))]}
        rows = [table.row(*row) for row in zip(*(values[field.type] for field in fields(table.row)), strict=True)]
        written = table.write(tmp_path, rows)
        assert list(written) == list(table.columns)
        pd.testing.assert_frame_equal(table.read(tmp_path), written)
        assert str(table.rows(tmp_path)) == str(rows)   # NaN isn't equal to itself
        table.write(tmp_path, rows[:0])
        assert table.rows(tmp_path) == []


def test_columns_that_are_asked_for_are_enough(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("arm,seed,dice,extra\nreal,3,,x\n")
    table = VALIDATION.read(tmp_path, "dice", "arm")
    assert list(table) == ["dice", "arm"]
    assert table["dice"].isna().all()
    with pytest.raises(MeddiffError, match=r"validation\.csv: the table lacks the column steps\. Run `dvc repro segment`"):
        VALIDATION.read(tmp_path)


def test_optional_columns_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("id,group,labelled\n01,,1\n")
    assert CASES.rows(tmp_path) == [CaseRow("01", "", 1)]
    assert CASES.rows(tmp_path)[0].frame is None
    assert CaseRow("a", "", 1, top=1, left=2, height=3, width=4).frame == Frame(1, 2, 3, 4)


@pytest.mark.parametrize(("text", "rule"), [
    (None, r"validation.csv: the table of trained segmenters must be there"), ("", "a table must decode"),
    ("arm,seed,dice,steps,n_real,n_synthetic,n_wanted\nreal,,0.5,1,1,1,1\n", "a table must decode"),
    ("arm\nreal\n", "lacks the column seed")])
def test_what_is_wrong_with_a_file_is_named(text: str | None, rule: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "validation.csv").write_text(text)
    with pytest.raises(MeddiffError, match=rule) as caught:
        VALIDATION.rows(tmp_path)
    assert caught.value.remedy == "Run `dvc repro segment`"


def test_bytes_that_are_no_parquet_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "batch.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(MeddiffError, match=r"batch\.parquet: a table must decode"):
        SAMPLES.read(tmp_path)


def test_numbers_keep_all_digits_unless_the_table_says_otherwise(tmp_path: Path) -> None:
    VALIDATION.write(tmp_path, [ValidationRow("real", 0, 1 / 3, 4, 8, 0, 0)])
    REMOVALS.write(tmp_path, [RemovalRow("c", "texture", 1 / 3, math.nan, "")])
    assert repr(1 / 3) in (tmp_path / "validation.csv").read_text()
    assert (tmp_path / "removals.csv").read_text().splitlines()[1] == "c,texture,0.3333,,"


@pytest.mark.parametrize(("source", "kind", "origin"), [("normal", "normal", "b"), ("removed:a:1", "removed", "a:1"),
                                                        ("site:NA", "site", "NA")])
def test_what_a_background_was_made_from(source: str, kind: str, origin: str, tmp_path: Path) -> None:
    BACKGROUNDS.write(tmp_path, [BackgroundRow("b", source)])
    (row,) = BACKGROUNDS.rows(tmp_path)
    assert (row.kind, row.origin) == (kind, origin)


def test_each_column_of_a_row_is_explained_or_plain() -> None:
    """The rows are the reference of the columns: those with a word of explanation name real fields."""
    for table in EVERY:
        named = re.findall(r"^        ([a-z0-9_, ]+):", table.row.__doc__ or "", re.MULTILINE)
        assert {name for line in named for name in line.split(", ")} <= set(table.columns), table.name
    assert "mask_likeness" in (SampleRow.__doc__ or "")
