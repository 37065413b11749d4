"""Geometry of lesion masks: the canonical pose, drawing from it, elastic change, and the statistics that masks are compared by."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from meddiff.cases import Pixels

SIDE = 0.4  # square root of a canonical lesion's area, as a share of the grid's side
REACH = 0.25  # distances are cut off at this share of the square root of the area, then scaled to [-1,1]
Floats = NDArray[np.float64]


def canonical(mask: NDArray[np.bool_], grid: int) -> Floats:
    """Signed distance map of a lesion `[H,W]`, centred and scaled to `SIDE`: `[grid,grid]`, positive inside, in [-1,1]."""
    height, width = mask.shape
    padded = np.pad(mask, max(height, width) // 2)
    side = float(np.sqrt(mask.sum()))
    sdf = (ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)) / (REACH * side)
    centre = np.array(ndimage.center_of_mass(padded))
    zoom = side / (SIDE * grid)
    offset = centre - zoom * (grid - 1) / 2
    smoothed = ndimage.gaussian_filter(sdf, max(0.0, 0.5 * (zoom - 1)))
    moved = ndimage.affine_transform(smoothed, np.array([zoom, zoom]), offset, (grid, grid), order=1, mode="nearest")
    clipped: Floats = np.clip(moved, -1, 1)
    return clipped


def pose_of(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Natural logarithm of sqrt(area), and the centre's y and x, as shares of the frame's side."""
    cy, cx = ndimage.center_of_mass(mask)
    return float(np.log(np.sqrt(mask.mean()))), (cy + 0.5) / mask.shape[0], (cx + 0.5) / mask.shape[1]


def draw(sdf: Floats, side: float, cy: float, cx: float, angle: float, size: int) -> Pixels:
    """Binary mask `[size,size]` of a canonical map whose lesion gets the area `side**2` and the centre (cy, cx) [pixels]."""
    grid = len(sdf)
    level = np.quantile(sdf, 1 - SIDE**2)
    lesion = largest(sdf > level)
    centre, scale = ndimage.center_of_mass(lesion), np.sqrt(lesion.sum()) / side
    y, x = (np.mgrid[:size, :size] + 0.5) - np.array([cy, cx])[:, None, None]
    v = (np.cos(angle) * y - np.sin(angle) * x) * scale + centre[0]
    u = (np.sin(angle) * y + np.cos(angle) * x) * scale + centre[1]
    drawn = ndimage.map_coordinates(np.where(ndimage.binary_dilation(lesion, iterations=2), sdf, -1.0) - level, [v, u], order=1, cval=-1.0) > 0
    inside = (np.minimum(v, u) >= 0) & (np.maximum(v, u) <= grid - 1)
    return largest(drawn & inside).astype(np.uint8)


def elastic(sdf: Floats, rng: np.random.Generator) -> Floats:
    """A smooth random displacement: 2 percent of the grid's side at the scale of the lesion, 1 percent at its border's."""
    grid = len(sdf)
    shift = np.zeros((2, grid, grid))
    for width, amount in ((grid / 8, 0.02 * grid), (grid / 20, 0.01 * grid)):
        field = np.stack([ndimage.gaussian_filter(rng.normal(size=(grid, grid)), width, mode="wrap") for _ in range(2)])
        shift += amount * field / field.std()
    moved: Floats = ndimage.map_coordinates(sdf, np.mgrid[:grid, :grid] + shift, order=1, mode="nearest")
    return moved


def largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part; an empty mask stays empty."""
    labels, n = ndimage.label(mask)
    part: NDArray[np.bool_] = labels == 1 + np.argmax(ndimage.sum_labels(mask, labels, range(1, n + 1))) if n > 1 else mask
    return part


def statistics(masks: Sequence[Pixels]) -> pd.DataFrame:
    """One row a non-empty mask `[H,W]`: share of the frame, compactness 4 pi A / P**2 (1 for a disc), centre y and x (shares)."""
    rows = []
    for mask in masks:
        region = measure.regionprops(largest(mask > 0).astype(np.uint8))[0]
        perimeter = max(1.0, float(measure.perimeter_crofton(region.image)))
        rows.append({"area": float(mask.mean()), "compactness": 4 * np.pi * region.area / perimeter**2,
                     "centre_y": region.centroid[0] / mask.shape[0], "centre_x": region.centroid[1] / mask.shape[1]})
    return pd.DataFrame(rows)


def novelty(invented: Sequence[Pixels], real: Sequence[Pixels]) -> Floats:
    """For each invented mask the greatest intersection over union with a real one, both in canonical pose: `[N]` in [0,1]."""
    ours = np.stack([canonical(largest(mask > 0), 48) > 0 for mask in invented]).reshape(len(invented), -1).astype(np.float64)
    theirs = np.stack([canonical(largest(mask > 0), 48) > 0 for mask in real]).reshape(len(real), -1).astype(np.float64)
    common = ours @ theirs.T
    best: Floats = (common / (ours.sum(axis=1)[:, None] + theirs.sum(axis=1)[None] - common)).max(axis=1)
    return best
