"""The case: an id that joins an image and its mask, and how both are read from and written to files.

An image of one channel becomes three equal ones, alpha is dropped, and more than 8 bits are brought to 8 (`eight_bits`). A mask
holds 0 for the background and 1 to K for the class of the lesion. On disk a mask of one class holds 0 and 255, one of several
classes their indices with a palette, so that any viewer shows both.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from meddiff.errors import MeddiffError

Pixels = NDArray[np.uint8]
UNREADABLE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")    # Pillow's modes of one channel with more than 8 bits
# Of the classes 1 to 8, told apart by the colour-blind too (Okabe and Ito, Color Universal Design, 2008; the eighth is ours).
CLASS_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
                 (187, 187, 187))
PALETTE = [0, 0, 0, *(level for colour in CLASS_COLOURS for level in colour)]


@dataclass(frozen=True)
class Frame:
    """The part of a square image that shows the original, without the bars of `pad` [pixels]."""

    top: int
    left: int
    height: int
    width: int

    def mask(self, size: int) -> NDArray[np.bool_]:
        """`[size, size]` bool, true inside the frame."""
        inside = np.zeros((size, size), dtype=bool)
        inside[self.top:self.top + self.height, self.left:self.left + self.width] = True
        return inside


@dataclass(frozen=True)
class Case:
    """One image with its mask.

    Attributes:
        id: unique name, also the file stem.
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` uint8, 0 = background, 1 to K = class of the lesion; None for an image without annotation.
        group: patient, video or near-duplicate group; a group never crosses a split.
        frame: where the square shows the original image; None: everywhere.
    """

    id: str
    image: Pixels
    mask: Pixels | None
    group: str = ""
    frame: Frame | None = None

    @property
    def framed(self) -> NDArray[np.bool_]:
        """`[H, W]` bool: where the square shows the original image, the whole of it without a frame."""
        return np.ones(self.image.shape[:2], dtype=bool) if self.frame is None else self.frame.mask(len(self.image))


def read_image(path: Path) -> Pixels:
    """Decode an image file to `[H, W, 3]` uint8 RGB.

    One channel becomes three equal ones, alpha is dropped, palettes are read by their colours, and one channel of more than 8
    bits goes through `eight_bits`.

    Raises:
        MeddiffError: the file is missing, is no image, or is cut short.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode in DEEP:
                return np.repeat(eight_bits(np.array(picture))[:, :, None], 3, axis=2)
            # Pillow warns of a palette's transparency unless it goes through RGBA.
            whole = picture.convert("RGBA") if "transparency" in picture.info else picture
            return np.array(whole.convert("RGB"), dtype=np.uint8)
    except UNREADABLE as e:
        raise MeddiffError(path, f"an image must be there and decode ({e})", "Replace the file with an intact copy") from e


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
    spread = (levels.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.asarray(np.rint(np.clip(spread, 0, 1) * 255), dtype=np.uint8)


def read_mask(path: Path, classes: int | None = None) -> Pixels:
    """Decode a mask file to `[H, W]` uint8, 0 = background and 1 to K = class.

    Args:
        classes: K. None reads what `write_mask` wrote, and any mask of one class. One class may be given as 1-bit, {0, 1},
            {0, 255} or {0, 65535}, in one channel, equal RGB channels or a palette's colours; several as the indices 0 to K,
            in one channel, equal RGB channels or a palette's indices. Alpha is dropped.

    Raises:
        MeddiffError: the file is missing, no image, or holds other values.
    """
    try:
        with Image.open(path) as picture:
            own = (picture.getpalette() or [])[:len(PALETTE)] == PALETTE
            indexed = picture.mode == "P" and (own if classes is None else classes > 1)
            colours = picture.mode in ("RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr") or (picture.mode == "P" and not indexed)
            pixels = np.array(picture.convert("RGBA").convert("RGB") if colours else picture)
    except UNREADABLE as e:
        raise MeddiffError(path, f"a mask must be there and decode ({e})", "Replace the file with an intact copy") from e
    values = np.unique(pixels).tolist()
    if indexed or (classes or 1) > 1:
        return _indices(path, pixels, classes or len(CLASS_COLOURS), values)
    if not any(set(values) <= {0, one} for one in (1, 255, 65535)):
        raise MeddiffError(
            path,
            f"a mask holds only 0 and 1 or 0 and 255, this one holds {len(values)} values such as {values[len(values) // 2]:g}",
            "Save it without smoothing, as PNG rather than JPEG; if its values are classes, name them in `prepare.classes`",
        )
    flat = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return (flat > 0).astype(np.uint8)


def _indices(path: Path, pixels: NDArray[Any], classes: int, values: list[float]) -> Pixels:
    if pixels.ndim == 3 and (pixels != pixels[:, :, :1]).any():
        raise MeddiffError(path, "a mask of several classes holds class indices, this one holds colours",
                           f"Save it with one channel or as palette: 0 for the background, 1 to {classes} for the classes")
    if wrong := [value for value in values if value not in range(classes + 1)]:
        raise MeddiffError(path, f"a mask of {classes} classes holds the indices 0 to {classes}, this one holds {wrong[0]:g}",
                           "Save class indices without smoothing, as PNG, or name every class in `prepare.classes`")
    flat = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    return flat.astype(np.uint8)


def write_image(path: Path, image: Pixels) -> None:
    """Write `[H, W, 3]` uint8 RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image, mode=None).save(path, compress_level=3)


def write_mask(path: Path, mask: Pixels, classes: int = 1) -> None:
    """Write a `[H, W]` mask of 0 to K as PNG: 0 and 255 for one class, indices with a palette for several.

    Args:
        classes: K; a mask with an index above 1 is written with a palette whatever is said here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    several = max(classes, int(mask.max(initial=0))) > 1
    picture = Image.fromarray(mask.astype(np.uint8) if several else (mask > 0).astype(np.uint8) * 255)
    if several:
        picture.putpalette(PALETTE)
    picture.save(path, compress_level=3)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(cases: Iterable[Case]) -> str:
    """SHA-256 of the cases' ids, pixels and masks, as hexadecimal digits."""
    found = hashlib.sha256()
    for case in cases:
        found.update(case.id.encode() + case.image.tobytes() + (b"" if case.mask is None else case.mask.tobytes()))
    return found.hexdigest()
