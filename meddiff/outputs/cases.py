"""The prepared cases of a split."""

from pathlib import Path

from meddiff.cases import Case, read_image, read_mask
from meddiff.outputs.rows import CaseRow
from meddiff.outputs.tables import CASES


def read_cases(folder: Path, labelled: bool = True) -> list[Case]:
    """Read a split folder as `prepare` leaves it, in the order of `cases.csv`.

    Args:
        folder: holds `cases.csv`, `images/` and `masks/`.
        labelled: only the annotated cases; else every image, with mask None throughout.

    Raises:
        MeddiffError: the folder or a file of it is missing, or the table is wrong.
    """
    return [_read(folder, row, labelled) for row in CASES.rows(folder) if row.labelled or not labelled]


def read_unannotated(folder: Path) -> list[Case]:
    """The images without annotation; raises as `read_cases` does."""
    return [_read(folder, row, masked=False) for row in CASES.rows(folder) if not row.labelled]


def _read(folder: Path, row: CaseRow, masked: bool) -> Case:
    mask = read_mask(folder / "masks" / f"{row.id}.png") if masked else None
    return Case(row.id, read_image(folder / "images" / f"{row.id}.png"), mask, row.group, row.frame)
