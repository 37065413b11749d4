"""Segmenters of an arm and a seed: the units of the stage `segment`, each kept under the hash of all that it depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from meddiff.cases import Case, digest
from meddiff.environment import use_machine
from meddiff.finished import code, finish, key
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import KINDS, nothing
from meddiff.outputs.rows import ValidationRow
from meddiff.outputs.tables import VALIDATION, VALIDATION_CASES, write_losses
from meddiff.params import Params
from meddiff.params.arms import arm_of
from meddiff.progress import Report, tell
from meddiff.segmentation.augmentation import AUGMENTATIONS
from meddiff.segmentation.pools import Pools
from meddiff.segmentation.scoring import validate_cases
from meddiff.segmentation.segmenter import train_segmenter
from meddiff.training import side_by_side

Finished = tuple[str, int, Path, pd.DataFrame]  # arm, seed, folder, and its row of `VALIDATION`


@dataclass(frozen=True, eq=False)
class Arms:
    """What all segmenters of a stage share: settings, annotated cases, what each arm adds, and the folder of finished ones."""

    params: Params
    real: list[Case]
    validation: list[Case]
    pools: Pools
    work: Path

    @classmethod
    def load(cls, layout: Layout, params: Params) -> "Arms":
        """Raises a MeddiffError where prepared cases or backgrounds are missing, or an arm has no pairs."""
        params, real = use_machine(params), read_cases(layout.cases("train"))
        pools = Pools(real, params.segment, lambda kind: KINDS[kind](layout), partial(nothing, layout))
        return cls(params, real, read_cases(layout.cases("val")), pools, layout.work / "segment")

    def train(self, units: Sequence[tuple[str, int]], receive: Callable[[Finished], None]) -> None:
        """Train those of these arms and seeds that aren't finished, side by side."""
        weights = folder if (folder := Path(self.params.segment.encoder).expanduser()).is_dir() else ""
        common = (code("segmentation.scoring"), self.params.compute.device, len(self.params.prepare.classes), weights,
                  digest(self.real), digest(self.validation))
        side_by_side({f"segment {arm} seed {seed}": partial(self._train, arm, seed, common, receive) for arm, seed in units},
                     self.params.compute.device)

    def _train(self, arm: str, seed: int, common: tuple[Any, ...],
               receive: Callable[[Finished], None], report: Report) -> None:
        pool, changes = self.pools.of(arm, seed), AUGMENTATIONS[arm_of(arm).augmentation]
        if not pool.pairs and pool.wanted:
            tell("segment", [f"there is no pair for the arm {arm}: it is trained on the real cases alone"])
        name = key(*common, pool.settings, arm_of(arm).augmentation, seed, digest(pool.pairs))

        def make(folder: Path) -> None:
            nets = [train_segmenter(self.real, pool.pairs, pool.settings, seed, self.validation, self.params.compute.device,
                                    self.work / f"{name}.{i}.safetensors", report, len(self.params.prepare.classes), augment)
                    for i, augment in enumerate(changes)]
            net = max(nets, key=lambda net: net.validation_dice)
            net.save(folder)
            VALIDATION_CASES.write(folder, validate_cases(net, self.validation, arm, seed))
            write_losses(folder, net.losses)
            VALIDATION.write(folder, [ValidationRow(arm, seed, net.validation_dice, self.params.segment.steps, len(self.real),
                                                    len(pool.pairs), pool.wanted)])

        self.work.mkdir(parents=True, exist_ok=True)
        with FileLock(self.work / f"{name}.lock"):  # arms of equal pairs share it
            folder = finish(self.work / name, make)
        receive((arm, seed, folder, VALIDATION.read(folder).assign(arm=arm, n_wanted=pool.wanted)))
