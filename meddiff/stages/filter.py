"""Stage `filter`: which synthetic samples are accepted, which batches are quarantined, and the corroded masks."""

import hashlib
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from meddiff.cases import Case, Pixels, read_cases, read_image, read_mask, write_mask
from meddiff.checks import BatchVerdict, check_batches
from meddiff.corrosion import corrode
from meddiff.errors import MeddiffError
from meddiff.filtering import REASONS, Scores, decide, reduced, score
from meddiff.layout import Layout, replacing
from meddiff.lesions import RealLesions, measure_real
from meddiff.params import FilterParams, Params, SegmentParams
from meddiff.progress import bar
from meddiff.quality import Tile, choose, render
from meddiff.records import DECISION_COLUMNS, read_samples
from meddiff.segmentation import Segmenter, train_segmenter
from meddiff.stages import use_machine, work_key
from meddiff.tracking import StageRun


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one batch as read from its files.

    Attributes:
        images: `[N, S, S, 3]` uint8 RGB, resampled where a file has another size than S, which the checks then tell.
        masks: `[N, S, S]` uint8 of 0 and 1, likewise.
        facts: one row a sample on its files, for the checks.
    """

    images: Pixels
    masks: Pixels
    facts: pd.DataFrame


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score, decide, check and corrode; write `filtered/` and `reports/quality/`.

    Raises:
        MeddiffError: a batch, one of its files, or the training cases are missing.
    """
    settings, device, begun = params.filter, use_machine(params.compute), time.monotonic()
    cases, samples = read_cases(layout.cases("train")), _samples(layout.synthetic)
    real, segmenter = measure_real(cases), _segmenter(layout, cases, settings, device)
    trained = time.monotonic()
    size = cases[0].image.shape[0]
    facts, scores = _measure(layout.synthetic, samples, real, segmenter, size)
    table = facts.join(scores.table).assign(rule=decide(scores, real, settings))
    table["accepted"] = (table["rule"] == "").astype(int)
    with replacing(layout.filtered) as filtered, replacing(layout.quality) as quality:
        batches = {str(batch): rows for batch, rows in table.groupby("batch")}
        verdicts = check_batches(batches, settings, size, quality / "data_docs")
        decisions = _decisions(table, verdicts)
        _write(filtered, decisions, verdicts, layout.synthetic, settings)
        tiles = _tiles(decisions, filtered, layout.synthetic, cases)
        page = render(verdicts, decisions, settings, tiles, "data_docs/index.html")
        (quality / "index.html").write_text(page, encoding="utf-8")
    seconds = time.monotonic() - trained
    _record(tracker, table, decisions, settings, real)
    tracker.metrics({"seconds_training": trained - begun, "seconds": seconds, "samples_per_second": len(decisions) / seconds})
    tracker.file(layout.quality / "index.html")
    if not (decisions["verdict"] == "accepted").any():
        shown = layout.quality / "index.html"
        print(f"filter: none of {len(decisions)} samples was accepted; {shown} shows why", file=sys.stderr)


def _samples(synthetic: Path) -> pd.DataFrame:
    for folder in sorted(synthetic.iterdir()) if synthetic.is_dir() else []:
        if folder.is_dir() and not (folder / "batch.parquet").is_file():
            raise MeddiffError(folder, "a batch needs its table batch.parquet", "Run `dvc repro generate`")
    return read_samples(synthetic)


def _segmenter(layout: Layout, cases: list[Case], settings: FilterParams, device: str) -> Segmenter:
    """Train the independent segmenter on the real cases, or load the one kept in `.work/`: new bounds don't train it again."""
    wanted = SegmentParams(steps=settings.segmenter_steps)
    work = layout.work / "filter" / work_key(wanted, layout.cases("train"), f"{settings.seed} {device}")
    if not work.is_dir():
        checkpoint = work.with_suffix(".safetensors")
        with bar("independent segmenter") as report, replacing(work) as fresh:
            train_segmenter(reduced(cases), [], wanted, settings.seed, device=device, checkpoint=checkpoint,
                            report=report).save(fresh)
        for other in work.parent.iterdir():  # states of other inputs would grow without end
            if other != work:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    return Segmenter.load(work, device)


def _measure(synthetic: Path, samples: pd.DataFrame, real: RealLesions, segmenter: Segmenter,
             size: int) -> tuple[pd.DataFrame, Scores]:
    """Facts and scores of all samples, batch by batch, in the order of ids."""
    facts, scores, done = [], [], 0
    with bar("filter") as report:
        for batch, rows in samples.groupby("batch"):
            read = _read(synthetic / str(batch), rows["id"].tolist(), size)
            scores.append(score(read.images, read.masks, real, segmenter))
            facts.append(read.facts.assign(batch=batch))
            done += len(rows)
            report(done, len(samples), {})
    table, order = pd.concat(facts, ignore_index=True), np.argsort([id for part in facts for id in part["id"]], kind="stable")
    measured = pd.concat([part.table for part in scores], ignore_index=True)
    identity = np.concatenate([part.identity for part in scores])
    return table.iloc[order].reset_index(drop=True), Scores(measured.iloc[order].reset_index(drop=True), identity[order])


def _read(folder: Path, ids: list[str], size: int) -> Batch:
    images, masks, facts = [], [], []
    for id in ids:
        path = folder / "images" / f"{id}.png"
        image, mask = read_image(path), read_mask(folder / "masks" / f"{id}.png")
        with Image.open(path) as header:
            mode = header.mode
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
        facts.append({"id": id, "image_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "mode": mode,
                      "width": width, "height": height, "mask_width": mask_width, "mask_height": mask_height,
                      "image_range": int(image.max()) - int(image.min()), "components": ndimage.label(mask, np.ones((3, 3)))[1]})
        images.append(_fitted(image, size))
        masks.append(_fitted(mask, size))
    return Batch(np.stack(images), np.stack(masks), pd.DataFrame(facts))


def _fitted(pixels: Pixels, size: int) -> Pixels:
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)


def _decisions(table: pd.DataFrame, verdicts: tuple[BatchVerdict, ...]) -> pd.DataFrame:
    """The verdicts on samples under those on batches: a quarantined sample's reason names the batch's failures, then its own."""
    failures = {verdict.batch: f"batch: {', '.join(verdict.failures)}" for verdict in verdicts if not verdict.passed}
    failed = table["batch"].map(failures).astype("str")
    verdict = np.where(failed.notna(), "quarantined", np.where(table["accepted"] == 1, "accepted", "rejected"))
    both = failed + table["rule"].map(lambda rule: f"; {rule}" if rule else "")
    return table.assign(verdict=verdict, reason=both.fillna(table["rule"]))[list(DECISION_COLUMNS)]


def _write(folder: Path, decisions: pd.DataFrame, verdicts: tuple[BatchVerdict, ...], synthetic: Path,
           settings: FilterParams) -> None:
    (folder / "masks").mkdir()
    for row in decisions[decisions["verdict"] == "accepted"].itertuples():
        mask = read_mask(synthetic / row.batch / "masks" / f"{row.id}.png")
        write_mask(folder / "masks" / f"{row.id}.png", corrode(mask, settings.corrosion_radius * len(mask) / 128))
    decisions.to_parquet(folder / "decisions.parquet", index=False)
    batches = {v.batch: {"passed": v.passed, "reasons": [f"{f.rule}: {f.observed}" for f in v.findings if not f.passed],
                         "statistics": dict(v.statistics), "expectations": [asdict(f) for f in v.findings]} for v in verdicts}
    (folder / "batches.json").write_text(json.dumps(batches, indent=1) + "\n")


def _tiles(decisions: pd.DataFrame, filtered: Path, synthetic: Path, cases: list[Case]) -> list[Tile]:
    real, rows = {case.id: case for case in cases}, decisions.set_index("id")
    tiles = []
    for id in choose(decisions):
        row, folder = rows.loc[id], synthetic / rows.loc[id, "batch"]
        accepted = row["verdict"] == "accepted"
        tiles.append(Tile(id, read_image(folder / "images" / f"{id}.png"), read_mask(folder / "masks" / f"{id}.png"),
                          read_mask(filtered / "masks" / f"{id}.png") if accepted else None,
                          real[row["nearest"]] if row["reason"] == "copy" else None))
    return tiles


def _record(tracker: StageRun, table: pd.DataFrame, decisions: pd.DataFrame, settings: FilterParams, real: RealLesions) -> None:
    """Shares by rule count the samples of quarantined batches too: a generator that copies must not hide behind a bad batch."""
    quarantined = decisions["verdict"] == "quarantined"
    tracker.headline({"acceptance": float((decisions["verdict"] == "accepted").mean()),
                      "copies": float((table["rule"] == "copy").mean())})
    tracker.metrics({f"share_{reason}": float((table["rule"] == reason).mean()) for reason in REASONS})
    tracker.metrics({"share_quarantined": float(quarantined.mean()),
                     "batches_quarantined": float(decisions.loc[quarantined, "batch"].nunique()),
                     "bound_similarity_low": settings.similarity_low, "bound_similarity_high": settings.similarity_high,
                     "bound_agreement": settings.agreement, "bound_contrast": settings.min_contrast,
                     "real_implausible": float((real.own < settings.similarity_low).mean()),
                     "real_copies": float((real.own > settings.similarity_high).mean())})
    tracker.dataset(decisions, "decisions", "filtered")
