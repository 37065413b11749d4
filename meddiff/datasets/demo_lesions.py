"""Lesions of the phantoms: their outlines, their looks by class, and where they are placed.

Ours, as `phantoms`. Lengths are shares of the side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

Array = NDArray[np.float64]
Rng = np.random.Generator
Labels = tuple[int, ...]
Range = tuple[float, float]

ANY, BENIGN, MALIGNANT = 0, 1, 2
# Range of the outline's irregularity, and share of the outlines that are spiculated; the draws are the patient's.
RAGGED = {"ultrasound": {ANY: (0.02, 0.2), BENIGN: (0.01, 0.05), MALIGNANT: (0.2, 0.32)},
          "dermoscopy": {ANY: (0.04, 0.2), BENIGN: (0.02, 0.06), MALIGNANT: (0.2, 0.3)}}
SPICULATED = {ANY: 0.2, BENIGN: 0.0, MALIGNANT: 0.5}
ASPECT = {"ultrasound": {ANY: (0.9, 1.8), BENIGN: (1.3, 1.9), MALIGNANT: (0.7, 1.0)},     # width to height
          "dermoscopy": dict.fromkeys((ANY, BENIGN, MALIGNANT), (1.0, 1.7))}
# Absorption of red, green and blue, and how often it is drawn: brown, reddish, bluish gray.
PIGMENTS, PIGMENT_SHARES = np.array([[0.36, 0.6, 0.72], [0.12, 0.55, 0.5], [0.75, 0.66, 0.5]]), (0.7, 0.18, 0.12)
WITHIN = (0.18, 0.82)   # centres of further lesions


def field(rng: Rng, size: int, cells: float, stretch: float = 1.0) -> Array:
    """`[size, size]` smooth noise of mean 0 and deviation 1, `cells` bumps high; bumps are `stretch` times as wide."""
    down, across = int(np.ceil(cells)) + 3, int(np.ceil(cells / stretch)) + 3
    bumps = _splines(down, size) @ rng.standard_normal((down, across)) @ _splines(across, size).T
    return np.asarray((bumps - bumps.mean()) / (bumps.std() + 1e-9))


@cache
def _splines(n: int, size: int) -> Array:
    """`[size, n]` cubic interpolation between `n` points, of which about two lie outside; repeated for each image, made once."""
    weights = zoom(np.eye(n), (size / (n - 2), 1), order=3, mode="reflect")[:size]
    return np.asarray(np.pad(weights, ((0, size - len(weights)), (0, 0)), mode="edge"))


@dataclass(frozen=True)
class Outline:
    """A closed contour as Fourier series: relative radius at angle t is 1 + Σ a_k cos(k t + p_k), and spicules beyond it."""

    amplitudes: Array
    phases: Array
    aspect: float
    spicules: float = 0.0

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
        if self.spicules:
            many, few = (0.5 + 0.5 * waves[6]) ** 3, (0.5 + 0.5 * waves[4]) ** 3
            contour = contour + self.spicules * (many * (0.5 + 0.5 * waves[1]) + few * (0.5 + 0.5 * waves[2]))
        return np.asarray(np.hypot(across, along) - radius * contour)


def outline(rng: Rng, irregularity: float, aspect: tuple[float, float], spiculated: float = 0.0) -> Outline:
    """A random outline: amplitudes fall with their order and scale with `irregularity`, the aspect lies in the range given.

    Args:
        spiculated: how likely it has spicules.
    """
    orders = np.arange(1, 9)
    spicules = rng.uniform(0.15, 0.45) if rng.uniform() < spiculated else 0.0
    return Outline(irregularity * rng.standard_normal(8) / orders**0.9, rng.uniform(0, 2 * np.pi, 8), rng.uniform(*aspect),
                   spicules)


def inside(distance: Array, margin: float | Array) -> Array:
    """1 inside and 0 outside of a contour, with a soft step of about `margin` [shares of the side]."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / (0.35 * margin + 1e-4), -60, 60))))


@dataclass(frozen=True)
class Look:
    """What a patient's lesions share.

    Attributes:
        shape: the outline.
        strength: contrast in ultrasound, where below 0 it is brighter than tissue; pigment in dermoscopy.
        margin: width of the soft border.
        radius: mean radius.
        extra: in ultrasound the echo below the lesion (shadow or enhancement), in dermoscopy the strength of the pigment network.
        core: what its middle has more of `strength`: a cyst's fluid, a nodule, or below 0 a scar.
        rim: what its border has: in ultrasound more echo (a halo) or less (a capsule), in dermoscopy pigment.
        dots: strength of bright calcifications, of dark globules.
        pigment: `[3]` absorption of red, green and blue; unused in ultrasound.
    """

    shape: Outline
    strength: float
    margin: float
    radius: float
    extra: float
    core: float
    rim: float
    dots: float
    pigment: Array

    @classmethod
    def in_ultrasound(cls, rng: Rng, label: int) -> "Look":
        """Draw a look of the class `label`, of any for `ANY`."""
        shape = outline(rng, rng.uniform(*RAGGED["ultrasound"][label]), ASPECT["ultrasound"][label], SPICULATED[label])
        strength = rng.uniform(0.8, 2.3) if rng.uniform() < 0.93 else rng.uniform(-1.2, -0.8)
        margin, behind = np.exp(rng.uniform(np.log(0.008), np.log(0.11))), rng.normal(0.0, 0.6)
        core, rim, dots = (rng.uniform(*strongest) if rng.uniform() < share else 0.0
                           for share, strongest in ((0.3, (-0.6, 1.2)), (0.5, (-0.5, 0.9)), (0.25, (1.0, 2.2))))
        return cls(shape, strength, margin, _radius(rng, 0.1, 0.24), behind, core, rim, dots, PIGMENTS[0])

    @classmethod
    def in_dermoscopy(cls, rng: Rng, label: int) -> "Look":
        """Draw a look of the class `label`, of any for `ANY`."""
        shape = outline(rng, rng.uniform(*RAGGED["dermoscopy"][label]), ASPECT["dermoscopy"][label], 0.4 * SPICULATED[label])
        strength, margin = rng.uniform(0.45, 1.5), np.exp(rng.uniform(np.log(0.015), np.log(0.13)))
        core, rim, dots = (rng.uniform(*strongest) if rng.uniform() < share else 0.0
                           for share, strongest in ((0.4, (-0.7, 0.9)), (0.3, (-0.2, 0.4)), (0.4, (0.3, 0.9))))
        pigment = PIGMENTS[rng.choice(len(PIGMENTS), p=PIGMENT_SHARES)] + rng.normal(0, 0.04, 3)
        return cls(shape, strength, margin, _radius(rng, 0.11, 0.27), rng.uniform(0.0, 0.35), core, rim, dots, pigment)


def _radius(rng: Rng, low: float, high: float) -> float:
    """Small ones are as frequent as those twice their size."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


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
