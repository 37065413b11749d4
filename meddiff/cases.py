"""The case: an id that joins an image and its mask, and how both are read from and written to files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from meddiff.errors import MeddiffError

Pixels = NDArray[np.uint8]
UNREADABLE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)


@dataclass(frozen=True)
class Case:
    """One image with its mask.

    Attributes:
        id: unique name, also the file stem.
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` uint8, 0 = background, 1 = lesion; None for an image without annotation.
        group: patient, video or near-duplicate group; a group never crosses a split.
    """

    id: str
    image: Pixels
    mask: Pixels | None
    group: str = ""


def read_image(path: Path) -> Pixels:
    """Decode an image file to `[H, W, 3]` uint8 RGB.

    Raises:
        MeddiffError: the file is missing, is no image, or is cut short.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except UNREADABLE as e:
        raise MeddiffError(path, f"an image must be there and decode ({e})", "Replace the file with an intact copy") from e


def read_mask(path: Path) -> Pixels:
    """Decode a mask file to `[H, W]` uint8 with values 0 and 1.

    Accepted are 1-bit masks, {0, 1} and {0, 255}, in one channel or in equal RGB channels (alpha is ignored).

    Raises:
        MeddiffError: the file is missing, no image, or holds other (gray) values.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB" if picture.mode in ("RGB", "RGBA", "P") else "L"), dtype=np.uint8)
    except UNREADABLE as e:
        raise MeddiffError(path, f"a mask must be there and decode ({e})", "Replace the file with an intact copy") from e
    values = np.unique(pixels)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        raise MeddiffError(
            path,
            f"a mask holds only 0 and 1 or 0 and 255, this one holds {len(values)} values such as "
            f"{int(values[len(values) // 2])}",
            "Save it without smoothing, as PNG rather than JPEG",
        )
    flat = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return (flat > 0).astype(np.uint8)


def write_image(path: Path, image: Pixels) -> None:
    """Write `[H, W, 3]` uint8 RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image, mode=None).save(path, compress_level=3)


def write_mask(path: Path, mask: Pixels) -> None:
    """Write a `[H, W]` mask of 0 and 1 as an 8-bit PNG of 0 and 255, which any viewer shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path, compress_level=3)


def read_cases(folder: Path, labelled: bool = True) -> list[Case]:
    """Read a split folder as `prepare` leaves it, in the order of `cases.csv`.

    Args:
        folder: holds `cases.csv` (id, group, labelled, image_sha256, mask_sha256), `images/` and `masks/`.
        labelled: only the annotated cases; else every image, with mask None throughout.

    Raises:
        MeddiffError: the folder or a file of it is missing.
    """
    import csv

    table = folder / "cases.csv"
    if not table.is_file():
        raise MeddiffError(table, "the prepared split must be there", "Run `dvc repro prepare`")
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if not labelled or row["labelled"] == "1"]
    return [
        Case(
            row["id"],
            read_image(folder / "images" / f"{row['id']}.png"),
            read_mask(folder / "masks" / f"{row['id']}.png") if labelled else None,
            row["group"],
        )
        for row in rows
    ]


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_accepted(synthetic: Path, filtered: Path) -> list[Case]:
    """Read the accepted synthetic pairs, with their corroded masks, in the order of their ids.

    Args:
        synthetic: holds `BATCH/images/ID.png`.
        filtered: holds `decisions.parquet` (id, batch, verdict, …) and `masks/ID.png` of the accepted samples.

    Raises:
        MeddiffError: a table or an accepted file is missing.
    """
    import pandas as pd

    table = filtered / "decisions.parquet"
    if not table.is_file():
        raise MeddiffError(table, "the filter's decisions must be there", "Run `dvc repro filter`")
    decisions = pd.read_parquet(table)
    accepted = decisions[decisions["verdict"] == "accepted"].sort_values("id")
    return [
        Case(id, read_image(synthetic / batch / "images" / f"{id}.png"), read_mask(filtered / "masks" / f"{id}.png"), group=batch)
        for id, batch in zip(accepted["id"], accepted["batch"], strict=True)
    ]
