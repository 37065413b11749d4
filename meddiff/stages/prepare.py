"""Stage `prepare`: from a raw dataset, or the demo phantoms, to checked square cases in three parts, and backgrounds.

The whole dataset is decoded and checked into a staging folder before any earlier output is replaced.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from meddiff.cases import Pixels, sha256, write_image, write_mask
from meddiff.datasets.plausibility import outline_sheet
from meddiff.datasets.preparation import Division, count_cases, divide, list_cases, prepare_cases, tell_cases
from meddiff.layout import Layout, replacing
from meddiff.outputs.pairs import PairFiles
from meddiff.outputs.rows import CaseRow, NormalRow
from meddiff.outputs.tables import CASES, NORMAL
from meddiff.params import Params
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar, tell
from meddiff.services.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `data/`: the split, three folders of cases, and the lesion-free images.

    Raises:
        MeddiffError: the dataset breaks a rule (see `adapters`, `cases`, `splits`), or has no (labelled) lesion of a class.
    """
    settings, raw = params.prepare, list_cases(layout.root / params.prepare.path, params.prepare)
    layout.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=layout.work) as folder:
        staging = Path(folder)

        def keep(id: str, image: Pixels, mask: Pixels) -> None:
            write_image(staging / "images" / f"{id}.png", image)
            write_mask(staging / "masks" / f"{id}.png", mask, len(settings.classes))

        with bar("prepare") as report:
            cases = prepare_cases(raw, settings, params.compute.threads, keep, report)
        division = divide(cases, settings)
        outline_sheet({case.raw.id: case.measures for case in cases}, lambda id: PairFiles(
            id, staging / f"images/{id}.png", staging / f"masks/{id}.png").read()).save(staging / layout.outlines.name)
        tables = _write(layout, staging, division)
    counts = count_cases(cases, division, settings.classes, photographs(FOUNDATION))
    tell("prepare", [*tell_cases(cases, counts, settings), f"outlines to look at, by area: {layout.outlines}"])
    tracker.metrics(counts)
    for name, table in tables.items():
        tracker.dataset(table, name, name)


def _write(layout: Layout, staging: Path, division: Division) -> dict[str, pd.DataFrame]:
    """Move the files into the output folders, and swap these and the split in."""
    tables, groups, split = {}, division.parts.groups, layout.split.with_name(f".{layout.split.name}.new")
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
        split.write_text(json.dumps(division.parts.parts, indent=1) + "\n")
    split.replace(layout.split)
    shutil.move(staging / layout.outlines.name, layout.outlines)
    return tables


def _move(staging: Path, folder: Path, kind: str, ids: Sequence[str]) -> dict[str, str]:
    """Move files from the staging folder; their SHA-256 by id."""
    (folder / kind).mkdir()
    return {id: sha256(Path(shutil.move(staging / kind / f"{id}.png", folder / kind / f"{id}.png"))) for id in ids}
