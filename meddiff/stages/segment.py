"""Stage `segment`: one segmenter for each arm and seed, trained alike but for the cases that fill a share of each batch."""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from inspect import getsource
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff import augmentation, metrics, segmentation, training
from meddiff.cases import Case, read_accepted, read_cases, read_unfiltered
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.params import Params, SegmentParams
from meddiff.progress import bar
from meddiff.segmentation import Segmenter, train_segmenter
from meddiff.stages import use_machine, work_key
from meddiff.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train every arm with every seed into `models/segmenters/ARM/SEED/`, and write `validation.csv`.

    A finished segmenter is kept in `.work/` under a name made from its inputs and the code that trains it: a run that was
    killed goes on from there, and a new filter setting doesn't train the real arm again.

    Raises:
        MeddiffError: the prepared cases are missing, or a synthetic arm finds no accepted pair.
    """
    device, settings, classes = use_machine(params.compute), params.segment, len(params.prepare.classes)
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    tracker.dataset(pd.DataFrame({"id": [c.id for c in real], "group": [c.group for c in real]}), "train", "training")
    code = [getsource(module) for module in (augmentation, metrics, segmentation, training)]
    used, rows = [], []
    for arm, synthetic in _pairs(layout, settings).items():
        pool = min(len(synthetic), max(1, round(settings.ratio * len(real))))
        for seed in settings.seeds:
            name = work_key(_relevant(settings, arm), str(seed), f"{device} {params.compute.threads} {classes}", *code,
                            *(_digest(cases) for cases in (real, synthetic, validation)))
            folder = layout.work / "segment" / name
            begun = time.monotonic()
            if not folder.is_dir():
                with bar(f"segment {arm} seed {seed}") as report:
                    segmenter = train_segmenter(real, synthetic, settings, seed, validation, device,
                                                layout.work / "segment" / f"{name}.safetensors", report,
                                                classes)
                _keep(folder, segmenter, {"arm": arm, "seed": seed, "dice": segmenter.validation_dice, "steps": settings.steps,
                                          "seconds": time.monotonic() - begun, "n_real": len(real), "n_synthetic": pool})
            used.append(folder)
            rows.append(pd.read_csv(folder / "validation.csv").assign(arm=arm))  # arms of equal pairs share a segmenter
            _record(tracker, folder, arm, seed)
    table = pd.concat(rows, ignore_index=True)
    with replacing(layout.segmenters) as fresh:
        for folder, arm, seed in zip(used, table["arm"], table["seed"], strict=True):
            shutil.copytree(folder, fresh / arm / str(seed), ignore=shutil.ignore_patterns("*.csv"))
        table.to_csv(fresh / "validation.csv", index=False)
    _forget(layout.work / "segment", used)
    tracker.file(layout.segmenters / "validation.csv")
    tracker.headline({f"val_dice_{arm}": float(dice) for arm, dice in table.groupby("arm")["dice"].mean().dropna().items()})


def _pairs(layout: Layout, settings: SegmentParams) -> dict[str, list[Case]]:
    """The synthetic pairs of each arm, as many in each: those of `unfiltered` are drawn by chance from all samples."""
    where = layout.synthetic, layout.filtered
    read: dict[str, Callable[[], list[Case]]] = {
        "real": list, "synthetic": lambda: read_accepted(*where), "uncorroded": lambda: read_accepted(*where, corroded=False),
        "unfiltered": lambda: read_unfiltered(*where)}
    pairs: dict[str, list[Case]] = {arm: read[arm]() for arm in settings.arms}
    for arm, found in pairs.items():
        if arm != "real" and not found:
            raise MeddiffError(layout.filtered / "decisions.parquet", f"the {arm} arm needs at least one accepted pair, "
                               "the filter left none",
                               "Look at reports/quality, then train the generator longer or widen the filter's bounds")
    return pairs


def _relevant(settings: SegmentParams, arm: str) -> SegmentParams:
    """The settings without those that don't touch this segmenter, so that changing them doesn't train it again."""
    unused = {"arms": (), "seeds": ()} | ({"ratio": 1.0, "share": 0.0} if arm == "real" else {})
    return settings.model_copy(update=unused)


def _digest(cases: Sequence[Case]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.id.encode() + case.image.tobytes() + (b"" if case.mask is None else case.mask.tobytes()))
    return digest.hexdigest()


def _keep(folder: Path, segmenter: Segmenter, row: dict[str, str | float]) -> None:
    with replacing(folder) as fresh:
        segmenter.save(fresh)
        pd.DataFrame([row]).to_csv(fresh / "validation.csv", index=False)
        losses = pd.DataFrame({"step": np.arange(len(segmenter.losses)) + 1, "loss": segmenter.losses})
        losses.to_csv(fresh / "loss.csv", index=False)


def _record(tracker: StageRun, folder: Path, arm: str, seed: int) -> None:
    losses = pd.read_csv(folder / "loss.csv")
    for _, point in losses.iloc[::-(-len(losses) // 50)].iterrows():
        tracker.metrics({f"loss_{arm}_{seed}": float(point["loss"])}, int(point["step"]))
    dice = float(pd.read_csv(folder / "validation.csv")["dice"].iloc[0])
    if np.isfinite(dice):
        tracker.metrics({f"val_dice_{arm}_{seed}": dice})


def _forget(work: Path, used: Sequence[Path]) -> None:
    """Remove the resume state of other inputs, which would grow without end."""
    for path in work.iterdir():
        if path not in used:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
