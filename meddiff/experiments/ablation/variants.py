"""One variant of the method: the pipeline with changed settings in a work tree of its own, what it gave, and its pictures."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meddiff.cases import Pixels, read_image, read_mask, write_image
from meddiff.errors import MeddiffError
from meddiff.experiments.run import arm_dice, own_tree, run_chain
from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.params.overrides import Overrides
from meddiff.services import versioning

AFTER = ("evaluate",)  # stages whose state an outcome doesn't depend on
GAP = 3  # between pictures [pixels]
CLASSES = ((255, 255, 255), (255, 196, 0), (64, 224, 255), (255, 99, 132), (120, 220, 120), (190, 140, 255), (255, 150, 70))


@dataclass(frozen=True)
class VariantOutcome:
    """What the pipeline gave with one part switched.

    Attributes:
        dice: arm -> training seed -> mean validation Dice, 0 to 1; empty if nothing was accepted.
        samples, accepted: generated samples and those that passed the filter.
        numbers: what `filtered/fidelity.json` says, `group.name` -> number.
        shown: seed of a sample on the contact sheet -> `accepted`, or why not.
        ran: stages that ran; the others came from DVC's cache.
        seconds: wall time of what ran.
        state: hash of the code, settings and data that the outcome was made from.
    """

    dice: dict[str, dict[int, float]]
    samples: int
    accepted: int
    numbers: dict[str, float]
    shown: dict[int, str]
    ran: tuple[str, ...]
    seconds: float
    state: str

    @property
    def acceptance(self) -> float:
        return self.accepted / self.samples if self.samples else math.nan


def pipeline_variant(layout: Layout, shown: int, name: str, overrides: Overrides, env: Mapping[str, str],
                     tiles: Path) -> VariantOutcome:
    """Run the pipeline up to `segment` in a work tree that stays only when interrupted, and keep its first samples' pictures.

    Args:
        layout: the project.
        shown: number of samples, those of the least seeds, whose `SEED.png` is written into `tiles`.
        name: of the work tree.
        overrides: section -> name -> value.
        env: environment variables for the stages.
        tiles: an empty folder.

    Raises:
        MeddiffError: a stage failed.
    """
    begun = time.monotonic()
    with own_tree(layout, layout.work / "ablate/trees" / name, overrides) as tree:
        done = run_chain(tree, env)
        dice = arm_dice(tree.segmenters / "validation.csv") if done.accepted else {}
        verdicts = _write_tiles(tree, shown, tiles)
        lock = {stage: entry for stage, entry in versioning.lock(tree.root).items() if stage not in AFTER}
        state = hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()[:16]
        numbers = fidelity_numbers(tree.filtered / "fidelity.json")
    return VariantOutcome(dice, done.samples, done.accepted, numbers, verdicts, done.ran, time.monotonic() - begun, state)


def _write_tiles(tree: Layout, shown: int, tiles: Path) -> dict[int, str]:
    records = read_records(tree.synthetic, tree.filtered)
    table = records.samples.merge(records.decisions[["id", "verdict", "reason"]], on="id", how="left").sort_values("seed")
    verdicts: dict[int, str] = {}
    for sample in table.head(shown).itertuples():
        file = f"{sample.id}.png"
        final = tree.filtered / "masks" / file
        write_image(tiles / f"{sample.seed}.png", tile(
            read_image(tree.backgrounds / "images" / f"{sample.background}.png"),
            read_mask(tree.synthetic / sample.batch / "masks" / file), read_mask(final) if final.is_file() else None,
            read_image(tree.synthetic / sample.batch / "images" / file)))
        verdicts[int(sample.seed)] = "accepted" if sample.verdict == "accepted" else f"{sample.verdict}: {sample.reason}"
    return verdicts


def fidelity_numbers(path: Path) -> dict[str, float]:
    """All finite numbers of the filter's `fidelity.json`, `group.name` -> number; nothing where it isn't written.

    Raises:
        MeddiffError: the file doesn't decode.
    """
    try:
        return dict(_flat(json.loads(path.read_text()), "")) if path.is_file() else {}
    except ValueError as e:
        raise MeddiffError(path, f"the fidelity of the samples must decode ({e})", "Run `dvc repro filter`") from e


def _flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)


def tile(background: Pixels, mask: Pixels, final: Pixels | None, image: Pixels) -> Pixels:
    """Background, mask and painted image side by side.

    Args:
        background, image: `[H, W, 3]` uint8.
        mask: `[H, W]` of 0 and class indices, drawn in the class's colour.
        final: the same after corrosion; what it leaves off is drawn darker. None for the mask as it is.

    Returns:
        `[H, 3W + 2 gaps, 3]` uint8.
    """
    colours = np.array([(0, 0, 0), *CLASSES], np.uint8)
    drawn = colours[np.where(mask > 0, (mask.astype(int) - 1) % len(CLASSES) + 1, 0)]
    if final is not None:
        drawn[(mask > 0) & (final == 0)] //= 2
    gap = np.full((len(image), GAP, 3), 255, np.uint8)
    return np.concatenate([background, gap, drawn, gap, image], axis=1)
