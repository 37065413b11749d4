"""Fine texture of lesions: what real ones have of it, and its completion from the background's where painting left too little."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff.cases import Pixels
from meddiff.lesions.seams import window

_SCALES = (1.0, 2.0)  # standard deviations of the Gaussians between which the bands lie [pixels]
_DARK = 16.0          # added to gray levels before their logarithm, so that a black pixel's noise stays small [gray levels]
_RING = 8             # width of a lesion's surroundings [pixels]
_GUARD = 2            # pixels to either side of the border that belong to neither
REACH = _GUARD + _RING + 9  # of the ring and the widest Gaussian around it, which ends at 4 deviations [pixels]
_WINDOW = 4.0         # standard deviation of the window of a local mean [pixels]
_OUTLIER = 2.5        # detail beyond this many deviations is structure (a hair, a sticker's edge) and is cut to it

_Array = NDArray[np.float32]


def texture_ratios(images: Sequence[Pixels], masks: Sequence[Pixels]) -> list[float]:
    """Deviation of each fine band inside real lesions, as a share of that in their ring (ours).

    Args:
        images: each `[H,W,3]` uint8.
        masks: each `[H,W]`, above 0 inside; a pair without inside or ring is left out.

    Returns:
        For each band, finest first, the median over the pairs; empty where there is no pair.
    """
    found = []
    for image, mask in zip(images, masks, strict=True):
        inside, ring = _regions(mask > 0)
        if inside.any() and ring.any():
            gray = _logarithm(image)
            own, around = _bands(gray, mask > 0), _bands(gray, mask == 0)
            found.append([_deviation(a[inside]) / _deviation(b[ring]) for a, b in zip(own, around, strict=True)])
    return [float(ratio) for ratio in np.median(found, axis=0)] if found else []


def keep_texture(
    painted: _Array, background: Pixels, mask: NDArray[np.bool_], ratios: Sequence[float], strength: float = 1.0
) -> _Array:
    """Add the background's own detail under the mask where a painted lesion has less of it than real ones (ours).

    On the logarithm of the mean of channels, in which speckle and shading add up and a dark lesion stays dark. In each
    fine band, coarse to fine: p + b √max(0, T² - local mean of p²) / σ, with p the painted and b the background's detail,
    σ the local deviation of b as the band sees it, and T the ratio times the deviation of b in the ring or under the mask,
    whichever is less (hairs raise either). What is sharp enough stays.

    Args:
        painted: `[H,W,3]` gray levels 0 to 255.
        background: `[H,W,3]` uint8, with real texture under the mask.
        mask: `[H,W]`.
        ratios: of `texture_ratios`.
        strength: 0 adds nothing, 1 all that is missing.

    Returns:
        `[H,W,3]` gray levels, as painted outside the mask.
    """
    whole, part = painted, window(mask, REACH)
    painted, background, mask = painted[part], background[part], mask[part]
    inside, ring = _regions(mask)
    if not ring.any():
        return whole
    before, real = _logarithm(painted), _logarithm(background)
    after, around = before, _bands(real, ~mask)
    for band, under in reversed(list(enumerate(_bands(real, mask)))):
        usual = _deviation(under[inside])
        target = ratios[band] * min(usual, _deviation(around[band][ring]))
        detail = np.clip(under, -_OUTLIER * usual, _OUTLIER * usual)
        seen = np.sqrt(_mean(_bands(detail, mask)[band] ** 2, inside, _WINDOW))
        missing = np.sqrt(np.maximum(target**2 - _mean(_bands(after, mask)[band] ** 2, inside, _WINDOW), 0))
        after = after + strength * mask * detail * missing / np.maximum(seen, usual / 2)
    completed: _Array = (painted + _DARK) * np.exp(after - before)[:, :, None] - _DARK
    result: _Array = whole.astype(completed.dtype)
    result[part] = np.where(mask[:, :, None], completed, painted)
    return result


def _logarithm(image: Pixels | _Array) -> _Array:
    gray: _Array = np.log(np.clip(image.mean(axis=2, dtype=np.float32), 0, 255) + _DARK)
    return gray


def _bands(gray: _Array, region: NDArray[np.bool_]) -> list[_Array]:
    """Differences of an image `[H,W]` and its ever wider means over the region, finest first: its border is no detail."""
    return [fine - coarse for fine, coarse in pairwise([gray, *(_mean(gray, region, scale) for scale in _SCALES)])]


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The inside of a lesion and its ring, both away from its border; of a thin lesion all is inside."""
    inside, distance = ndimage.distance_transform_edt(mask) > _GUARD, ndimage.distance_transform_edt(~mask)
    return inside if inside.any() else mask, (distance > _GUARD) & (distance <= _GUARD + _RING)


def _deviation(detail: _Array) -> float:
    """Standard deviation about 0 from the median magnitude, which structures don't move; never 0."""
    return max(1.4826 * float(np.median(np.abs(detail))), 1e-4)


def _mean(values: _Array, region: NDArray[np.bool_], scale: float) -> _Array:
    """Mean of the values in the region, in a Gaussian window `scale` wide, `[H,W]`; of no meaning far from the region."""
    weight = ndimage.gaussian_filter(region.astype(np.float32), scale, mode="constant")
    mean: _Array = ndimage.gaussian_filter(values * region, scale, mode="constant") / np.maximum(weight, 1e-6)
    return mean
