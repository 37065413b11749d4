"""How invented masks compare with real ones: distributions of what can be measured, and likeness in canonical pose."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import ks_2samp
from skimage import measure

from meddiff.cases import Pixels
from meddiff.lesions.shapes import SIDE, Bits, Floats, Shape, parts

_RINGS, _ANGLES = 32, 64
_RADIUS = 0.5  # of the outermost ring, as a share of the canonical grid's side; the round lesion ends at 0.28


def mask_statistics(masks: Sequence[Pixels], classes: int = 1) -> pd.DataFrame:
    """One row a non-empty mask `[H,W]` of 0 to K.

    Columns: `area` as a share of the frame, number of `lesions`; of the largest lesion its `compactness` 4 pi A / P**2 (1 for a
    disc), minor by major axis, centre y and x (shares); for K > 1 the share of each class in the lesions' area.
    """
    rows = []
    for mask in masks:
        found = parts(mask)
        region = measure.regionprops(found[0].where.astype(np.uint8))[0]
        rows.append({"area": float((mask > 0).mean()), "lesions": float(len(found)),
                     "compactness": compactness(region.image),
                     "axis_ratio": region.axis_minor_length / max(1.0, region.axis_major_length),
                     "centre_y": region.centroid[0] / mask.shape[0], "centre_x": region.centroid[1] / mask.shape[1]}
                    | {f"class_{c}": float((mask == c).sum() / (mask > 0).sum()) for c in range(1, classes + 1) if classes > 1})
    return pd.DataFrame(rows)


def compactness(lesion: Bits) -> float:
    """4 pi A / P**2 of a lesion `[H,W]`: 1 for a disc, less for an irregular or long one."""
    perimeter = max(1.0, float(measure.perimeter_crofton(lesion)))
    return float(4 * np.pi * lesion.sum() / perimeter**2)


def comparison(real: Sequence[Pixels], invented: Sequence[Pixels]) -> pd.DataFrame:
    """One row a statistic: both means and medians, and the p-value of the two-sample Kolmogorov-Smirnov test."""
    classes = max(int(mask.max()) for mask in real)
    ours, theirs = mask_statistics(invented, classes), mask_statistics(real, classes)
    return pd.DataFrame([{"statistic": name, "real_mean": theirs[name].mean(), "invented_mean": ours[name].mean(),
                          "real_median": theirs[name].median(), "invented_median": ours[name].median(),
                          "ks_p_value": ks_2samp(theirs[name], ours[name]).pvalue} for name in theirs])


def polar_outline(shape: Shape) -> Bits:
    """A lesion in canonical pose and polar coordinates: `[RINGS, ANGLES]`."""
    grid = 64
    drawn = shape.draw(np.array([np.log(SIDE), 0.5, 0.5, 0.0, 0.0]), grid).astype(np.float64)
    radius = ((np.arange(_RINGS) + 0.5) / _RINGS * _RADIUS * grid)[:, None]
    angle = np.arange(_ANGLES) / _ANGLES * 2 * np.pi
    places = np.stack([radius * np.sin(angle), radius * np.cos(angle)]) + (grid - 1) / 2
    inside: Bits = ndimage.map_coordinates(drawn, places, order=1) > 0.5
    return inside


def likeness(some: Bits, others: Bits) -> Floats:
    """Greatest intersection over union of each pair over 64 turns, and mirrored.

    A turn of an outline is a shift along its angles, so all turns of a pair are one circular correlation. Lesions without
    size, place and elongation are all roundish: judge a value against those of real lesions among themselves.

    Args:
        some: outlines `[S,RINGS,ANGLES]`.
        others: outlines `[O,RINGS,ANGLES]`.

    Returns:
        `[S,O]` in [0,1].
    """
    weight = np.sqrt(np.arange(_RINGS) + 0.5)[:, None]  # a ring's area grows with its radius
    ours, theirs = ((np.fft.rfft(side * weight).transpose(2, 0, 1)) for side in (some, others))
    sizes = [(side * weight**2).sum(axis=(1, 2)) for side in (some, others)]
    table = np.zeros((len(some), len(others)))
    for start in range(0, len(some), 32):
        rows = slice(start, start + 32)
        common = np.maximum(*(_greatest(ours[:, rows], side) for side in (theirs.conj(), theirs)))
        table[rows] = common / (sizes[0][rows, None] + sizes[1][None] - common)
    return table


def _greatest(ours: NDArray[np.complex128], theirs: NDArray[np.complex128]) -> Floats:
    """Greatest intersection over all turns of two sets of transformed outlines `[F,S,R]` and `[F,O,R]`: `[S,O]`."""
    greatest: Floats = np.fft.irfft(ours @ theirs.transpose(0, 2, 1), _ANGLES, axis=0).max(axis=0)
    return greatest


def outside(masks: Sequence[Pixels] | Pixels, fields: Sequence[Bits]) -> float:
    """Mean share of the lesions' area that lies outside of each mask's imaged field."""
    return float(np.mean([(mask[~field] > 0).sum() / (mask > 0).sum() for mask, field in zip(masks, fields, strict=True)]))
