"""Stage `segment`: one segmenter for each arm and seed, trained alike but for what the arm is about."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from threading import Lock

import pandas as pd

from meddiff.cases import digest
from meddiff.environment import use_machine
from meddiff.finished import code, finish, forget, key
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import KINDS, nothing
from meddiff.outputs.rows import DroppedRow, ValidationRow
from meddiff.outputs.tables import DROPPED, VALIDATION, VALIDATION_CASES, loss_points, write_losses
from meddiff.outputs.trained import gather_segmenters
from meddiff.params import Params
from meddiff.params.arms import arm_of
from meddiff.progress import Report, tell
from meddiff.segmentation.augmentation import AUGMENTATIONS
from meddiff.segmentation.ensemble import Recipe
from meddiff.segmentation.pools import Pools
from meddiff.segmentation.scoring import validate_cases
from meddiff.segmentation.segmenter import train_segmenter
from meddiff.services.tracking import StageRun
from meddiff.training import side_by_side


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train every arm with every seed into `models/segmenters/ARM/SEED/`, and write tables of them (`outputs.tables`).

    A finished segmenter is kept in `.work/`: a killed run goes on, and a new filter setting doesn't train the real arm again.
    Raises a MeddiffError where prepared cases or backgrounds are missing, or an arm has no pairs (see `segment.empty_arms`).
    """
    params = use_machine(params)
    device, settings, prepared, classes = params.compute.device, params.segment, params.prepare, len(params.prepare.classes)
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    tracker.dataset(pd.DataFrame({"id": [c.id for c in real], "group": [c.group for c in real]}), "train", "training")
    weights = folder if (folder := Path(settings.encoder).expanduser()).is_dir() else ""
    common = code("segmentation.scoring"), device, classes, weights, digest(real), digest(validation)
    pools = Pools(real, settings, lambda kind: KINDS[kind](layout), partial(nothing, layout))
    tell("segment", (f"the arm {arm} is left out: {reason}" for arm, reason in pools.dropped.items()))
    work, recording, locks = layout.work / "segment", Lock(), defaultdict[str, Lock](Lock)

    def train(arm: str, seed: int, report: Report) -> tuple[Path, pd.DataFrame]:
        pool, augment = pools.of(arm, seed), AUGMENTATIONS[arm_of(arm).augmentation]
        if not pool.pairs and pool.wanted:
            tell("segment", [f"there is no pair for the arm {arm}: it is trained on the real cases alone"])
        name = key(*common, pool.settings, arm_of(arm).augmentation, seed, digest(pool.pairs))
        def make(folder: Path) -> None:
            checkpoint = work / f"{name}.safetensors"
            net = train_segmenter(real, pool.pairs, pool.settings, seed, validation, device, checkpoint, report, classes, augment)
            net.save(folder)
            VALIDATION_CASES.write(folder, validate_cases(net, validation, arm, seed))
            write_losses(folder, net.losses)
            row = ValidationRow(arm, seed, net.validation_dice, settings.steps, len(real), len(pool.pairs), pool.wanted)
            VALIDATION.write(folder, [row])

        with locks[name]:  # arms of equal pairs share it
            folder = finish(work / name, make)
        row = VALIDATION.read(folder).assign(arm=arm, n_wanted=pool.wanted)
        with recording:
            for step, loss in loss_points(folder).items():
                tracker.metrics({f"loss_{arm}_{seed}": loss}, step)
            tracker.metrics({f"val_dice_{arm}_{seed}": dice for dice in row["dice"].dropna()})
        return folder, row

    each = [(arm, seed) for arm in settings.arms if arm not in pools.dropped for seed in settings.seeds]
    made = side_by_side({f"segment {arm} seed {seed}": partial(train, arm, seed) for arm, seed in each}, device)
    with replacing(layout.segmenters) as fresh:
        gather_segmenters(dict(zip(each, (folder for folder, _ in made), strict=True)), fresh)
        for arm in dict(each):
            Recipe.of(arm, len(real[0].image), prepared, settings).write(fresh / arm)
        table = VALIDATION.write(fresh, pd.concat([row for _, row in made], ignore_index=True))
        DROPPED.write(fresh, (DroppedRow(arm, reason) for arm, reason in pools.dropped.items()))
    forget(work, [folder for folder, _ in made])
    tracker.file(layout.segmenters / VALIDATION.name)
    tracker.headline({f"val_dice_{arm}": float(dice) for arm, dice in table.groupby("arm")["dice"].mean().dropna().items()})
