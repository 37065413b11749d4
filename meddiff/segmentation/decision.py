"""Whether an image shows a lesion at all: one decision for the whole image, by two bounds chosen on validation cases.

Ours. A network that has only seen images with a lesion finds one wherever it looks, and is sure of it: on BUSI neither its
greatest probability nor the area tells images with a lesion from lesion-free ones. What does is whether it finds the same in the
mirrored image, which is another image to it, but as good a one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meddiff.cases import Pixels

_BOUNDS = 50  # tried of each kind


@dataclass(frozen=True)
class Bounds:
    """An image shows a lesion if the prediction reaches both bounds; else its mask is empty. With both 0 every image may.

    Attributes:
        area: least share of the image that is predicted as lesion, 0 to 1.
        probability: least probability of the whole image, see `image_probability`, 0 to 1.
    """

    area: float = 0.0
    probability: float = 0.0

    def shown(self, areas: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of N images show a lesion, by the share predicted as lesion `[N]` and the image's probability `[N]`."""
        return (areas > 0) & (areas >= self.area) & (probabilities >= self.probability)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a segmenter finds in N images.

    Attributes:
        masks: `[N, H, W]` uint8 of 0 to K, each predicted as if its image showed a lesion.
        shown: `[N]` bool, whether it does, by the segmenter's decision for the whole image.
        areas: `[N]` share of the image that the mask covers.
        probabilities: `[N]` of the whole image, see `image_probability`; 1 where the decision doesn't ask for it.
    """

    masks: Pixels
    shown: NDArray[np.bool_]
    areas: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @property
    def decided(self) -> Pixels:
        """The masks, empty where the image shows no lesion."""
        return self.masks * self.shown[:, None, None].astype(np.uint8)


def mask_of(probabilities: NDArray[np.float32]) -> Pixels:
    """The mask `[…, H, W]` uint8 of 0 to K of probabilities `[…, C, H, W]`, see `Segmenter.probabilities`.

    With one class it is where the lesion is more probable than not, with several the most probable of background and classes.
    """
    several = probabilities.shape[-3] > 1
    return np.asarray(probabilities.argmax(-3) if several else probabilities[..., 0, :, :] > 0.5, np.uint8)


def image_probability(lesion: NDArray[np.float32], mirrored: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much a segmenter finds the same in an image and in its mirror image: their soft Dice, 2 Σpq / (Σp² + Σq²).

    Args:
        lesion: `[N, H, W]` probability of a lesion, p.
        mirrored: the same of the mirror images, mirrored back, q.

    Returns:
        `[N]` float64 in [0, 1]; 0 where there is no probability at all.
    """
    p, q = (values.astype(np.float64).reshape(len(values), -1) for values in (lesion, mirrored))
    total = (p * p + q * q).sum(1)
    return np.asarray(2 * (p * q).sum(1) / np.where(total > 0, total, 1.0))


def choose_bounds(areas: NDArray[np.float64], probabilities: NDArray[np.float64], dice: ArrayLike,
                  cost: float) -> Bounds:
    """The bounds under which most lesion-free images are found to be so, at a mean Dice that falls by `cost` at most.

    Of equally good ones those with the higher Dice, then with the lower bounds.

    Args:
        areas, probabilities: `[N]` of N validation images, see `Bounds.shown`.
        dice: of each with its mask as it is; NaN for a lesion-free image.
        cost: Dice that may be lost, 0 to 1.

    Returns:
        No bounds where there is no image of either kind.
    """
    scores = np.asarray(dice, np.float64)
    free = np.isnan(scores)
    if free.all() or not free.any():
        return Bounds()
    best, least = (-1.0, 0.0, 0.0, 0.0), scores[~free].mean() - cost - 1e-9
    for area in _candidates(areas, free):
        for probability in _candidates(probabilities, free):
            shown = Bounds(area, probability).shown(areas, probabilities)
            kept = float(np.where(shown, scores, 0.0)[~free].mean())
            if kept >= least:
                best = max(best, (float((~shown)[free].mean()), kept, -area, -probability))
    return Bounds(-best[2], -best[3])


def _candidates(values: NDArray[np.float64], free: NDArray[np.bool_]) -> list[float]:
    """No bound, and those halfway from what a lesion-free image reaches to the next image above; at most 50."""
    levels = np.unique(values)
    above = np.searchsorted(levels, np.unique(np.quantile(values[free], np.linspace(0, 1, _BOUNDS), method="higher")), "right")
    above = above[above < len(levels)]
    return [0.0, *((levels[above - 1] + levels[above]) / 2).tolist()]
