"""The trained segmenter that leaves the house, and what its users must know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from meddiff import __version__
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.rows import ValidationRow
from meddiff.outputs.tables import VALIDATION
from meddiff.params import Params
from meddiff.segmentation.segmenter import Segmenter

FITS = {"pad": "scaled by antialiased bilinear interpolation to just fit into the square, in its middle, black around it",
        "squash": "stretched to the square by antialiased bilinear interpolation"}


@dataclass(frozen=True, eq=False)
class Trained:
    """A segmenter of a project.

    Attributes:
        row: its arm, seed, validation Dice and the numbers of its training.
        classes: names of the classes 1 to K.
        size: side of the square images that it has seen [pixels].
        fit: how images were made square: `pad` or `squash`.
    """

    segmenter: Segmenter
    row: ValidationRow
    classes: tuple[str, ...]
    size: int
    fit: str

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its probabilities are: the lesion alone, or background and each class."""
        return self.classes if len(self.classes) == 1 else ("background", *self.classes)

    @property
    def facts(self) -> dict[str, Any]:
        """All that is needed to rebuild and to use it, for JSON."""
        kind, arguments = self.segmenter.architecture.definition
        return {"meddiff": __version__, "arm": self.row.arm, "seed": self.row.seed, "n_real": self.row.n_real,
                "n_synthetic": self.row.n_synthetic, "monai": version("monai"),
                "monai_class": f"monai.networks.nets.{kind.__name__}", "monai_arguments": arguments,
                "own_encoder": bool(self.segmenter.architecture.encoder),
                "class_names": list(self.classes), "channels": list(self.channels), "image_size": self.size, "fit": self.fit,
                "fit_rule": FITS[self.fit], "normalisation": "RGB, levels 0 to 255 divided by 127.5, less 1: -1 to 1",
                "decision": "probability above 0.5" if len(self.classes) == 1 else "the most probable channel"}


def choose_segmenter(layout: Layout, params: Params, arm: str | None = None, seed: int | None = None) -> Trained:
    """Read a segmenter of `models/segmenters/ARM/SEED/`, chosen by `validation.csv` alone.

    Args:
        arm: None for the one of the best mean validation Dice.
        seed: of the training; None for the one of the best validation Dice.

    Raises:
        MeddiffError: nothing is trained, there is no such arm or seed, no validation case tells which arm is best, or params.yaml
            names other classes.
    """
    rows = VALIDATION.rows(layout.segmenters)
    row = _chosen(rows, arm, seed)
    segmenter, classes = Segmenter.load(layout.segmenters / row.arm / str(row.seed)), params.prepare.classes
    if segmenter.architecture.classes != len(classes):
        raise MeddiffError("prepare.classes", f"the trained segmenters know {segmenter.architecture.classes} classes, not "
                           f"{len(classes)}", "Run `dvc repro segment`")
    return Trained(segmenter, row, tuple(classes), params.prepare.size, params.prepare.fit)


def _chosen(rows: Sequence[ValidationRow], arm: str | None, seed: int | None) -> ValidationRow:
    def score(of: Sequence[ValidationRow]) -> float:
        known = [row.dice for row in of if not np.isnan(row.dice)]
        return float(np.mean(known)) if known else -1.0

    arms = list(dict.fromkeys(row.arm for row in rows))
    if arm is None:
        arm = max(arms, key=lambda name: score([row for row in rows if row.arm == name]), default="")
        if score([row for row in rows if row.arm == arm]) < 0:
            raise MeddiffError("--arm", "without validation Dice no arm is the best", f"Choose one of: {', '.join(arms)}")
    of_arm = [row for row in rows if row.arm == arm and seed in (None, row.seed)]
    if not of_arm:
        known = ", ".join(f"{row.arm} {row.seed}" for row in rows)
        raise MeddiffError(f"arm {arm}" + ("" if seed is None else f", seed {seed}"), "there is no such trained segmenter",
                           f"Choose arm and seed of: {known}")
    return max(of_arm, key=lambda row: score([row]))
