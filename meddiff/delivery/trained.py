"""The trained segmenter that leaves the house, and what its users must know of it."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from meddiff import __version__
from meddiff.errors import MeddiffError
from meddiff.evaluation.arms import best_arm
from meddiff.layout import Layout
from meddiff.outputs.rows import ValidationRow
from meddiff.outputs.tables import VALIDATION
from meddiff.segmentation.ensemble import Recipe
from meddiff.segmentation.segmenter import Segmenter

FITS = {"pad": "scaled by antialiased bilinear interpolation to just fit into the square, in its middle, black around it",
        "squash": "stretched to the square by antialiased bilinear interpolation"}


@dataclass(frozen=True, eq=False)
class Trained:
    """A segmenter of a project.

    Attributes:
        row: its arm, seed, validation Dice and the numbers of its training.
        recipe: how images are brought to it.
    """

    segmenter: Segmenter
    row: ValidationRow
    recipe: Recipe

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its probabilities are: the lesion alone, or background and each class."""
        classes = self.recipe.classes
        return classes if len(classes) == 1 else ("background", *classes)

    @property
    def decision(self) -> str:
        """How its probabilities become a mask, in words."""
        several, bounds = len(self.channels) > 1, self.segmenter.bounds
        lesion = "1 less that of the background" if several else "of a lesion"
        rules = [f"it covers less than {bounds.area:.6g} of the image"] * (bounds.area > 0)
        rules += [f"the probability ({lesion}) in the image, p, and in its left-right mirror image, mirrored back, q, have "
                  f"2 Σpq / (Σp² + Σq²) below {bounds.probability:.6g}"] * (bounds.probability > 0)
        mask = "the most probable channel" if several else "probability above 0.5"
        return mask + (f"; empty where {' or where '.join(rules)}" if rules else "")

    @property
    def facts(self) -> dict[str, Any]:
        """All that is needed to rebuild and to use it, for JSON."""
        architecture = self.segmenter.architecture
        kind, arguments = architecture.definition
        return {"meddiff": __version__, "arm": self.row.arm, "seed": self.row.seed, "n_real": self.row.n_real,
                "n_synthetic": self.row.n_synthetic, "monai": version("monai"),
                "network_class": f"{kind.__module__ if architecture.own else 'monai.networks.nets'}.{kind.__name__}",
                "network_arguments": arguments, "needs_meddiff": architecture.own,
                "class_names": list(self.recipe.classes), "channels": list(self.channels), "image_size": self.recipe.size,
                "fit": self.recipe.fit, "fit_rule": FITS[self.recipe.fit],
                "normalisation": "RGB, levels 0 to 255 divided by 127.5, less 1: -1 to 1",
                "decision": self.decision, "bounds": asdict(self.segmenter.bounds)}


def choose_segmenter(layout: Layout, arm: str | None = None, seed: int | None = None) -> Trained:
    """Read a segmenter of `models/segmenters/ARM/SEED/`, chosen by `validation.csv` alone.

    Args:
        arm: None for the one of the best mean validation Dice.
        seed: of the training; None for the one of the best validation Dice.

    Raises:
        MeddiffError: nothing is trained, there is no such arm or seed, or no validation case tells which arm is best.
    """
    table, rows = VALIDATION.read(layout.segmenters), VALIDATION.rows(layout.segmenters)
    arm = arm or best_arm(table)
    if arm is None:
        raise MeddiffError("--arm", "without validation Dice no arm is the best",
                           f"Choose one of: {', '.join(dict.fromkeys(table['arm']))}")
    of_arm = [row for row in rows if row.arm == arm and seed in (None, row.seed)]
    if not of_arm:
        known = ", ".join(f"{row.arm} {row.seed}" for row in rows)
        raise MeddiffError(f"arm {arm}" + ("" if seed is None else f", seed {seed}"), "there is no such trained segmenter",
                           f"Choose arm and seed of: {known}")
    row = max(of_arm, key=lambda row: (row.dice == row.dice, row.dice))  # NaN is the least
    folder = layout.segmenters / row.arm
    try:
        recipe = Recipe.read(folder)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise MeddiffError(folder, f"the recipe of its segmenters must be there ({' '.join(str(e).split())})",
                           "Run `dvc repro segment`") from e
    return Trained(Segmenter.load(folder / str(row.seed)), row, recipe)
