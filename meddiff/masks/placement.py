"""Where lesions go: the training lesions' poses, random poses like theirs, and drawing several lesions into one imaged field.

It owns the levels of randomness that aren't the network's or the contour's: condition, pose and placement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.lesions.fields import box
from meddiff.lesions.shapes import NEIGHBOURS, Bits, Floats, LesionPart, Shape, largest, parts, pose_of
from meddiff.seeds import Stream, numbers

TRIES = 50  # the second half of them shrinks the lesion, step by step to a quarter of its diameter
_SHRINK = np.log(0.95)
CUT, CUT_AT_WORST = 0.03, 0.125  # share of a lesion that the field may cut off: wanted, and where no draw does better
LEAST_PIXELS = 8
GAP = 0.02  # least distance of two lesions, as a share of the frame's side
LESION_SIZES, _PEERS = 3, 8  # classes of size, fewer where they would hold less than `_PEERS` training lesions each
COMMON, _TURNS = 0.85, 12  # of a lesion that replaces another: see `replace`
_SHIFT = 0.2  # deviation of its centre from the other's, as a share of the radius
_MARGIN = np.array([0.07, 0.03, 0.03, 0.05, 0.05])  # how far a pose may leave the training range; 0.07 is 15 percent of the area
_POSE_AXES, _PLACE_AXES = [0, 3, 4], [1, 2]


@dataclass(frozen=True)
class MaskLevels:
    """The hierarchy of randomness; each level has its own switch and its own stream of random numbers.

    Attributes:
        noise: the sampler's noise; off: always the same noise.
        condition: which training image lends number, class and size of the lesions, and with it the network's condition; off:
            always the one whose lesions have the median area.
        shape: a smooth elastic change, and fine roughness like a training lesion's.
        pose: size, elongation and angle around the lent lesion's, from the smoothed distribution; off: exactly its own.
        placement: the centre, likewise; off: its own, unless the lesion doesn't fit there.
    """

    noise: bool = True
    condition: bool = True
    shape: bool = True
    pose: bool = True
    placement: bool = True


ALL_LEVELS = MaskLevels()


@dataclass(frozen=True)
class Lesions:
    """The training lesions.

    Attributes:
        image: `[L]` number of the training image that holds it; those of one image are neighbours, the largest first.
        label: `[L]` its class, 1 to K.
        poses: `[L,5]`, see `shapes.pose_of`; the centre as a share of the imaged field's bounding box.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    poses: Floats

    @property
    def condition(self) -> NDArray[np.int64]:
        """`[L]`: class and class of size (terciles within the class, fewer for few lesions) as one number from 0."""
        numbers: NDArray[np.int64] = np.zeros(len(self.label), np.int64)
        for label in np.unique(self.label):
            mine = np.flatnonzero(self.label == label)
            rank = self.poses[mine, 0].argsort(kind="stable").argsort()
            bins = min(LESION_SIZES, max(1, len(mine) // _PEERS))
            numbers[mine] = (label - 1) * LESION_SIZES + rank * bins // len(mine)
        return numbers

    def lent(self, seed: int, random: bool) -> list[int]:
        """The lesions of one training image, by chance or the most ordinary ones."""
        images = np.unique(self.image)
        if random:
            image = numbers(seed, Stream.CONDITION).choice(images)
        else:
            areas = [np.exp(2 * self.poses[self.image == i, 0]).sum() for i in images]
            image = images[np.argsort(areas, kind="stable")[len(areas) // 2]]
        return [int(i) for i in np.flatnonzero(self.image == image)]

    def ranked(self, label: int, rank: float) -> int:
        """The training lesion of a rank in [0, 1) by size among those of a class, or among all where none is of that class."""
        peers = np.flatnonzero(self.label == label) if label in self.label else np.arange(len(self.label))
        return int(peers[self.poses[peers, 0].argsort(kind="stable")[int(rank * len(peers))]])

    def pose(self, lesion: int, levels: MaskLevels, seed: int, number: int, attempt: int) -> Floats:
        """Pose of a training lesion, or one near it: `[5]`."""
        pose: Floats = self.poses[lesion].copy()
        peers: Floats = self.poses[self.label == self.label[lesion]]
        for random, stream, axes in ((levels.pose, Stream.POSE, _POSE_AXES), (levels.placement, Stream.PLACEMENT, _PLACE_AXES)):
            if random:
                rng = numbers(seed, stream, number, attempt)
                pose[axes] = _smoothed(pose[axes], peers[:, axes], _MARGIN[axes], rng)
        return pose


@dataclass(frozen=True, eq=False)
class Site:
    """Lesions of one image that new ones shall replace.

    Attributes:
        parts: see `shapes.parts`.
        ranks: for each, its rank by area among all sites' lesions of its class, as a share: above 0, below 1.
    """

    parts: list[LesionPart]
    ranks: list[float]


def rank_sites(masks: Sequence[Pixels]) -> list[Site]:
    """The sites of masks `[S,S]` of 0 to K."""
    found = [parts(mask) for mask in masks]
    labels = np.array([part.label for part in chain(*found)])
    areas = np.array([part.where.sum() for part in chain(*found)])
    ranks = np.zeros(len(areas))
    for label in np.unique(labels):
        peers = labels == label
        ranks[peers] = (rankdata(areas[peers]) - 0.5) / peers.sum()
    rest = iter(ranks.tolist())
    return [Site(some, [next(rest) for _ in some]) for some in found]


def learn_lesions(masks: Sequence[Pixels], fields: Sequence[Bits]) -> tuple[Lesions, list[Bits]]:
    """The table of all lesions of masks `[H,W]` with imaged fields `[H,W]`, and where each lies in its mask `[H,W]`."""
    found = [(i, part) for i, mask in enumerate(masks) for part in parts(mask)]
    poses = np.array([pose_of(part.where) for _, part in found])
    low, high = np.stack([box(fields[i]) for i, _ in found], axis=1)
    poses[:, 1:3] = (poses[:, 1:3] - low) / (high - low)
    lesions = Lesions(np.array([i for i, _ in found]), np.array([part.label for _, part in found]), poses)
    return lesions, [part.where for _, part in found]


def _smoothed(value: Floats, peers: Floats, margin: Floats, rng: np.random.Generator) -> Floats:
    """A smoothed bootstrap that keeps mean and covariance (Silverman and Young, Biometrika 1987).

    Half of Scott's bandwidth for the five numbers of a pose, so that clusters stay too, and reflection at the margin of the
    training range are ours.
    """
    n, d = peers.shape
    width, mean = 0.5 * n ** (-1 / 9), peers.mean(axis=0)
    covariance = (np.cov(peers.T) if n > 1 else 0) + np.diag(margin**2) / n  # lesions that are all alike shall still vary
    moved = mean + (value - mean + width * np.linalg.cholesky(covariance) @ rng.normal(size=d)) / np.sqrt(1 + width**2)
    low = peers.min(axis=0) - margin
    span = peers.max(axis=0) + margin - low
    reflected: Floats = low + span - np.abs((moved - low) % (2 * span) - span)
    return reflected


def place(shapes: Sequence[Shape], lent: Sequence[int], lesions: Lesions, levels: MaskLevels, field: Bits, seed: int) -> Pixels:
    """Draw lesions into one mask.

    Args:
        shapes: one a lesion, the largest lesion first.
        lent: the training lesion that lends each its class, size and place.
        field: `[S,S]`, where lesions may be.

    Returns:
        `[S,S]` uint8 of 0 to K, 0 outside of the field: at most 3 percent of a lesion are cut off there, or 12.5 percent where
        no pose does better. Lesions keep a gap of 2 percent of the side; one that finds no room beside the larger ones is left
        out.

    Raises:
        MeddiffError: the first lesion finds no room.
    """
    mask, taken = np.zeros(field.shape, np.uint8), np.zeros(field.shape, bool)
    gap = max(1, round(GAP * len(field)))
    for number, (shape, lesion) in enumerate(zip(shapes, lent, strict=True)):
        drawn = _fitted(shape, lesion, lesions, levels, field, taken, seed, number)
        if drawn is not None:
            mask[drawn] = lesions.label[lesion]
            taken |= ndimage.binary_dilation(drawn, NEIGHBOURS, gap)
    if not mask.any():
        rule = f"one of {TRIES} poses must keep {LEAST_PIXELS} pixels and at least {1 - CUT_AT_WORST:.1%} within the imaged field"
        raise MeddiffError(f"mask of seed {seed}", rule, "Train on lesions that are neither tiny nor fill the frame")
    return mask


def replace(shapes: Sequence[Shape], lent: Sequence[int], lesions: Lesions, levels: MaskLevels, site: Sequence[LesionPart],
            field: Bits, seed: int) -> Pixels:
    """Draw a lesion at the place of each lesion of a site, with an outline and a size of its own.

    Size and elongation are drawn around a training lesion's, the centre around the replaced lesion's, until the two overlap by 85
    percent of the smaller one. Each of twelve draws moves elongation and centre nearer to the replaced lesion's own.

    Args:
        shapes: one a lesion, in the order of `site`.
        lent: the training lesion that lends each its size: the one of the same rank, see `Site.ranks`.
        site: lesions of one image, see `shapes.parts`.
        field: `[S,S]`, the imaged field; nothing is drawn outside.

    Returns:
        `[S,S]` uint8 of 0 to K; not empty where a lesion of the site lies in the field.
    """
    mask = np.zeros(field.shape, np.uint8)
    for number, (shape, lesion, part) in enumerate(zip(shapes, lent, site, strict=True)):
        drawn = _at(shape, lesion, lesions, levels, part, field, seed, number)
        mask[drawn & field & (mask == 0)] = part.label
    return mask


def _at(shape: Shape, lesion: int, lesions: Lesions, levels: MaskLevels, part: LesionPart, field: Bits, seed: int,
        number: int) -> Bits:
    """The first draw that overlaps enough with a lesion, else the one that overlaps most."""
    own, old = pose_of(part.where), part.where & field
    size, radius = lesions.pose(lesion, levels, seed, number, 0)[0], np.exp(own[0]) / np.sqrt(np.pi)
    best, most = old, -1.0
    for attempt in range(_TURNS):
        pose, free = lesions.pose(lesion, levels, seed, number, attempt), 1 - attempt / (_TURNS - 1)
        shift = numbers(seed, Stream.PLACEMENT, number, attempt, 2).normal(size=2) if levels.placement else np.zeros(2)
        pose[0] = size
        pose[1:3] = own[1:3] + free * _SHIFT * radius * shift
        pose[3:] = free * pose[3:] + (1 - free) * own[3:]
        drawn = (shape.draw(pose, len(field)) > 0) & field
        common = (drawn & old).sum() / max(1, min(drawn.sum(), old.sum()))
        if drawn.any() and common > most:
            best, most = drawn, common
        if common >= COMMON:
            break
    return best


def _fitted(shape: Shape, lesion: int, lesions: Lesions, levels: MaskLevels, field: Bits, taken: Bits, seed: int,
            number: int) -> Bits | None:
    """The first pose that fits: near the lesion that is lent, then near others of its class and size, then smaller ones."""
    low, high = box(field)
    peers = np.flatnonzero(lesions.condition == lesions.condition[lesion])
    best, least = None, CUT_AT_WORST
    for attempt in range(TRIES):
        other = int(numbers(seed, Stream.PLACEMENT, number, attempt, 1).choice(peers)) if attempt else lesion
        pose = lesions.pose(other, levels, seed, number, attempt)
        pose[0] += _SHRINK * max(0, attempt - TRIES // 2)
        pose[1:3] = low + pose[1:3] * (high - low)
        if (cut := shape.cut(pose, field)) > least:
            continue
        drawn = largest((shape.draw(pose, len(field)) > 0) & field)
        if drawn.sum() >= LEAST_PIXELS and not (drawn & taken).any():
            best, least = drawn, cut
            if cut <= CUT:
                break
    return best
