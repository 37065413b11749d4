"""Mask corrosion: accepted masks are eroded, since painted lesions end inside the mask that guided them."""

import numpy as np
from scipy import ndimage

from meddiff.cases import Pixels

GREATEST_SHARE = 0.5


def corrode(mask: Pixels, radius: float) -> Pixels:
    """Erode a mask by a disc.

    A pixel stays where its Euclidean distance to the nearest pixel outside exceeds `radius` + 1/2: the boundary runs half a
    pixel before that pixel's centre, so that a straight edge retreats by `radius` rounded, and radius 0 changes nothing.
    Each connected component retreats by at most half of its own inscribed radius (`GREATEST_SHARE`), so that none vanishes.
    The frame is no boundary: a lesion that it cuts goes on beyond. Radius, cap and frame are ours.

    Args:
        mask: `[H, W]` uint8 of 0 and 1.
        radius: erosion, sub-pixel values allowed [pixels].

    Returns:
        `[H, W]` uint8 of 0 and 1, a subset of `mask`; a mask that fills the frame or is empty stays as it is.
    """
    if mask.all() or not mask.any():
        return mask.copy()
    distance = ndimage.distance_transform_edt(mask)
    components, n = ndimage.label(mask, np.ones((3, 3)))
    inscribed = ndimage.maximum(distance, components, np.arange(n + 1)) - 0.5
    retreat = np.minimum(radius, GREATEST_SHARE * inscribed)[components]
    kept: Pixels = ((mask > 0) & (distance > retreat + 0.5)).astype(np.uint8)
    return kept
