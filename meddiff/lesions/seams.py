"""How strong the steps at a lesion's border are, and joins of painting and background that are no stronger than real ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff.cases import Pixels

_RING = 6           # width of the surroundings that steps are compared with [pixels]
REAL_RIM = 1        # rim for which real lesions are measured [pixels]
_GREATEST = 1 / 16  # widest feather, as a share of the image's side


def seam(image: Pixels, mask: Pixels | NDArray[np.bool_], background: Pixels | None, rim: int) -> float:
    """Strength of the steps across a lesion's border, beyond the background's own, in steps of its surroundings (ours).

    A step is the difference of mean gray level between two pixels side by side. For each whole distance k from 0 to `rim`,
    those between a pixel at most k from the mask and one farther away are averaged; the difference of this mean between
    image and background, over the mean step in the ring outside the rim, is the seam at k, and the greatest one counts.

    Args:
        image: `[H,W,3]` uint8.
        mask: `[H,W]`, above 0 inside.
        background: `[H,W,3]` uint8 before painting; None for a real lesion, whose surroundings stand for it.
        rim: soft rim outside the mask in which the image may differ [pixels].

    Returns:
        0 for an untouched background; a real lesion has the contrast of its border, which is what to compare with. NaN
        where mask and rim leave no border or no surroundings.
    """
    distance = ndimage.distance_transform_edt(mask == 0)
    pairs = [np.concatenate([part.ravel() for part in _sides(distance, end)]) for end in (0, 1)]
    near, far = np.minimum(*pairs), np.maximum(*pairs)
    around = (near > rim) & (far <= rim + _RING + 1)
    crossings = [crossing for k in range(rim + 1) if (crossing := (near <= k) & (far > k)).any()]
    if not crossings or not around.any():
        return float("nan")
    steps = _steps(image)
    before = np.full_like(steps, steps[around].mean()) if background is None else _steps(background)
    usual = max(float(before[around].mean()), 1.0)
    return max(float(steps[crossing].mean() - before[crossing].mean()) for crossing in crossings) / usual


def real_seams(images: Sequence[Pixels], masks: Sequence[Pixels]) -> list[float]:
    """`seam` of each real lesion, those without one left out, in ascending order."""
    found = [seam(image, mask, None, REAL_RIM) for image, mask in zip(images, masks, strict=True) if mask.any()]
    return sorted(value for value in found if np.isfinite(value))


def join(
    painted: NDArray[np.float32], background: Pixels, mask: NDArray[np.bool_], rim: int, limit: float | None = None
) -> Pixels:
    """Join a painting with its background: all painted deep inside the mask, all background beyond the rim.

    The share of the painting falls linearly from a depth of f pixels inside the mask to the end of the rim. f (ours) is the
    least of 0, 1, 2, 4, ... whose seam is at most `limit`; at most half the lesion's depth and a 16th of the image.

    Args:
        painted: `[H,W,3]` gray levels 0 to 255.
        background: `[H,W,3]` uint8.
        mask: `[H,W]`, not empty.
        rim: soft rim outside the mask in which the result may differ from the background [pixels].
        limit: of the seam; None for f = 0.

    Returns:
        `[H,W,3]` uint8, equal to the background farther than `rim` from the mask.
    """
    frame, result, part = len(mask), background.copy(), window(mask, rim + _RING + 2)
    painted, background, mask = painted[part], background[part], mask[part]
    depth, distance = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    place = np.where(mask, depth - 1, -distance) + rim + 1
    feather, widest = 0, min(depth.max() / 2, _GREATEST * frame)
    while True:
        share = (np.clip(place / (rim + 1 + feather), 0, 1) * (distance <= rim))[:, :, None]
        mixed = np.clip(np.round(share * painted + (1 - share) * background), 0, 255).astype(np.uint8)
        image: Pixels = np.where(share > 0, mixed, background)
        wider = max(1, 2 * feather)
        if limit is None or wider > widest or not seam(image, mask, background, rim) > limit:
            result[part] = image
            return result
        feather = wider


def window(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The part of a frame that holds a mask `[H,W]`, not empty, and so many pixels around it: what lies beyond is no matter."""
    ends = [np.flatnonzero(mask.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    rows, columns = (slice(max(0, int(first) - margin), int(last) + 1 + margin) for first, last in ends)
    return rows, columns


def _sides(values: NDArray[np.float64], end: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The upper (`end` 0) or lower of every two pixels one above the other, and the left or right of two side by side."""
    return (values[1:], values[:, 1:]) if end else (values[:-1], values[:, :-1])


def _steps(image: Pixels) -> NDArray[np.float64]:
    """Magnitudes of all steps between neighbours, in the order of `_sides`."""
    gray = image.mean(axis=2)
    parts = zip(_sides(gray, 0), _sides(gray, 1), strict=True)
    return np.concatenate([np.abs(a - b).ravel() for a, b in parts])
