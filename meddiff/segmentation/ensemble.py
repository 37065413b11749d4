"""The segmenters of one arm, a training seed each, as one: the mean of their probabilities, and how far they disagree."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import Pixels, sha256
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams, SegmentParams
from meddiff.segmentation.decision import Bounds, Findings, mask_of
from meddiff.segmentation.metrics import class_dice
from meddiff.segmentation.segmenter import Segmenter

_FILE = "ensemble.json"
_PIXELS = 1 << 19  # predicted together: 32 images of 128 pixels a side


@dataclass(frozen=True)
class Recipe:
    """How an arm's segmenters were trained, as far as an image must be brought to them alike.

    Attributes:
        arm: what they learned from.
        classes: names of the classes 1 to K.
        size: side of the square that they see [pixels].
        fit: how an image is made square: `pad` or `squash`.
        vertical_flips: whether they have seen images upside down.
        window, axis: how DICOM files and volumes were shown and cut, see `prepare.window` and `prepare.axis`.
    """

    arm: str
    classes: tuple[str, ...]
    size: int
    fit: str
    vertical_flips: bool = False
    window: str = "auto"
    axis: Literal["axial", "coronal", "sagittal"] = "axial"

    @classmethod
    def of(cls, arm: str, size: int, prepare: PrepareParams, segment: SegmentParams) -> "Recipe":
        """As the settings say, of images of this size."""
        return cls(arm, prepare.classes, size, prepare.fit, segment.vertical_flips, prepare.window, prepare.axis)

    def write(self, folder: Path) -> None:
        """Write `ensemble.json` beside the folders of the seeds."""
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Recipe":
        """Read what `write` wrote; raises an OSError, ValueError, KeyError or TypeError where it isn't there or broken."""
        values = json.loads((folder / _FILE).read_text())
        return cls(**values | {"classes": tuple(values["classes"])})


@dataclass(frozen=True, eq=False)
class Ensemble:
    """An arm's segmenters.

    Attributes:
        recipe: see `Recipe`.
        members: the segmenters, in the order of `seeds`.
        seeds: of their training.
        digest: 16 characters that name recipe and weights.
    """

    recipe: Recipe
    members: tuple[Segmenter, ...]
    seeds: tuple[int, ...]
    digest: str = ""

    @property
    def batch_size(self) -> int:
        """Images that are predicted together without much memory."""
        return max(1, min(32, _PIXELS // self.recipe.size**2))

    def judge(self, images: Pixels, flips: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What each member says of each pixel, and what most of them say of each image.

        Args:
            images: `[N, S, S, 3]` uint8 RGB.
            flips: the mean with the mirrored images, also upside down where the members have seen such.

        Returns:
            `[M, N, C, S, S]` float32, see `Segmenter.probabilities`, and `[N]`, whether an image may show a lesion: half of the
            members find so in the image as it is, or have no bounds.
        """
        axes: list[tuple[int, ...]] = [()]
        if flips:
            axes += [(2,), (1,), (1, 2)] if self.recipe.vertical_flips else [(2,)]

        def mirrored(member: Segmenter, axis: tuple[int, ...]) -> NDArray[np.float32]:
            seen = member.probabilities(np.flip(images, axis), self.batch_size)
            return np.flip(seen, tuple(i + 1 for i in axis))

        said = [[mirrored(member, axis) for axis in axes] for member in self.members]
        votes = [member.findings(images, self.batch_size, values=seen[0]).shown | (member.bounds == Bounds())
                 for member, seen in zip(self.members, said, strict=True)]
        return np.stack([_mean(seen) for seen in said]), np.mean(votes, axis=0) >= 0.5

    def findings(self, images: Pixels) -> Findings:
        """What is found in images `[N, S, S, 3]`: masks by the mean of the members, and shown if most of them find so."""
        said, shown = self.judge(images)
        masks = mask_of(_mean(said))
        return Findings(masks, shown, (masks > 0).mean((1, 2)), np.ones(len(masks)))

    def segment(self, images: Pixels) -> Pixels:
        """The masks `[N, S, S]` uint8 of 0 to K of images `[N, S, S, 3]`, empty where they show no lesion; see `findings`."""
        return self.findings(images).decided

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Ensemble":
        """Read the segmenters of an arm, `SEED/` each, with their `ensemble.json`.

        Raises:
            MeddiffError: it isn't an arm's folder, or a file is missing or broken.
        """
        try:
            recipe = Recipe.read(folder)
            seeds = sorted(int(each.name) for each in folder.iterdir() if each.name.isdecimal())
        except (OSError, ValueError, KeyError, TypeError) as e:
            arms = sorted(each.parent.name for each in folder.glob(f"*/{_FILE}"))
            raise MeddiffError(folder, f"the segmenters of an arm must be there, with their {_FILE} ({' '.join(str(e).split())})",
                               f"Name one of its arms: {', '.join(arms)}" if arms else
                               "Name a folder such as models/segmenters/ARM, or models:/NAME@champion") from e
        if not seeds:
            raise MeddiffError(folder, "an arm has the folder of one seed at least", "Run `dvc repro segment`")
        members = tuple(Segmenter.load(folder / str(seed), device) for seed in seeds)
        files = (folder / _FILE, *(folder / str(seed) / name for seed in seeds for name in ("config.json", "model.safetensors")))
        digest = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:16]
        return cls(recipe, members, tuple(seeds), digest)


def disagreement(masks: Sequence[Pixels], classes: int) -> float:
    """How far masks `[H, W]` of one image differ: the mean over their pairs of 1 - Dice (mean over classes), 0 to 1.

    Two that are both empty agree; a single mask gives NaN.
    """
    pairs = [class_dice(one, other, classes) for one, other in combinations(masks, 2)]
    return float(np.mean([1 - (1.0 if np.isnan(dice) else dice) for dice in pairs])) if pairs else float("nan")


def _mean(values: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.mean(values, axis=0, dtype=np.float32), np.float32)
