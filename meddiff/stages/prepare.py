"""Stage `prepare`: from a raw dataset, or the demo phantoms, to checked square cases in three parts, and backgrounds.

The whole dataset is decoded and checked into a staging folder before any earlier output is replaced.
"""

import tempfile
from functools import partial
from pathlib import Path

from meddiff.cases import Pixels, write_image, write_mask
from meddiff.cluster import share_out
from meddiff.datasets.accounts import count_cases, flagged_cases, left_out_cases, similar_pairs, tell_cases, tell_groups
from meddiff.datasets.adapters import passed_over, tell_categories, tell_left_out
from meddiff.datasets.plausibility import outline_sheet
from meddiff.datasets.preparation import Preparer, divide, list_cases, prepare_cases
from meddiff.datasets.withdrawn import without_withdrawn
from meddiff.layout import Layout
from meddiff.outputs.pairs import PairFiles
from meddiff.outputs.prepared import write_prepared
from meddiff.outputs.withdrawals import project_salt, read_withdrawals
from meddiff.params import Params
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar, tell
from meddiff.services.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `data/`: the split, three folders of cases, the lesion-free images, and tables of what was left out or merged.

    Raises:
        MeddiffError: the dataset breaks a rule (see `adapters`, `cases`, `splits`), or has no (labelled) lesion of a class.
    """
    settings, source = params.prepare, layout.root / params.prepare.path
    listed, withdrawn = list_cases(source, settings), read_withdrawals(layout)
    raw, gone = without_withdrawn(listed, {hash: entry.patient for entry in withdrawn for hash in entry.raw},
                                  project_salt(layout) if withdrawn else "")
    passed = [*gone, *([] if settings.dataset == "demo" else passed_over(settings.dataset, source, listed))]
    layout.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=layout.work) as folder:
        staging = Path(folder)

        def keep(id: str, image: Pixels, mask: Pixels) -> None:
            write_image(staging / "images" / f"{id}.png", image)
            write_mask(staging / "masks" / f"{id}.png", mask, len(settings.classes))

        with bar("prepare") as report:
            cases = prepare_cases(raw, lambda units, receive: share_out(
                units, partial(Preparer, settings, params.compute.threads, keep), Preparer.work, receive, params.compute), report)
        division, passed = divide(cases, settings), [*passed, *flagged_cases(cases)]
        outline_sheet({case.raw.id: case.measures for case in cases}, lambda id: PairFiles(
            id, staging / f"images/{id}.png", staging / f"masks/{id}.png").read()).save(staging / layout.outlines.name)
        similar = similar_pairs(division)
        tables = write_prepared(layout, staging, division, [*left_out_cases(cases, division), *passed], similar)
    counts = count_cases(cases, division, settings.classes, photographs(FOUNDATION))
    tell("prepare", [*tell_cases(cases, counts, settings), f"outlines to look at, by area: {layout.outlines}",
                     *tell_categories(raw, settings.classes), *tell_left_out(passed), *tell_groups(division, similar)])
    tracker.metrics(counts)
    for name, table in tables.items():
        tracker.dataset(table, name, name)
