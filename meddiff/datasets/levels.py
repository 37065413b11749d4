"""Gray levels of more than 8 bits, shown in 8, and the values of masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import Pixels


def eight_bits(levels: NDArray[Any]) -> Pixels:
    """Gray levels `[H, W]` of more than 8 bits as uint8.

    Integers within 0 to 255 stay as they are. Otherwise the window from the 0.1th to the 99.9th percentile of the image's own
    levels is spread over 0 to 255 (ours): files of 16 bits mostly hold 10 to 14, which a fixed scale would leave dark.

    Raises:
        ValueError: a level isn't finite.
    """
    if not np.isfinite(levels).all():
        raise ValueError("its gray levels must be finite numbers")
    if levels.dtype.kind in "iu" and levels.min() >= 0 and levels.max() <= 255:
        return levels.astype(np.uint8)
    low, high = np.percentile(levels, (0.1, 99.9))
    return spread_levels(levels, float(low), float(high))


def spread_levels(levels: NDArray[Any], low: float, high: float) -> Pixels:
    """Levels as uint8: `low` and below is 0, `high` and above 255."""
    spread = (levels.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.asarray(np.rint(np.clip(spread, 0, 1) * 255), dtype=np.uint8)


def windowed(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR") -> Pixels:
    """Gray values `[H, W]` as uint8 through a window (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
        centre, width: in the units of the values.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """
    values = np.asarray(values, np.float64)
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)


def held_values(mask: NDArray[Any]) -> list[int]:
    """What a mask of whole numbers holds but 0, rising."""
    return [int(value) for value in np.flatnonzero(np.bincount(mask.ravel())) if value]
