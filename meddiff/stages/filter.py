"""Stage `filter`: which synthetic samples are accepted, which batches are quarantined, and the corroded masks."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage

from meddiff.cases import Case, Pixels, read_cases, read_image, read_mask, write_mask
from meddiff.errors import MeddiffError
from meddiff.filtering.checks import COMPONENTS, BatchVerdict, check_batches
from meddiff.filtering.corrosion import Corrosion, border_profiles, choose_corrosion, corrode, mean_profile
from meddiff.filtering.decisions import REASONS, Scores, decide, score
from meddiff.filtering.features import Extractor, load_extractor
from meddiff.filtering.fidelity import Fidelity, assess, describe
from meddiff.filtering.page import Tile, choose, quality_page
from meddiff.filtering.similarity import RealLesions, measure_real
from meddiff.layout import Layout, replacing
from meddiff.lesions.appearance import Scalars
from meddiff.lesions.seams import REAL_RIM, real_seams, seam
from meddiff.outputs.samples import DECISION_COLUMNS, read_samples
from meddiff.params import FilterParams, Params
from meddiff.progress import bar, told
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun
from meddiff.stages import use_machine


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one batch as read from its files.

    Attributes:
        images: `[N, S, S, 3]` uint8 RGB, resampled where a file has another size than S, which the checks then tell.
        masks: `[N, S, S]` uint8 of 0 to K, likewise.
        facts: one row a sample on its files, for the checks.
    """

    images: Pixels
    masks: Pixels
    facts: pd.DataFrame


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score, decide, check and corrode; write `filtered/` and `reports/quality/`.

    Raises:
        MeddiffError: a batch, one of its files, the training cases or the inspector are missing, or the extractor doesn't load.
    """
    params = use_machine(params)
    settings, device, begun = params.filter, params.compute.device, time.monotonic()
    cases, samples = read_cases(layout.cases("train")), _samples(layout.synthetic)
    inspector = _inspector(layout.inspector, device)
    extractor = load_extractor(settings.extractor, settings.extractor_revision, device, inspector)
    real, prepared = measure_real(cases, extractor), time.monotonic()
    size = cases[0].image.shape[0]
    facts, scores = _measure(layout.synthetic, samples, real, inspector, size)
    with bar("duplicates") as report:
        table = facts.join(scores.table).assign(rule=decide(scores, real, settings, report))
    measured = time.monotonic() - prepared
    table["accepted"] = (table["rule"] == "").astype(int)
    with replacing(layout.filtered) as filtered, replacing(layout.quality) as quality:
        batches = {str(batch): rows for batch, rows in table.groupby("batch")}
        verdicts = check_batches(batches, settings, size, quality / "data_docs", _components(cases))
        decisions = _decisions(table, verdicts)
        _write(filtered, decisions, verdicts)
        corrosion = _corrode(filtered, decisions, layout.synthetic, cases, settings)
        fidelity = _fidelity(filtered, decisions, layout, cases, size, extractor)
        found = fidelity.as_json() | {"corrosion": corrosion.numbers()}
        (filtered / "fidelity.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        tiles = _tiles(decisions, filtered, layout.synthetic, cases)
        page = quality_page(verdicts, decisions, settings, tiles, "data_docs/index.html", params.prepare.classes)
        (quality / "index.html").write_text(page, encoding="utf-8")
    _record(tracker, table, decisions, settings, real)
    tracker.metrics(fidelity.numbers() | {f"corrosion_{name}": value for name, value in corrosion.numbers().items()})
    tracker.metrics({"seconds": time.monotonic() - begun, "samples_per_second": len(decisions) / measured})
    tracker.file(layout.quality / "index.html")
    if not (decisions["verdict"] == "accepted").any():
        shown = layout.quality / "index.html"
        print(f"filter: none of {len(decisions)} samples was accepted; {shown} shows why", file=sys.stderr)


def _components(cases: list[Case]) -> int:
    """The greatest number of parts of a training mask, or what a mask of one lesion may have if that is more."""
    return max(COMPONENTS, *(int(ndimage.label(case.mask, np.ones((3, 3)))[1]) for case in cases if case.mask is not None))


def _samples(synthetic: Path) -> pd.DataFrame:
    for folder in sorted(synthetic.iterdir()) if synthetic.is_dir() else []:
        if folder.is_dir() and not (folder / "batch.parquet").is_file():
            raise MeddiffError(folder, "a batch needs its table batch.parquet", "Run `dvc repro generate`")
    return read_samples(synthetic)


def _inspector(folder: Path, device: str) -> Segmenter:
    if not folder.is_dir():
        raise MeddiffError(folder, "the independent segmenter must be there", "Run `dvc repro backgrounds`")
    return Segmenter.load(folder, device)


def _measure(synthetic: Path, samples: pd.DataFrame, real: RealLesions, inspector: Segmenter,
             size: int) -> tuple[pd.DataFrame, Scores]:
    """Facts and scores of all samples, batch by batch, in the order of ids."""
    facts, tables, identity = [], [], list[Scalars]()
    batches, threads = [(str(batch), rows["id"].tolist()) for batch, rows in samples.groupby("batch")], torch.get_num_threads()

    def work(batch: tuple[str, list[str]]) -> tuple[pd.DataFrame, Scores]:
        name, ids = batch
        read = _read(synthetic / name, ids, size)
        return read.facts.assign(batch=name), score(read.images, read.masks, real, inspector)

    # A batch a thread: small networks gain less from several threads of their own, and decoding gains nothing.
    with bar("filter") as report, ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as workers:
        for fact, scores in workers.map(work, batches):
            facts.append(fact)
            tables.append(scores.table)
            identity += scores.identity
            report(len(identity), len(samples), {})
    torch.set_num_threads(threads)
    table, order = pd.concat(facts, ignore_index=True), np.argsort([id for part in facts for id in part["id"]], kind="stable")
    measured = pd.concat(tables, ignore_index=True).iloc[order].reset_index(drop=True)
    return table.iloc[order].reset_index(drop=True), Scores(measured, [identity[i] for i in order])


def _read(folder: Path, ids: list[str], size: int) -> Batch:
    images, masks, facts = zip(*(_sample(folder, id, size) for id in ids), strict=True)
    return Batch(np.stack(images), np.stack(masks), pd.DataFrame(facts))


def _sample(folder: Path, id: str, size: int) -> tuple[Pixels, Pixels, dict[str, object]]:
    path = folder / "images" / f"{id}.png"
    image, mask = read_image(path), read_mask(folder / "masks" / f"{id}.png")
    with Image.open(path) as header:
        mode = header.mode
    (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
    facts = {"id": id, "image_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "mode": mode,
             "width": width, "height": height, "mask_width": mask_width, "mask_height": mask_height,
             "image_range": int(image.max()) - int(image.min()), "components": ndimage.label(mask, np.ones((3, 3)))[1]}
    return _fitted(image, size), _fitted(mask, size), facts


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


def _write(folder: Path, decisions: pd.DataFrame, verdicts: tuple[BatchVerdict, ...]) -> None:
    decisions.to_parquet(folder / "decisions.parquet", index=False)
    batches = {v.batch: {"passed": v.passed, "reasons": [f"{f.rule}: {f.observed}" for f in v.findings if not f.passed],
                         "statistics": dict(v.statistics), "expectations": [asdict(f) for f in v.findings]} for v in verdicts}
    (folder / "batches.json").write_text(json.dumps(batches, indent=1) + "\n")


def _corrode(folder: Path, decisions: pd.DataFrame, synthetic: Path, cases: list[Case], settings: FilterParams) -> Corrosion:
    """Write the accepted samples' masks, corroded, and `corrosion.csv`: the border profiles by which `auto` chooses."""
    accepted = decisions[decisions["verdict"] == "accepted"]
    places = [(row.id, synthetic / row.batch) for row in accepted.itertuples()]
    found = choose_corrosion(border_profiles((case.image, case.mask) for case in cases if case.mask is not None),
                             border_profiles(told("border profiles", len(places), (_pair(*place) for place in places))),
                             settings.seed)
    (folder / "masks").mkdir()

    def corroded() -> Iterator[tuple[Pixels, Pixels]]:
        for id, place in places:
            image, mask = _pair(id, place)
            kept = (corrode(mask, share=found.share) if settings.corrosion_radius == "auto"
                    else corrode(mask, settings.corrosion_radius * len(mask) / 128))
            write_mask(folder / "masks" / f"{id}.png", kept)
            yield image, kept

    profiles = border_profiles(told("corrosion", len(places), corroded()))
    found.profiles.assign(corroded=mean_profile(profiles)).to_csv(folder / "corrosion.csv", index=False, float_format="%.4f")
    return found


def _fidelity(folder: Path, decisions: pd.DataFrame, layout: Layout, cases: list[Case], size: int,
              extractor: Extractor) -> Fidelity:
    """The samples against the held-back validation cases, before and after the filter, and with the corroded masks."""
    held_back = read_cases(layout.cases("val"))
    training, reference = ([(case.image, case.mask) for case in part if case.mask is not None and case.mask.any()]
                           for part in (cases, held_back))
    lesions = decisions[decisions["area"] > 0]
    accepted = (lesions["verdict"] == "accepted").to_numpy()
    places = [(row.id, layout.synthetic / row.batch) for row in lesions.itertuples()]
    features = extractor.features
    steps = list[float]()

    def painted() -> Iterator[tuple[Pixels, Pixels]]:
        for id, place in places:
            image, mask = (_fitted(pixels, size) for pixels in _pair(id, place))
            steps.append(seam(image, mask, None, REAL_RIM))
            yield image, mask

    generated = describe(features, told("fidelity", len(places), painted()))
    kept = [place for place, good in zip(places, accepted, strict=True) if good]
    corroded = describe(features, told("fidelity, corroded", len(kept), (
        (read_image(place / "images" / f"{id}.png"), read_mask(folder / "masks" / f"{id}.png")) for id, place in kept)))
    sets = {"generated": generated, "accepted": generated.rows(accepted), "corroded": corroded}
    seen = np.array(steps)
    real = np.array(real_seams([image for image, _ in training], [mask for _, mask in training]))
    seams = {name: float(found[np.isfinite(found)].mean()) for name, found in
             {"training": real, "generated": seen, "accepted": seen[accepted]}.items() if np.isfinite(found).any()}
    return assess(describe(features, reference), describe(features, training, mirrored=True), sets, extractor.name, seams)


def _pair(id: str, place: Path) -> tuple[Pixels, Pixels]:
    """A sample's image and mask, of the batch at `place`."""
    return read_image(place / "images" / f"{id}.png"), read_mask(place / "masks" / f"{id}.png")


def _tiles(decisions: pd.DataFrame, filtered: Path, synthetic: Path, cases: list[Case]) -> list[Tile]:
    real, rows = {case.id: case for case in cases}, decisions.set_index("id")
    tiles = []
    for id in choose(decisions):
        row, folder = rows.loc[id], synthetic / rows.loc[id, "batch"]
        accepted = row["verdict"] == "accepted"
        tiles.append(Tile(id, *_pair(id, folder),
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
