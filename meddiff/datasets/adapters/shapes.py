"""Masks as annotation tools draw them: outlines, circles, rectangles, run lengths and small pictures.

A coordinate is the centre of a pixel, counted from 0, and the border belongs to the shape: a square of 4 by 4 fills 25 pixels, as
with scikit-image, Pillow and OpenCV. pycocotools takes coordinates for corners of pixels and fills 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from meddiff.datasets.adapters.raw import TURN
from meddiff.datasets.decoding import Decoded, as_stored, turned
from meddiff.errors import MeddiffError

Size = tuple[int, int]  # height and width [pixels]


class Region(Protocol):
    """Part of a mask."""

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """`[H, W]` bool, true inside; raises a ValueError that says why it can't lie on an image of this size."""


@dataclass(frozen=True, eq=False)
class Contour:
    """A polygon.

    Attributes:
        points: `[N, 2]` float64 corners as (x, y), in pixels.
        sides: the image's sides in units of `points`, 1 or 100 where they are shares of these; 0 for pixels.
    """

    points: NDArray[np.float64]
    sides: float = 0

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1:] != (2,) or len(self.points) < 3:
            raise ValueError("a polygon needs three points of x and y at least")
        if not np.isfinite(self.points).all():
            raise ValueError("a polygon's corners must be finite numbers")

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The pixels whose centres lie inside or on the border."""
        corners = self.points * (np.array(size[::-1]) / self.sides if self.sides else 1)
        # Corners far out say nothing of the image, but would cost memory.
        _lie_on(corners.min(axis=0), corners.max(axis=0), size)
        return np.asarray(polygon2mask(size, corners[:, ::-1]), dtype=np.bool_)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse or circle around (x, y): half its width and height [pixels], turned clockwise [degrees]."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0

    def __post_init__(self) -> None:
        if not np.isfinite([self.x, self.y, self.width, self.height, self.angle]).all() or min(self.width, self.height) <= 0:
            raise ValueError("an ellipse needs finite numbers, and radii above 0")

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The pixels whose centres lie inside or on the border."""
        centre, reach = np.array([self.x, self.y]), max(self.width, self.height)
        _lie_on(centre - reach, centre + reach, size)
        rows, columns = np.ogrid[:size[0], :size[1]]
        cos, sin = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        right, down = columns - self.x, rows - self.y
        along, across = (right * cos + down * sin) / self.width, (down * cos - right * sin) / self.height
        return np.asarray(along ** 2 + across ** 2 <= 1 + 1e-12)


@dataclass(frozen=True, eq=False)
class Patch:
    """A small mask `[h, w]` bool whose first pixel lies at row `top` and column `left` of the image."""

    inside: NDArray[np.bool_]
    top: int = 0
    left: int = 0

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The same pixels."""
        height, width = self.inside.shape
        if self.top < 0 or self.left < 0 or self.top + height > size[0] or self.left + width > size[1]:
            raise ValueError(f"a mask of {width}×{height} pixels at ({self.left}, {self.top}) doesn't fit")
        filled = np.zeros(size, dtype=np.bool_)
        filled[self.top:self.top + height, self.left:self.left + width] = self.inside
        return filled


@dataclass(frozen=True, eq=False)
class Runs:
    """Run lengths, of background first, then in turns: of the whole image column by column, or of a part of it row by row.

    Attributes:
        counts: not negative.
        size: of what they cover.
        place: row and column of the part's first pixel; None: they cover the image.
    """

    counts: Sequence[int]
    size: Size
    place: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        pixels = self.size[0] * self.size[1]
        if min(self.size) < 1 or min(self.counts, default=0) < 0 or sum(self.counts) != pixels:
            raise ValueError(f"run lengths must cover {_by(self.size)} = {pixels} pixels, these cover {sum(self.counts)}")

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The same pixels."""
        if max(self.size) > max(size) or (self.place is None and self.size != size):
            raise ValueError(f"run lengths of {_by(self.size)} pixels don't fit")
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        inside = flat.reshape(self.size, order="F" if self.place is None else "C")
        return inside if self.place is None else Patch(inside, *self.place).fill(size)


@dataclass(frozen=True, eq=False)
class Drawing:
    """All that a tool drew on one image; without shapes a mask that holds nothing.

    Attributes:
        source: the export.
        place: where in it, for messages.
        shapes: each with its class, 1 to K; the higher one wins where they overlap.
        size: of the image as the export says, None where it doesn't.
        turns: the tool shows images turned as their EXIF orientation says; else their size must tell.
    """

    source: Path
    place: str
    shapes: Sequence[tuple[int, Region]]
    size: Size | None = None
    turns: bool = False

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The shapes on the image, see `MaskSource`."""
        stored = image.pixels.shape[:2]
        shown = turned(image.pixels, image.orientation).shape[:2]
        if self.size and self.size not in ({shown} if self.turns else {stored, shown}):
            raise MeddiffError(f"{self.source}: {self.place}",
                               f"the export says {_by(self.size)} pixels, the image has {_by(shown)}",
                               "Replace the image by the one that was annotated")
        if image.orientation > 1 and self.shapes and not self.turns and (self.size is None or stored == shown):
            raise MeddiffError(f"{self.source}: {self.place}",
                               "nothing tells whether a shape was drawn on the image as stored or turned", TURN)
        upright = self.turns or (self.size is not None and self.size == shown)
        filled = np.zeros(shown if upright else stored, np.uint8)
        for label, shape in self.shapes:
            try:
                filled = np.maximum(filled, shape.fill(filled.shape) * np.uint8(label))  # type: ignore[arg-type]
            except ValueError as e:
                raise MeddiffError(f"{self.source}: {self.place}", f"{e} on the image of {_by(filled.shape)} pixels",
                                   "Mend the shape in the tool, and export again") from e
        if upright:  # by the image's own orientation, so that only one way fits
            return Decoded(as_stored(filled, image.orientation), image.orientation)
        return Decoded(filled)


def _lie_on(first: NDArray[np.float64], last: NDArray[np.float64], size: Size) -> None:
    width, height = size[1], size[0]
    if (last < 0).any() or first[0] > width or first[1] > height:
        raise ValueError("a shape lies outside")
    if max(-first.min(), last[0] - width, last[1] - height) > 10 * max(size):
        raise ValueError("a shape reaches far outside")


def _by(size: Sequence[int]) -> str:
    return f"{size[1]}×{size[0]}"
