"""The imaged field: the part of a frame that shows tissue, without black surround, padding bars and vignette corners."""

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

from meddiff.cases import Pixels
from meddiff.lesions.shapes import NEIGHBOURS, Bits, Floats

_LIT = 0.12  # lit is what lies above the dark level by this share of the way to the bright one (both of the image itself)
_BLACK = 0.35  # a dark level above this share of the bright one is tissue: nothing is black
_FLOOR = 8.0  # gray level that coded black may reach by noise and compression
_PART = 0.1  # lit parts below this share of the largest one are captions
_LEAST = 0.2  # a smaller share of the frame is no usable field


def imaged_field(image: Pixels) -> Bits:
    """Where an image shows something.

    Ours: lit pixels are those of the blurred brightest channel above `_LIT` of the way from the darkest level along the frame's
    border to the 90th percentile, opened. The field is the convex hull of their largest part and of those at least a tenth as
    large, without captions, as sectors and lenses are convex: so dark lesions and the shadows behind them belong to it, and a
    dark depth that shows nothing does not.

    Args:
        image: `[H,W,3]` uint8.

    Returns:
        `[H,W]` bool; the whole frame where less than a fifth of it would remain.
    """
    side = max(image.shape[:2])
    level = ndimage.gaussian_filter(image.max(axis=2).astype(np.float64), side / 64)
    bright = float(np.quantile(level, 0.9))
    dark = min(_BLACK * bright, *(float(edge.min()) for edge in (level[0], level[-1], level[:, 0], level[:, -1])))
    lit, reach = level > max(_FLOOR, dark + _LIT * (bright - dark)), max(1, side // 64)
    opened = ndimage.binary_dilation(ndimage.binary_erosion(lit, iterations=reach, border_value=1), iterations=reach)
    whole = np.ones(lit.shape, bool)
    if not opened.any():
        return whole
    labels, _ = ndimage.label(opened, NEIGHBOURS)
    areas = np.bincount(labels.ravel())[1:]
    hull: Bits = convex_hull_image(np.isin(labels, 1 + np.flatnonzero(areas >= _PART * areas.max())))
    field: Bits = ndimage.binary_erosion(hull, iterations=reach, border_value=1)  # the blur had widened it
    return field if field.mean() >= _LEAST else whole


def box(field: Bits) -> Floats:
    """`[2,2]`: first and last (y, x) of the field's bounding box, as shares of the frame."""
    points = np.argwhere(field)
    return np.stack([points.min(axis=0), points.max(axis=0) + 1]) / field.shape
