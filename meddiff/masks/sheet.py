"""A picture of masks: real ones above invented ones."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from meddiff.cases import Pixels

_COLUMNS, _REAL_ROWS, _INVENTED_ROWS = 12, 2, 3
_GAP, _BETWEEN, _GROUND = 4, 8, 90  # between masks and between both kinds [pixels], and their gray level


def mask_sheet(real: Sequence[Pixels], invented: Sequence[Pixels]) -> Image.Image:
    """Two rows of real masks `[S, S]` of 0 to K above three rows of invented ones; classes in gray levels."""
    size, classes = real[0].shape[0], max(int(mask.max()) for mask in real)
    step = size + _GAP
    sheet = np.full(((_REAL_ROWS + _INVENTED_ROWS) * step + _BETWEEN, _COLUMNS * step), _GROUND, np.uint8)
    for top, masks, rows in ((0, real, _REAL_ROWS), (_REAL_ROWS * step + _BETWEEN, invented, _INVENTED_ROWS)):
        for i, mask in enumerate(masks[:rows * _COLUMNS]):
            y, x = top + i // _COLUMNS * step, i % _COLUMNS * step
            sheet[y:y + size, x:x + size] = mask * (255 // classes)
    return Image.fromarray(sheet)
