"""Images large enough to look at, with the outlines of masks."""

from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy import ndimage

from meddiff.cases import CLASS_COLOURS, Pixels, outlined, png_bytes

_SIDE = 512  # least side of a picture [pixels]
_EIGHT = np.ones((3, 3), bool)
Colour = tuple[int, int, int]
INVENTED, FINAL, REFERENCE, PREDICTED = (255, 196, 0), (64, 224, 255), (53, 208, 127), (255, 77, 77)


def outlined_png(image: Pixels, masks: Iterable[tuple[Pixels, Colour]] = (), classes: int = 1) -> bytes:
    """PNG of an image with outlines.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        masks: `[H, W]` of 0 to K each, with its colour; of several classes each has its own.
        classes: K.
    """
    scale = max(1, -(-_SIDE // max(image.shape[:2])))
    side = (image.shape[1] * scale, image.shape[0] * scale)
    layers = [(inside, shade) for mask, colour in masks
              for large in [np.asarray(Image.fromarray(mask).resize(side, Image.Resampling.NEAREST))]
              for label in range(1, classes + 1)
              for shade in [colour if classes == 1 else CLASS_COLOURS[label - 1]]
              for outer in [large > 0 if classes == 1 else large == label]
              for inside in (outer, ndimage.binary_erosion(outer, _EIGHT))]  # lines of two pixels
    picture = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC))
    return png_bytes(Image.fromarray(outlined(picture, layers)), 1)


def css(colour: Colour) -> str:
    """The colour as a stylesheet names it."""
    return f"rgb{colour}"
