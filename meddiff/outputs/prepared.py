"""What stage `prepare` leaves: cases by part, lesion-free images, the split, and what was left out or merged."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from meddiff.cases import sha256
from meddiff.datasets.accounts import SimilarPair
from meddiff.datasets.adapters import LeftOut
from meddiff.datasets.preparation import Division
from meddiff.layout import Layout, replacing
from meddiff.outputs.rows import CaseRow, LeftOutRow, NormalRow, SimilarRow
from meddiff.outputs.tables import CASES, LEFT_OUT, NORMAL, SIMILAR


def write_prepared(layout: Layout, staging: Path, division: Division, left_out: Sequence[LeftOut],
                   similar: Sequence[SimilarPair]) -> dict[str, pd.DataFrame]:
    """Move the files of a staging folder into the output folders, and swap these, the split and the tables in.

    Args:
        staging: holds `images/ID.png` and `masks/ID.png` of every case, and the sheet of outlines.
        division: who is where.
        left_out, similar: what the tables `data/left_out.csv` and `data/near_duplicates.csv` hold.

    Returns:
        The tables of cases by part, and of lesion-free images as `normal`.
    """
    tables, groups = {}, division.parts.groups
    layout.split.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as swaps:
        folder = swaps.enter_context(replacing(layout.normal))
        files = _move(staging, folder, "images", division.parts.backgrounds)
        tables["normal"] = NORMAL.write(folder, (
            NormalRow(id, "normal", groups[id], files[id], *division.cases[id].columns) for id in files))
        for part, ids in division.parts.parts.items():
            folder, known = swaps.enter_context(replacing(layout.cases(part))), division.annotated(part)
            files = _move(staging, folder, "images", ids)
            masks = _move(staging, folder, "masks", [id for id in ids if id in known])
            tables[part] = CASES.write(folder, (CaseRow(
                id, groups[id], int(id in known), files[id], masks.get(id, ""), *division.cases[id].columns) for id in ids))
        (staging / layout.split.name).write_text(json.dumps(division.parts.parts, indent=1) + "\n")
        LEFT_OUT.write(staging, (LeftOutRow(*astuple(each)) for each in left_out))
        SIMILAR.write(staging, (SimilarRow(*astuple(pair)) for pair in similar))
    # An old one may be a read-only link into DVC's cache.
    for place in (layout.split, layout.outlines, layout.left_out, layout.near_duplicates):
        shutil.move(staging / place.name, place)
    return tables


def _move(staging: Path, folder: Path, kind: str, ids: Sequence[str]) -> dict[str, str]:
    """Move files from the staging folder; their SHA-256 by id."""
    (folder / kind).mkdir()
    return {id: sha256(Path(shutil.move(staging / kind / f"{id}.png", folder / kind / f"{id}.png"))) for id in ids}
