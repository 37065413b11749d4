"""Geometry of lesions: the canonical pose, random change of a contour, drawing into a frame.

A pose is the affine map of a lesion: size, centre, and elongation with its direction. What remains without it has no
preferred direction, so that training may turn and mirror it freely, and few lesions teach many shapes (ours).
Maps are signed distances, positive inside, cut off and scaled to [-1,1]; a fine map has `FINE` values a side for each one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff.cases import Pixels

SIDE = 0.5  # square root of a canonical lesion's area, as a share of the grid's side
_REACH = 0.25  # distances are cut off at this share of the square root of the area
FINE = 4
_SMOOTH = 2.0  # what this Gaussian takes off a contour is roughness [values of the map, not fine]
SPECK = 0.05  # a part smaller than this share of the largest one is a slip of the annotator's hand
NEIGHBOURS = np.ones((3, 3), bool)
Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """A lesion without its pose.

    Attributes:
        values: fine map `[F,F]`, positive inside the lesion, at most 0 elsewhere.
        points: `[P,2]`: its fine positions (y, x).
        centre: their mean.
        stretch: `[2,2]`: what remains of elongation, taken off before a pose is put on.
    """

    values: Floats
    points: Floats
    centre: Floats
    stretch: Floats

    @classmethod
    def of(cls, fine: Floats) -> "Shape":
        """The largest part of a fine map, above the level that leaves a canonical lesion's area (near 0 if well trained)."""
        level = np.quantile(fine, 1 - SIDE**2)
        lesion = largest(fine > level)
        points = np.argwhere(lesion).astype(np.float64)
        # Holes are filled, other parts are left out.
        values = np.where(lesion, np.maximum(fine - level, 1e-3), np.minimum(fine - level, -1e-3))
        values[~ndimage.binary_dilation(lesion, iterations=2)] = -1
        return cls(values, points, points.mean(axis=0), stretch(_elongation(lesion)))

    def cut(self, pose: Floats, field: Bits) -> float:
        """Share of the lesion that would lie outside of `field` `[S,S]`, the frame's own border included."""
        places = np.floor(((self.points - self.centre) @ self._matrix(pose, 1).T + pose[1:3]) * len(field)).astype(int)
        inside = ((places >= 0) & (places < len(field))).all(axis=1)
        return 1 - float(field[tuple(places[inside].T)].sum()) / len(places)

    def draw(self, pose: Floats, size: int) -> Pixels:
        """Mask `[size,size]` of 0 and 1: the shape with the size, place and elongation of `pose` (see `pose_of`)."""
        back = np.linalg.inv(self._matrix(pose, size))
        offset = self.centre + back @ (0.5 - pose[1:3] * size)
        drawn = ndimage.affine_transform(self.values, back, offset, (size, size), order=1, cval=-1.0) > 0
        return largest(drawn).astype(np.uint8)

    def _matrix(self, pose: Floats, size: int) -> Floats:
        """From fine positions to pixels."""
        scale = np.exp(pose[0]) * size / np.sqrt(len(self.points))
        matrix: Floats = scale * stretch(pose[3:]) @ np.linalg.inv(self.stretch)
        return matrix


def canonical_fine(mask: Bits, grid: int) -> Floats:
    """Fine map `[FINE*grid, FINE*grid]` of the largest lesion of `[H,W]`, centred, of area `SIDE**2` and without elongation."""
    lesion, size = np.pad(largest(mask), 1), grid * FINE
    distance = ndimage.distance_transform_edt(lesion) - ndimage.distance_transform_edt(~lesion)
    distance = ndimage.gaussian_filter(distance, 0.7)  # takes off the stairs of the pixels, which a small lesion would enlarge
    matrix = np.sqrt(lesion.sum()) / (SIDE * size) * stretch(_elongation(lesion))
    offset = np.argwhere(lesion).mean(axis=0) - matrix @ np.full(2, (size - 1) / 2)
    moved = ndimage.affine_transform(distance, matrix, offset, (size, size), order=1, cval=distance.min())
    inside = moved > np.quantile(moved, 1 - SIDE**2)  # smoothing shrank it, the smallest to nothing
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)  # stretching had changed it
    clipped: Floats = np.clip(distance / (_REACH * SIDE * size), -1, 1)
    return clipped


def coarse(fine: Floats) -> Floats:
    """Block means `[G,G]` of a fine map `[FINE*G, FINE*G]`."""
    grid = len(fine) // FINE
    mean: Floats = fine.reshape(grid, FINE, grid, FINE).mean(axis=(1, 3))
    return mean


def disc(grid: int) -> Floats:
    """Map `[grid,grid]` in [-1,1] of the round canonical lesion."""
    y, x = (np.mgrid[:grid, :grid] + 0.5) / grid - 0.5
    values: Floats = np.clip((SIDE / np.sqrt(np.pi) - np.hypot(y, x)) / (_REACH * SIDE), -1, 1)
    return values


def finer(sdf: Floats, shift: Floats | None = None) -> Floats:
    """Fine map of `[G,G]` by cubic splines, each place taken `shift` `[2,G,G]` (y, x) [values] away."""
    grid = len(sdf)
    places = (np.mgrid[:grid * FINE, :grid * FINE] + 0.5) / FINE - 0.5
    if shift is not None:
        places += np.stack([ndimage.zoom(s, FINE, order=1, grid_mode=True, mode="nearest") for s in shift])
    fine: Floats = ndimage.map_coordinates(sdf, places, order=3, mode="nearest")
    return fine


def elastic(grid: int, rng: np.random.Generator) -> Floats:
    """A smooth random displacement `[2,grid,grid]`: 2 percent of the side at the lesion's scale, 1 percent at its border's."""
    shift = np.zeros((2, grid, grid))
    for width, amount in ((grid / 8, 0.02 * grid), (grid / 20, 0.01 * grid)):
        field = np.stack([ndimage.gaussian_filter(rng.normal(size=(grid, grid)), width, mode="wrap") for _ in range(2)])
        shift += amount * field / field.std()
    return shift


def roughness(fine: Floats) -> float:
    """How far a contour departs from its own smoothing, in units of the map: detail that the network hardly learns (ours)."""
    border = np.abs(fine) < 0.2
    detail = fine - ndimage.gaussian_filter(fine, _SMOOTH * FINE)
    return float(detail[border].std()) if border.any() else 0.0


def roughened(fine: Floats, wanted: float, rng: np.random.Generator) -> Floats:
    """Add what is lacking of the roughness `wanted`, with random phase."""
    noise = ndimage.gaussian_filter(rng.normal(size=fine.shape), 0.6 * FINE)
    noise -= ndimage.gaussian_filter(noise, _SMOOTH * FINE)
    lacking = np.sqrt(max(0.0, wanted**2 - roughness(fine) ** 2))
    rough: Floats = fine + lacking / noise.std() * noise
    return rough


def pose_of(mask: Bits) -> Floats:
    """`[5]`: natural logarithm of sqrt(area), centre y and x, all as shares of the frame's side; a and b of `stretch`."""
    lesion = largest(mask)
    centre = (np.argwhere(lesion).mean(axis=0) + 0.5) / lesion.shape
    return np.array([0.5 * np.log(lesion.mean()), *centre, *_elongation(lesion)])


def stretch(elongation: Floats) -> Floats:
    """Symmetric matrix of determinant 1 that makes a disc an ellipse: exp([[a, b], [b, -a]]) for elongation (a, b).

    With (a, b) = e (cos 2w, sin 2w) the axes have the ratio exp(2 e), the longer at angle w from y to x. Means and
    jitter of (a, b) make sense, unlike those of an angle: round is (0, 0), and nothing wraps (log-Euclidean, Arsigny 2006).
    """
    a, b = elongation
    e = max(1e-12, float(np.hypot(a, b)))
    matrix: Floats = np.cosh(e) * np.eye(2) + np.sinh(e) / e * np.array([[a, b], [b, -a]])
    return matrix


def largest(mask: Bits) -> Bits:
    """The largest part, connected over sides or corners, its holes filled; an empty mask stays empty."""
    labels, n = ndimage.label(mask, NEIGHBOURS)
    part = labels == 1 + np.argmax(ndimage.sum_labels(mask, labels, range(1, n + 1))) if n > 1 else mask
    filled: Bits = ndimage.binary_fill_holes(part)
    return filled


@dataclass(frozen=True)
class LesionPart:
    """One lesion of a mask: its class (1 to K), and where it is, `[H,W]`, without holes."""

    label: int
    where: Bits


def parts(mask: Pixels) -> list[LesionPart]:
    """The lesions of a mask `[H,W]` of 0 to K, largest first.

    A lesion is a part of one class, connected over sides or corners. One below a twentieth of the mask's largest is a speck, and
    left out.
    """
    found = []
    for label in range(1, int(mask.max(initial=0)) + 1):
        labels, n = ndimage.label(mask == label, NEIGHBOURS)
        found += [LesionPart(label, ndimage.binary_fill_holes(labels == i)) for i in range(1, n + 1)]
    found.sort(key=lambda part: -int(part.where.sum()))
    return [part for part in found if part.where.sum() >= SPECK * found[0].where.sum()]


def cut_off(lesion: Bits) -> bool:
    """Whether the frame cuts a lesion `[H,W]` off: more than a twentieth of its border lies on the frame's."""
    touching = sum(int(edge.sum()) for edge in (lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]))
    return bool(touching > 0.05 * 2 * np.sqrt(np.pi * lesion.sum()))


def _elongation(lesion: Bits) -> Floats:
    """(a, b) of `stretch`, from the second moments of the lesion's pixels as squares."""
    points = np.argwhere(lesion)
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(points) + np.eye(2) / 12)
    e, (y, x) = np.log(values[1] / values[0]) / 4, vectors[:, 1]
    return np.array([e * (y * y - x * x), e * 2 * x * y])
