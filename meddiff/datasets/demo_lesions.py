"""Lesions of the phantoms: their outlines, their looks by class, and where they are placed.

Ours, as `phantoms`. Lengths are shares of the side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

Array = NDArray[np.float64]
Rng = np.random.Generator
Labels = tuple[int, ...]
Range = tuple[float, float]

ANY, BENIGN, MALIGNANT = 0, 1, 2
# Range of the outline's irregularity; the draw within it is the patient's.
RAGGED = {"ultrasound": {ANY: (0.02, 0.2), BENIGN: (0.01, 0.05), MALIGNANT: (0.2, 0.32)},
          "dermoscopy": {ANY: (0.04, 0.2), BENIGN: (0.02, 0.06), MALIGNANT: (0.2, 0.3)}}
ASPECT = {"ultrasound": {ANY: (1.1, 1.9), BENIGN: (1.3, 1.9), MALIGNANT: (0.7, 1.0)},     # width to height
          "dermoscopy": dict.fromkeys((ANY, BENIGN, MALIGNANT), (1.0, 1.5))}
WITHIN = (0.18, 0.82)   # centres of further lesions


def field(rng: Rng, size: int, cells: float, stretch: float = 1.0) -> Array:
    """`[size, size]` smooth noise of mean 0 and deviation 1, `cells` bumps high; bumps are `stretch` times as wide."""
    grid = rng.standard_normal((int(np.ceil(cells)) + 3, int(np.ceil(cells / stretch)) + 3))
    bumps = zoom(grid, (size / (grid.shape[0] - 2), size / (grid.shape[1] - 2)), order=3, mode="reflect")[:size, :size]
    bumps = np.pad(bumps, ((0, size - bumps.shape[0]), (0, size - bumps.shape[1])), mode="edge")
    return np.asarray((bumps - bumps.mean()) / (bumps.std() + 1e-9))


@dataclass(frozen=True)
class Outline:
    """A closed contour as Fourier series: relative radius at angle t is 1 + Σ a_k cos(k t + p_k)."""

    amplitudes: Array
    phases: Array
    aspect: float

    def distance(self, size: int, centre: tuple[float, float], radius: float, angle: float) -> Array:
        """`[size, size]` distance to the contour, about, in shares of the side; negative inside."""
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        dy, dx = y - centre[0], x - centre[1]
        across, along = dy * np.cos(angle) - dx * np.sin(angle), dy * np.sin(angle) + dx * np.cos(angle)
        across, along = across * np.sqrt(self.aspect), along / np.sqrt(self.aspect)
        theta = np.arctan2(across, along)
        orders = np.arange(1, len(self.amplitudes) + 1)
        waves = np.cos(orders[:, None, None] * theta + self.phases[:, None, None])
        contour = 1 + (self.amplitudes[:, None, None] * waves).sum(axis=0)
        return np.asarray(np.hypot(across, along) - radius * contour)


def outline(rng: Rng, irregularity: float, aspect: tuple[float, float]) -> Outline:
    """A random outline: amplitudes fall with their order and scale with `irregularity`, the aspect lies in the range given."""
    orders = np.arange(1, 9)
    return Outline(irregularity * rng.standard_normal(8) / orders**0.9, rng.uniform(0, 2 * np.pi, 8), rng.uniform(*aspect))


def inside(distance: Array, margin: float) -> Array:
    """1 inside and 0 outside of a contour, with a soft step of about `margin` [shares of the side]."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / (0.35 * margin + 1e-4), -60, 60))))


@dataclass(frozen=True)
class Look:
    """What a patient's lesions share.

    Attributes:
        shape: the outline.
        strength: contrast in ultrasound, pigment in dermoscopy.
        margin: width of the soft border.
        radius: mean radius.
        extra: in ultrasound the echo below the lesion (shadow or enhancement), in dermoscopy the strength of the pigment network.
    """

    shape: Outline
    strength: float
    margin: float
    radius: float
    extra: float

    @classmethod
    def in_ultrasound(cls, rng: Rng, label: int) -> "Look":
        """Draw a look of the class `label`, of any for `ANY`."""
        shape = outline(rng, rng.uniform(*RAGGED["ultrasound"][label]), ASPECT["ultrasound"][label])
        strength, margin, behind = rng.uniform(0.8, 2.2), rng.uniform(0.01, 0.07), rng.normal(0.0, 0.5)
        return cls(shape, strength, margin, rng.uniform(0.08, 0.2), behind)

    @classmethod
    def in_dermoscopy(cls, rng: Rng, label: int) -> "Look":
        """Draw a look of the class `label`, of any for `ANY`."""
        shape = outline(rng, rng.uniform(*RAGGED["dermoscopy"][label]), ASPECT["dermoscopy"][label])
        return cls(shape, rng.uniform(0.35, 1.35), rng.uniform(0.015, 0.09), rng.uniform(0.11, 0.26), rng.uniform(0.0, 0.35))


@dataclass(frozen=True)
class Lesion:
    """A placed lesion.

    Attributes:
        look: see `Look`.
        label: its index in the mask.
        depth: of the centre.
        distance: `[S, S]` to its outline, negative inside.
        rng: the random numbers of its texture.
    """

    look: Look
    label: int
    depth: float
    distance: Array
    rng: Rng


def place_lesions(first: Look, further: Callable[[Rng, int], Look], view: Rng, size: int, labels: Labels,
                  centres: tuple[Range, Range], angle: Callable[[Rng], float]) -> Iterator[Lesion]:
    """Place lesions, each in up to 30 tries where it keeps off those before.

    Args:
        first: look of the first lesion, which `view` places.
        further: draws the looks of further ones, which are smaller and have random numbers of their own.
        view: random numbers of the image.
        size: side [pixels].
        labels: a class for each lesion, or `ANY`.
        centres: range of the first one's centre, down and across.
        angle: draws the angle [radians].
    """
    placed = np.ones((size, size))
    for i, label in enumerate(labels):
        rng = view.spawn(1)[0] if i else view
        look, share, (down, across) = (further(rng, label), 0.6, (WITHIN, WITHIN)) if i else (first, 1.0, centres)
        for _ in range(30):
            y, x = rng.uniform(*down), rng.uniform(*across)
            if placed[int(y * size), int(x * size)] > 1.5 * share * look.radius + 0.03:
                distance = look.shape.distance(size, (y, x), share * look.radius * rng.uniform(0.85, 1.15), angle(rng))
                placed = np.minimum(placed, distance)
                yield Lesion(look, max(label, 1), y, distance, rng)
                break
