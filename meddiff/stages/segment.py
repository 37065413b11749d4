"""Stage `segment`: one segmenter for each arm and seed, trained alike but for what the arm is about."""

import math
import shutil
import time
from functools import partial
from pathlib import Path

import pandas as pd

from meddiff.cases import digest
from meddiff.environment import use_machine
from meddiff.finished import code, finish, forget, key
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import KINDS, nothing
from meddiff.outputs.rows import DroppedRow, ValidationRow
from meddiff.outputs.tables import DROPPED, VALIDATION, read_losses, write_losses
from meddiff.params import Params
from meddiff.params.arms import arm_of
from meddiff.progress import bar, tell
from meddiff.segmentation.augmentation import AUGMENTATIONS
from meddiff.segmentation.pools import Pool, Pools
from meddiff.segmentation.segmenter import train_segmenter
from meddiff.services.tracking import StageRun

_TOLD = 50  # points of a loss curve


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train every arm with every seed into `models/segmenters/ARM/SEED/`, and write `validation.csv` and `dropped.csv`.

    A finished segmenter is kept in `.work/`: a killed run goes on, and a new filter setting doesn't train the real arm again.

    Raises:
        MeddiffError: the prepared cases or the backgrounds are missing, or an arm has no pairs (see `segment.empty_arms`).
    """
    params = use_machine(params)
    device, settings, classes = params.compute.device, params.segment, len(params.prepare.classes)
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    tracker.dataset(pd.DataFrame({"id": [c.id for c in real], "group": [c.group for c in real]}), "train", "training")
    weights = Path(settings.encoder_weights).expanduser() if settings.encoder_weights else ""
    common = (code("segmentation.segmenter"), device, params.compute.threads, classes, weights, digest(real), digest(validation))
    pools = Pools(real, settings, lambda kind: KINDS[kind](layout),
                  lambda kind, arm: nothing(layout, kind, f"the {arm} arm", "Leave the arm out"))
    tell("segment", (f"the arm {arm} is left out: {reason}" for arm, reason in pools.dropped.items()))

    def train(arm: str, seed: int, pool: Pool, checkpoint: Path, folder: Path) -> None:
        begun, augment = time.monotonic(), AUGMENTATIONS[arm_of(arm).augmentation]
        with bar(f"segment {arm} seed {seed}") as report:
            net = train_segmenter(real, pool.pairs, pool.settings, seed, validation, device, checkpoint, report, classes, augment)
        net.save(folder)
        write_losses(folder, net.losses)
        VALIDATION.write(folder, [ValidationRow(arm, seed, net.validation_dice, settings.steps, time.monotonic() - begun,
                                                len(real), len(pool.pairs), pool.wanted)])

    work, kept, rows = layout.work / "segment", list[Path](), list[pd.DataFrame]()
    for arm, seed in ((arm, seed) for arm in settings.arms if arm not in pools.dropped for seed in settings.seeds):
        pool = pools.of(arm, seed)
        if not pool.pairs and pool.wanted:
            tell("segment", [f"there is no pair for the arm {arm}: it is trained on the real cases alone"])
        name = key(*common, pool.settings, arm_of(arm).augmentation, seed, digest(pool.pairs))  # arms of equal pairs share it
        kept.append(finish(work / name, partial(train, arm, seed, pool, work / f"{name}.safetensors")))
        rows.append(VALIDATION.read(kept[-1]).assign(arm=arm, n_wanted=pool.wanted))
        _record(tracker, kept[-1], arm, seed)
    with replacing(layout.segmenters) as fresh:
        table = VALIDATION.write(fresh, pd.concat(rows, ignore_index=True))
        DROPPED.write(fresh, (DroppedRow(arm, reason) for arm, reason in pools.dropped.items()))
        for folder, arm, seed in zip(kept, table["arm"], table["seed"], strict=True):
            shutil.copytree(folder, fresh / arm / str(seed), ignore=shutil.ignore_patterns("*.csv"))
    forget(work, kept)
    tracker.file(layout.segmenters / VALIDATION.name)
    tracker.headline({f"val_dice_{arm}": float(dice) for arm, dice in table.groupby("arm")["dice"].mean().dropna().items()})


def _record(tracker: StageRun, folder: Path, arm: str, seed: int) -> None:
    losses, dice = read_losses(folder), VALIDATION.read(folder)["dice"].dropna()
    for step in range(0, len(losses), math.ceil(len(losses) / _TOLD)):
        tracker.metrics({f"loss_{arm}_{seed}": float(losses[step])}, step + 1)
    tracker.metrics({f"val_dice_{arm}_{seed}": float(score) for score in dice})
