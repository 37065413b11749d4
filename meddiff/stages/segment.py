"""Stage `segment`: one segmenter for each arm and seed, trained alike but for what the arm is about."""

import shutil
import sys
import time
from collections.abc import Sequence
from functools import cache
from inspect import getsource
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff import training
from meddiff.cases import Case, digest, read_cases, read_image, read_mask, sha256
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.outputs.pairs import KINDS, most, nothing
from meddiff.params import Params, SegmentParams
from meddiff.params.arms import Arm, arm_of
from meddiff.progress import bar
from meddiff.segmentation import augmentation, metrics, networks
from meddiff.segmentation import segmenter as segmentation
from meddiff.segmentation.augmentation import AUGMENTATIONS
from meddiff.segmentation.copy_paste import copy_paste
from meddiff.segmentation.segmenter import Segmenter, chosen, train_segmenter
from meddiff.services.tracking import StageRun
from meddiff.stages import use_machine, work_key


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train every arm with every seed into `models/segmenters/ARM/SEED/`, and write `validation.csv` and `dropped.csv`.

    A finished segmenter is kept in `.work/` under a name made from its inputs and the code that trains it: a run that was
    killed goes on from there, and a new filter setting doesn't train the real arm again.

    Raises:
        MeddiffError: the prepared cases or the backgrounds are missing, or an arm has no pairs (see `segment.empty_arms`).
    """
    params = use_machine(params)
    device, settings, classes = params.compute.device, params.segment, len(params.prepare.classes)
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    tracker.dataset(pd.DataFrame({"id": [c.id for c in real], "group": [c.group for c in real]}), "train", "training")
    code = [getsource(module) for module in (augmentation, metrics, networks, segmentation, training)]
    if (weights := Path(settings.encoder_weights).expanduser()).is_file():
        code.append(sha256(weights))
    code += [digest(real), digest(validation)]
    pairs_of = _Pairs(layout, settings, real)
    used, rows = [], []
    for arm, seed in ((arm, seed) for arm in settings.arms if arm not in pairs_of.dropped for seed in settings.seeds):
        row = arm_of(arm)
        augmentation_of = AUGMENTATIONS[row.augmentation]
        pools, wanted = pairs_of(row, seed), pairs_of.wanted(row)
        pairs = [pair for pool in pools for pair in pool]
        own = _relevant(settings, row, len(pairs) / max(1, len(real)), len(pools))
        if not pairs and wanted:
            print(f"segment: there is no pair for the arm {arm}: it is trained on the real cases alone", file=sys.stderr)
        name = work_key(own, augmentation_of.__name__, str(seed), f"{device} {params.compute.threads} {classes}", *code,
                        digest(pairs))
        folder = layout.work / "segment" / name
        begun = time.monotonic()
        if not folder.is_dir():
            with bar(f"segment {arm} seed {seed}") as report:
                segmenter = train_segmenter(real, pairs, own, seed, validation, device,
                                            layout.work / "segment" / f"{name}.safetensors", report, classes, augmentation_of)
            _keep(folder, segmenter, {"arm": arm, "seed": seed, "dice": segmenter.validation_dice, "steps": settings.steps,
                                      "seconds": time.monotonic() - begun, "n_real": len(real), "n_synthetic": len(pairs)})
        used.append(folder)
        # Arms of equal pairs share a segmenter.
        rows.append(pd.read_csv(folder / "validation.csv").assign(arm=arm, n_wanted=wanted))
        _record(tracker, folder, arm, seed)
    table = pd.concat(rows, ignore_index=True)
    with replacing(layout.segmenters) as fresh:
        for folder, arm, seed in zip(used, table["arm"], table["seed"], strict=True):
            shutil.copytree(folder, fresh / arm / str(seed), ignore=shutil.ignore_patterns("*.csv"))
        table.to_csv(fresh / "validation.csv", index=False)
        pd.DataFrame(pairs_of.dropped.items(), columns=["arm", "reason"]).to_csv(fresh / "dropped.csv", index=False)
    _forget(layout.work / "segment", used)
    tracker.file(layout.segmenters / "validation.csv")
    tracker.headline({f"val_dice_{arm}": float(dice) for arm, dice in table.groupby("arm")["dice"].mean().dropna().items()})


class _Pairs:
    """What an arm adds to the real cases, by arm and seed. Arms that filter otherwise have as many pairs as `synthetic`.

    Attributes:
        dropped: arm -> why it can't be trained; empty unless `empty_arms` is `real`.
    """

    def __init__(self, layout: Layout, settings: SegmentParams, real: Sequence[Case]) -> None:
        """What the arms need is looked for at once, so that nothing is trained before something is found missing."""
        self.layout, self.settings, self.real, self.dropped = layout, settings, real, dict[str, str]()
        self.listed, self.pasted = cache(lambda kind: KINDS[kind](layout)), cache(self._paste)
        for arm in settings.arms:
            if error := self._impossible(arm_of(arm)):
                if settings.empty_arms == "refuse" or len(self.dropped) + 1 == len(settings.arms):
                    raise error
                self.dropped[arm] = " ".join(str(error).split())
                print(f"segment: the arm {arm} is left out: {error}", file=sys.stderr)

    def wanted(self, arm: Arm) -> int:
        """Pairs that the arm would use if there were enough of each kind."""
        return (len(arm.adds) + bool(arm.pasted_on)) * self._of_a_kind(arm)

    def __call__(self, arm: Arm, seed: int) -> list[list[Case]]:
        """The pairs, a list for each kind of which there is any."""
        pools = [[pair.read() for pair in chosen(self.listed(kind), self._of_a_kind(arm), seed)] for kind in arm.adds]
        return [pool for pool in (*pools, self.pasted(arm, seed) if arm.pasted_on else []) if pool]

    def _of_a_kind(self, arm: Arm) -> int:
        return most(arm, self.settings.ratio, len(self.real))

    def _paste(self, arm: Arm, seed: int) -> list[Case]:
        """As many as the synthetic arm has, and where the filter left none as many as it would take."""
        files, limit = self.listed(arm.pasted_on), self._of_a_kind(arm)
        images = [read_image(file.image) for file in files]
        sites = [read_mask(file.mask) for file in files if file.mask.is_file()]
        n = min(len(self.listed("accepted")) or limit, limit)
        return copy_paste(self.real, images, n, seed, self.settings.vertical_flips, sites)

    def _impossible(self, arm: Arm) -> MeddiffError | None:
        """Why the arm can't be trained; an arm that has no pair, but real cases, may be the real arm."""
        if arm.pasted_on:
            self.listed(arm.pasted_on)  # a table that isn't there is no matter of this arm alone
            self.listed("accepted")
            try:
                for seed in self.settings.seeds:
                    self.pasted(arm, seed)
            except MeddiffError as e:
                return e
        if self.settings.empty_arms == "refuse" or not arm.real:
            empty = [kind for kind in arm.adds if not self.listed(kind)]
            return nothing(self.layout, empty[0], f"the {arm.name} arm", "Leave the arm out") if empty else None
        return None


def _relevant(settings: SegmentParams, arm: Arm, ratio: float, kinds: int) -> SegmentParams:
    """The arm's settings, without those that don't touch this segmenter, so that changing them doesn't train it again.

    Args:
        ratio: pairs that are used for each real case.
        kinds: of pairs. What `share` says of one kind against the real cases, each further one has as well.
    """
    added = kinds * settings.share
    share = 0.0 if not ratio else 1.0 if not arm.real else added / (1 - settings.share + added)
    return settings.model_copy(update={"arms": (), "seeds": (), "empty_arms": "refuse", "ratio": ratio, "share": share})


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
