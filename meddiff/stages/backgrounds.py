"""Stage `backgrounds`: the images that lesions are painted into, lesion-free or with a lesion to replace, and the inspector."""

import shutil
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.backgrounds.counts import count_backgrounds, tell_backgrounds
from meddiff.backgrounds.removal import Cleared, lesions_to_remove, remove_lesions, removed_lesions
from meddiff.backgrounds.sheets import make_sheets
from meddiff.backgrounds.sites import ENOUGH_SITES, Fit, clear_sites, search_sites
from meddiff.cases import Case, digest, sha256, write_image, write_mask
from meddiff.environment import use_machine
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases, read_unannotated
from meddiff.outputs.rows import BackgroundRow, NormalRow, RemovalRow
from meddiff.outputs.tables import BACKGROUNDS, NORMAL, REMOVALS
from meddiff.painting.painter import load_painter
from meddiff.params import Params, SegmentParams
from meddiff.progress import Report, bar, tell, with_progress
from meddiff.segmentation.inspector import train_inspector
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun
from meddiff.stages.resume import checkpoint_file


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train the inspector, and fill `backgrounds/` with lesion-free images, cleared training images, and sites."""
    params = use_machine(params)
    settings, begun, classes = params.backgrounds, time.monotonic(), len(params.prepare.classes)
    device, train = params.compute.device, layout.cases("train")
    cases, unlabelled = read_cases(train), read_unannotated(train) if settings.finder_steps else []

    def training(name: str, fit: Fit, own: SegmentParams, seed: int, taught: Sequence[Case], report: Report) -> Segmenter:
        checkpoint = checkpoint_file(layout, "backgrounds", train, name, own, seed, classes, device, digest(taught))
        return fit(cases, params=own, seed=seed, classes=classes, device=device, checkpoint=checkpoint, report=report)

    brief = SegmentParams(steps=settings.inspector_steps, precision=settings.precision)
    with bar("inspector") as report:
        inspector = training("inspector", train_inspector, brief, settings.seed, (), report)
    found, searched = search_sites(unlabelled, settings, training, device), time.monotonic()
    cleared = clear_sites(with_progress("clear sites", len(found), found))
    sites = cleared if len(cleared) >= ENOUGH_SITES else []
    normal = NORMAL.rows(layout.normal)[:0 if settings.sources == "removed" else None]
    painter = cache(partial(load_painter, layout.foundation, device))
    with bar("remove lesions") as report:
        attempts = remove_lesions(lesions_to_remove(cases, settings, len(normal)), settings, inspector, painter, report)
    settled = {removal.case: removal for removal in attempts}  # the last attempt at each case
    with replacing(layout.backgrounds) as folder, replacing(layout.inspector) as model:
        table = _write(folder, layout.normal, normal, [*removed_lesions(cases, settled), *sites], classes)
        counts = count_backgrounds(table["source"], settled, len(unlabelled), len(cleared))
        for name, sheet in make_sheets(cases, settled, sites).items():
            sheet.save(folder / name)
        if attempts:
            REMOVALS.write(folder, (RemovalRow(a.case, a.method, a.before, a.after, a.reason) for a in attempts))
        inspector.save(model)
    tell("backgrounds", tell_backgrounds(counts))
    tracker.metrics(counts | {"inspector_loss": float(np.mean(inspector.losses[-50:])), "seconds_training": searched - begun,
                              "seconds": time.monotonic() - searched})
    tracker.dataset(table, "backgrounds", "backgrounds")
    for path in sorted({*layout.backgrounds.glob("*.*")} - {layout.backgrounds / BACKGROUNDS.name}):
        tracker.file(path, "pictures" if path.suffix == ".png" else "")


def _write(folder: Path, source: Path, normal: list[NormalRow], cleared: list[Cleared], classes: int) -> pd.DataFrame:
    """Write the images, the masks of the sites, and the table."""
    (folder / "images").mkdir()
    for row in normal:
        shutil.copyfile(source / "images" / f"{row.id}.png", folder / "images" / f"{row.id}.png")
    rows = [BackgroundRow(row.id, row.source, row.group, "", row.sha256) for row in normal]
    for made in cleared:
        write_image(file := folder / "images" / f"{made.id}.png", made.image)
        if made.kind == "site":
            write_mask(folder / "sites" / file.name, np.asarray(made.case.mask), classes)
        rows.append(BackgroundRow(made.id, f"{made.kind}:{made.case.id}", made.case.group, made.method, sha256(file)))
    return BACKGROUNDS.write(folder, rows)
