"""Features of lesions, and how near a lesion is to the real ones: from noise at one end to a copy at the other.

Features and similarity are ours; each choice was made by how it separates held-back real lesions from pasted copies of training
lesions and from masks filled with noise, a flat gray or nothing, on breast ultrasound and dermoscopy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Case, Pixels
from meddiff.errors import MeddiffError

CROP = 64            # side to which a lesion's bounding square is resampled [pixels]
CELLS = 16           # side of the picture by which a lesion is recognised [cells]
NOISE_FLOOR = 2.0    # structure weaker than this isn't a lesion's own [gray levels]
BANDS = 4            # octaves of texture, from details of 1 to details of 8 pixels
LEAST_SCALE = 0.1    # a feature that hardly varies (the colour of gray images) isn't blown up beyond this
LEAST_SPREAD = 0.05  # spread of few, by chance equal, log distances
CHUNK = 64           # images computed together
Scalars = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lesions:
    """Features of N lesions, from their pixels alone: a new background or margin leaves them as they are.

    Attributes:
        appearance: `[N, 9]`, how a lesion looks: mean gray / 16; 2 ln(1 + standard deviation); skewness; red - green and
            blue - (red + green) / 2, each / 8; 2 ln(1 + RMS of the detail) of four octaves.
        identity: `[N, 257]` unit vectors, which lesion it is: a 16 x 16 picture of its bounding square less its mean gray, and
            a constant of `NOISE_FLOOR`, so that a lesion without structure resembles none.
    """

    appearance: Scalars
    identity: Scalars


def describe(images: Pixels, masks: Pixels) -> Lesions:
    """Features of each image's lesion, measured 1 px (at 128 px) inside the mask's border, where no background mixes in.

    Args:
        images: `[N, H, W, 3]` uint8 RGB; sides are multiples of 16.
        masks: `[N, H, W]` uint8 of 0 and 1.
    """
    parts = []
    for start in range(0, len(images), CHUNK):
        rgb = torch.from_numpy(np.ascontiguousarray(images[start:start + CHUNK])).permute(0, 3, 1, 2).float()
        inside = _interior(torch.from_numpy(np.ascontiguousarray(masks[start:start + CHUNK]))[:, None].float())
        parts.append((_appearance(rgb, inside), _identity(rgb.mean(1, keepdim=True), inside)))
    appearance, identity = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    return Lesions(appearance, identity)


@dataclass(frozen=True)
class Predictive:
    """Student's t distribution that n normal values predict for a further one: with few values its tails are wide."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Scalars) -> "Predictive":
        return cls(float(values.mean()), max(float(values.std(ddof=1)), LEAST_SPREAD), len(values))

    def exceeds(self, values: Scalars) -> Scalars:
        """Probability that a further value is greater than each of these."""
        return np.asarray(student.sf((values - self.mean) / self._width, self.n - 1))

    def exceeded_with(self, probability: float) -> float:
        """The value that a further one exceeds with this probability."""
        return float(self.mean + self._width * student.isf(probability, self.n - 1))

    @property
    def _width(self) -> float:
        return self.deviation * float(np.sqrt(1 + 1 / self.n))


@dataclass(frozen=True, eq=False)
class RealLesions:
    """The real lesions as a measure of nearness; made by `measure_real`.

    Two lesions are ln(d_a) / s_a + ln(d_i) / s_i apart, with the Euclidean distances d_a of their appearances (standardised on
    the real lesions) and d_i of their identities, and s the standard deviation of either logarithm over the leave-one-out
    nearest real pairs. The logarithms let both ends show: a copy has a tiny d_i whatever its gray, noise has a great d_a.

    Attributes:
        ids: case of each reference; each case stands twice, as it is and mirrored, since training mirrors.
        references: their features, appearances standardised by `centre` and `scale`.
        looks, selves, joint: distributions of ln(d_a), ln(d_i) and their sum over the leave-one-out nearest real pairs.
        own: `[n]` leave-one-out similarity of each real lesion.
    """

    ids: tuple[str, ...]
    references: Lesions
    centre: Scalars
    scale: Scalars
    looks: Predictive
    selves: Predictive
    joint: Predictive
    own: Scalars

    def similarity(self, lesions: Lesions) -> tuple[Scalars, list[str]]:
        """Similarity in [0, 1] of each lesion to its nearest real one, and that one's id.

        The similarity is the probability that a further real lesion lies farther from its nearest one than this lesion does:
        0.5 is as near as real ones are to each other, 0 is far from all, 1 a copy. So bounds on it are quantiles of the real
        lesions' leave-one-out similarity, estimated by their distribution, since few cases have no empirical 0.995 quantile;
        as bounds 0 and 1 exclude nothing.
        """
        looks, selves = _log_distances(_standardised(lesions, self.centre, self.scale), self.references)
        apart = looks / self.looks.deviation + selves / self.selves.deviation
        return self.joint.exceeds(apart.min(axis=1)), [self.ids[i] for i in apart.argmin(axis=1)]

    def same_within(self, similarity: float) -> float:
        """Distance of identities within which two lesions are one: `similarity` of the real ones are farther from all others."""
        return float(np.exp(self.selves.exceeded_with(similarity)))


def measure_real(cases: Sequence[Case]) -> RealLesions:
    """Learn from annotated real cases what is near and what is far.

    Leave-one-out distances go to other groups' lesions, since a patient's second picture is nearly a copy; where there is one
    group only, to other cases.

    Raises:
        MeddiffError: fewer than two cases hold a lesion.
    """
    cases = [case for case in cases if case.mask is not None and case.mask.any()]
    if len(cases) < 2:
        raise MeddiffError("training cases", "the filter needs at least two annotated lesions to tell near from far",
                           "Raise prepare.n_labelled")
    images, masks = np.stack([case.image for case in cases]), np.stack([case.mask for case in cases if case.mask is not None])
    lesions, mirrored = describe(images, masks), describe(images[:, :, ::-1], masks[:, :, ::-1])
    centre, scale = lesions.appearance.mean(axis=0), np.maximum(lesions.appearance.std(axis=0), LEAST_SCALE)
    references = _standardised(Lesions(np.concatenate([lesions.appearance, mirrored.appearance]),
                                       np.concatenate([lesions.identity, mirrored.identity])), centre, scale)

    groups, ids = np.array([case.group or case.id for case in cases]), tuple(case.id for case in cases)
    other = groups[:, None] != groups[None]
    if not other.any(axis=1).all():
        other = ~np.eye(len(cases), dtype=bool)
    looks, selves = (np.where(np.tile(other, 2), part, np.inf)
                     for part in _log_distances(_standardised(lesions, centre, scale), references))
    near_looks, near_selves = Predictive.of(looks.min(axis=1)), Predictive.of(selves.min(axis=1))
    apart = (looks / near_looks.deviation + selves / near_selves.deviation).min(axis=1)
    joint = Predictive.of(apart)
    return RealLesions(ids + ids, references, centre, scale, near_looks, near_selves, joint, joint.exceeds(apart))


def _standardised(lesions: Lesions, centre: Scalars, scale: Scalars) -> Lesions:
    return Lesions((lesions.appearance - centre) / scale, lesions.identity)


def _log_distances(lesions: Lesions, references: Lesions) -> tuple[Scalars, Scalars]:
    looks, selves = cdist(lesions.appearance, references.appearance), cdist(lesions.identity, references.identity)
    return np.log(np.maximum(looks, 1e-6)), np.log(np.maximum(selves, 1e-6))


def erode(masks: Tensor, radius: int) -> Tensor:
    """Least value of `[N, 1, H, W]` in the square of 2 `radius` + 1 pixels around each; nothing lies beyond the frame."""
    size = 2 * radius + 1
    return -F.max_pool2d(F.max_pool2d(-masks, (size, 1), 1, (radius, 0)), (1, size), 1, (0, radius))


def average(values: Tensor, weights: Tensor) -> Tensor:
    """`[N]` weighted means of `[N, 1, H, W]`."""
    return (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-6)


def _interior(masks: Tensor) -> Tensor:
    interior = erode(masks, max(1, round(masks.shape[-1] / 128)))
    enough = interior.sum((1, 2, 3), keepdim=True) >= 0.25 * masks.sum((1, 2, 3), keepdim=True)
    return torch.where(enough, interior, masks)


def _appearance(rgb: Tensor, inside: Tensor) -> Tensor:
    gray = rgb.mean(1, keepdim=True)
    mean = average(gray, inside)
    offset = gray - mean[:, None, None, None]
    deviation = average(offset**2, inside).sqrt()
    red, green, blue = (average(rgb[:, i:i + 1], inside) for i in range(3))
    columns = [mean / 16, 2 * torch.log1p(deviation), average(offset**3, inside) / (deviation + NOISE_FLOOR) ** 3,
               (red - green) / 8, (blue - (red + green) / 2) / 8]
    for _ in range(BANDS):  # a Haar pyramid of averages over the lesion's own pixels
        weight = F.avg_pool2d(inside, 2)
        coarse = F.avg_pool2d(gray * inside, 2) / weight.clamp(min=1e-6)
        columns.append(2 * torch.log1p(average((gray - F.interpolate(coarse, scale_factor=2.0)) ** 2, inside).sqrt()))
        gray, inside = coarse, weight
    return torch.stack(columns, 1)


def _identity(gray: Tensor, inside: Tensor) -> Tensor:
    window = F.affine_grid(_window(inside[:, 0] > 0), [len(gray), 1, CROP, CROP], align_corners=False)
    crop, weight = (F.grid_sample(part, window, padding_mode="border", align_corners=False) for part in (gray, inside))
    mean = average(crop, weight)[:, None, None, None]
    cells = F.adaptive_avg_pool2d((crop - mean) * weight, CELLS).flatten(1)
    return F.normalize(torch.cat([cells, torch.full((len(cells), 1), NOISE_FLOOR * CELLS)], 1))


def _window(inside: Tensor) -> Tensor:
    height, width = inside.shape[1:]
    edges = []
    for side in (inside.any(1), inside.any(2)):  # columns for x, rows for y
        edges.append((side.int().argmax(1), side.shape[1] - side.flip(1).int().argmax(1)))
    (left, right), (top, bottom) = edges
    side = torch.maximum(right - left, bottom - top).float()
    theta = torch.zeros(len(inside), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2], theta[:, 1, 2] = (left + right) / width - 1, (top + bottom) / height - 1
    return theta
