"""A look for text that is burned into an image, such as a patient's name: strokes of one level, in a row, of one height.

It flags images for eyes; it is no proof that none is there. `benchmarks/burned_text.py` measures what it finds and misses.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from meddiff.cases import Pixels

_LONGEST = 800         # side [pixels] to which larger images are shrunk
_STROKE = 9             # pixels: whatever is wider isn't a stroke of a letter
_CONTRAST, _FAINT = 60, 40   # levels of a stroke above or below what is around it
_EVEN, _PLATEAU = 24, 0.4   # this share of a letter's pixels lies within so many levels of its extreme one
_HEIGHTS = (5, 60)      # pixels of a letter
_LETTERS = 4            # in a row, of one height on one line
_MANY, _SHARE = 4000, 0.15  # pieces, and share of the pixels in strokes: an image with more is texture throughout


def shows_text(image: Pixels) -> bool:
    """Whether an image `[H, W, 3]` uint8 seems to hold bright or dark text in a row, from left to right."""
    shrink = -(-max(image.shape[:2]) // _LONGEST)
    red, green, blue = np.moveaxis(np.asarray(Image.fromarray(image).reduce(shrink)), 2, 0)
    gray = np.maximum(np.maximum(red, green), blue)
    for levels in (gray, 255 - gray):
        raised = ndimage.white_tophat(levels, size=_STROKE)
        # Letters of any level, where texture doesn't touch them; and those of the image's own extreme level, where it does.
        for strokes in (raised > _CONTRAST, (raised > _FAINT) & (levels >= int(levels.max()) - _EVEN)):
            if strokes.mean() <= _SHARE and _has_row(_letters(levels, strokes)):
                return True
    return False


def _letters(gray: Pixels, strokes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The pieces that may be bright letters, `[N, 5]`: left, right, bottom and height [pixels], and level."""
    pieces, count = ndimage.label(strokes, np.ones((3, 3)))
    if not 0 < count <= _MANY:
        return np.empty((0, 5))
    index = np.arange(1, count + 1)
    brightest = ndimage.maximum(gray, pieces, index)
    level = np.concatenate([[0], brightest])[pieces]
    even = ndimage.mean((gray >= level - _EVEN) & (pieces > 0), pieces, index)
    boxes = ndimage.find_objects(pieces)
    sides = np.array([(box[1].start, box[1].stop, box[0].stop, box[0].stop - box[0].start) for box in boxes], np.float64)
    width, height = sides[:, 1] - sides[:, 0], sides[:, 3]
    fits = (even >= _PLATEAU) & (height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]) & (width <= 1.5 * height) & (width >= 1)
    return np.asarray(np.column_stack([sides, brightest])[fits], np.float64)


def _has_row(letters: NDArray[np.float64]) -> bool:
    """Whether enough letters follow each other on a line, each within a letter's height of the last."""
    order = letters[np.argsort(letters[:, 0])]
    lengths = np.ones(len(order), int)
    for i, (left, _, bottom, height, level) in enumerate(order):
        before = order[:i]
        near = (np.abs(before[:, 2] - bottom) <= 0.15 * height + 1) & (np.abs(before[:, 3] / height - 1) <= 0.4) \
            & (left - before[:, 1] <= height) & (left >= before[:, 1] - 1) & (np.abs(before[:, 4] - level) <= _EVEN)
        lengths[i] += lengths[:i][near].max(initial=0)
    return bool(lengths.max(initial=0) >= _LETTERS)
