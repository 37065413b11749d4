"""The case: an id that joins an image and its mask, how both are written, read again and shown.

A mask holds 0 for the background and 1 to K for the class of the lesion. On disk a mask of one class holds 0 and 255, one of
several classes their indices with a palette, so that any viewer shows both.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy import ndimage

from meddiff.errors import MeddiffError

Pixels = NDArray[np.uint8]
UNREADABLE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")    # Pillow's modes of one channel with more than 8 bits
# Of the classes 1 to 8, told apart by the colour-blind too (Okabe and Ito, Color Universal Design, 2008; the eighth is ours).
CLASS_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
                 (187, 187, 187))
_ANEW = "Run what wrote it again, such as `dvc repro`"
PALETTE = [0, 0, 0, *(level for colour in CLASS_COLOURS for level in colour)]


class Encoded(Protocol):
    """What holds an encoded picture: a file's path, or a place elsewhere whose text names it."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


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


def read_image(path: Encoded) -> Pixels:
    """Decode an image that meddiff wrote to `[H, W, 3]` uint8 RGB; those of others are read by `datasets.decoding`.

    Raises:
        MeddiffError: the file is missing, is no image, or is cut short.
    """
    try:
        with Image.open(BytesIO(path.read_bytes())) as picture:
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except UNREADABLE as e:
        raise MeddiffError(path, f"an image must be there and decode ({e})", _ANEW) from e


def read_mask(path: Encoded) -> Pixels:
    """Decode a mask that meddiff wrote, of one class or of several, to `[H, W]` uint8, 0 = background and 1 to K = class.

    Raises:
        MeddiffError: the file is missing, is no image, or holds other values.
    """
    try:
        with Image.open(BytesIO(path.read_bytes())) as picture:
            indexed = picture.mode == "P"
            pixels = np.array(picture if indexed else picture.convert("L"))
    except UNREADABLE as e:
        raise MeddiffError(path, f"a mask must be there and decode ({e})", _ANEW) from e
    if not set(np.unique(pixels).tolist()) <= (set(range(len(CLASS_COLOURS) + 1)) if indexed else {0, 255}):
        raise MeddiffError(path, "a mask holds 0 and 255, or class indices with a palette", _ANEW)
    return pixels if indexed else (pixels > 0).astype(np.uint8)


def outlined(image: Pixels, layers: Iterable[tuple[NDArray[np.bool_], tuple[int, int, int]]]) -> Pixels:
    """A copy of the image `[H, W, 3]` uint8 with the border of each region, `[H, W]` bool, in its colour."""
    picture = image.copy()
    for inside, colour in layers:
        picture[inside & ~ndimage.binary_erosion(inside)] = colour
    return picture


def tiled(tiles: Sequence[Pixels], columns: int) -> Image.Image:
    """Pictures `[H, W, 3]` uint8 of one size in rows of `columns`, at least one; black where there is none."""
    full = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    return Image.fromarray(np.concatenate([np.concatenate(full[i:i + columns], axis=1) for i in range(0, len(full), columns)]))


def write_image(path: Path, image: Pixels) -> None:
    """Write `[H, W, 3]` uint8 RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_png(image))


def image_png(image: Pixels) -> bytes:
    """PNG of `[H, W, 3]` uint8 RGB."""
    return png_bytes(Image.fromarray(image, mode=None), 3)


def png_bytes(picture: Image.Image, level: int = 6, exif: Image.Exif | None = None) -> bytes:
    """PNG of a picture, compressed by 0 (fast) to 9 (small)."""
    stream = BytesIO()
    picture.save(stream, "png", compress_level=level, exif=exif)
    return stream.getvalue()


def write_mask(path: Path, mask: Pixels, classes: int = 1, orientation: int = 1) -> None:
    """Write a `[H, W]` mask of 0 to K as `mask_png` gives it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mask_png(mask, classes, orientation))


def mask_png(mask: Pixels, classes: int = 1, orientation: int = 1) -> bytes:
    """PNG of a `[H, W]` mask of 0 to K: 0 and 255 for one class, indices with a palette for several.

    Args:
        classes: K; a mask with an index above 1 is written with a palette whatever is said here.
        orientation: EXIF's, of the picture that the mask lies on: viewers turn both alike.
    """
    several = max(classes, int(mask.max(initial=0))) > 1
    picture = Image.fromarray(mask.astype(np.uint8) if several else (mask > 0).astype(np.uint8) * 255)
    if several:
        picture.putpalette(PALETTE)
    exif = Image.Exif()
    if orientation > 1:
        exif[ExifTags.Base.Orientation] = orientation
    return png_bytes(picture, 3, exif)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_hash(*texts: str) -> str:
    """The first 12 hexadecimal digits of a SHA-256. With a salt before a name it stands for a person outside of the raw data.

    Who has the salt can find a name by trying all: it lies in the project (`outputs.withdrawals`), in none of its outputs. The
    layout `dicom` salts by what its files say of the patient's first study.
    """
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def sha256_once(path: Path) -> str:
    """The same of a file that is asked for again and again, since it holds many images: read again only where it has changed."""
    state = path.stat()
    return _sha256_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, changed: int, size: int) -> str:
    return sha256(path)


def digest(cases: Iterable[Case]) -> str:
    """SHA-256 of the cases' ids, pixels and masks, as hexadecimal digits."""
    found = hashlib.sha256()
    for case in cases:
        found.update(case.id.encode() + case.image.tobytes() + (b"" if case.mask is None else case.mask.tobytes()))
    return found.hexdigest()
