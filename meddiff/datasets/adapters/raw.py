"""The raw case: where its image and masks come from, how it is decoded and made square."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon2mask

from meddiff.cases import Case, Frame, Pixels
from meddiff.datasets.decoding import Decoded, decode_header, decode_image, decode_mask, turned
from meddiff.errors import MeddiffError

TURN = "Save the image turned as it should be seen, without the orientation in its metadata"


class ImageSource(Protocol):
    """An image that is no picture file of its own, such as a frame of a DICOM file or a slice of a volume."""

    @property
    def source(self) -> Path:
        """The file that it is read from."""

    def image(self) -> Decoded:
        """The pixels; raises a MeddiffError that names the file."""


class MaskSource(Protocol):
    """A mask that is no picture file of its own, such as a polygon or a segment of a DICOM file."""

    @property
    def source(self) -> Path:
        """The file that it is read from."""

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The mask on its image, `[H, W]` uint8 of 0 to `classes`; raises a MeddiffError that names the file."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """A lesion drawn as a polygon.

    Attributes:
        points: `[N, 2]` float64 corners as (x, y) in pixels of the original image.
        source: file that holds the polygon.
    """

    points: NDArray[np.float64]
    source: Path

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The pixels whose centres lie inside (skimage's `polygon2mask`), on an image without orientation."""
        if image.orientation > 1:
            raise MeddiffError(self.source, "nothing tells whether a polygon was drawn on the image as stored or turned", TURN)
        inside = polygon2mask(image.pixels.shape[:2], self.points[:, ::-1])
        return Decoded(np.asarray(inside, dtype=np.uint8))


@dataclass(frozen=True, eq=False)
class RawCase:
    """One image of a raw dataset, not yet decoded.

    Attributes:
        id: unique name, later the file stem.
        image: file, `[H, W, 3]` uint8 pixels, or what reads them.
        masks: the lesion masks, united when there are several (the higher class wins); none for an image without annotation.
        group: patient, video or series; empty where nobody knows it.
        lesion_free: the dataset's authors declare the image free of lesions.
        part: `train`, `val` or `test` where the dataset comes split, else None.
        classes: highest class index that a mask file may hold; with 1 the masks are plain ones of one class.
        label: the class of plain masks.
        doubt: why an annotation that is there, or a part of it, isn't used; else empty.
        categories: what an annotation tool, or a file of segments, calls what was drawn.
        sources: files of annotations of it, which were read whether masks came of them or not.
    """

    id: str
    image: Path | Pixels | ImageSource
    masks: tuple[Path | Pixels | MaskSource, ...]
    group: str = ""
    lesion_free: bool = False
    part: str | None = None
    classes: int = 1
    label: int = 1
    doubt: str = ""
    categories: tuple[str, ...] = ()
    sources: frozenset[Path] = frozenset()

    @property
    def annotated(self) -> bool:
        """Whether it is known where the image has lesions, or that it has none."""
        return self.lesion_free or bool(self.masks)

    @property
    def files(self) -> set[Path]:
        """The files that image, masks and annotations are read from."""
        return {file for each in (self.image, *self.masks) if (file := _file(each))} | self.sources

    @property
    def file(self) -> Path | None:
        """The file that the image is read from, None for pixels in memory."""
        return _file(self.image)


def _file(source: Path | Pixels | ImageSource | MaskSource) -> Path | None:
    return source if isinstance(source, Path) else None if isinstance(source, np.ndarray) else source.source


@dataclass(frozen=True, eq=False)
class Fitted:
    """A case made square: image `[S, S, 3]` uint8 RGB, mask `[S, S]` uint8 of 0 to K, and the frame."""

    image: Pixels
    mask: Pixels
    frame: Frame


def in_memory(case: Case) -> RawCase:
    """A `RawCase` of a case that is already in memory; lesion-free where its mask is empty."""
    mask = np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask
    return RawCase(case.id, case.image, (mask,), case.group, lesion_free=not mask.any())


@dataclass(frozen=True, eq=False)
class Original:
    """A case at its original size.

    Attributes:
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` uint8 of 0 to K, all zero where the image is lesion-free or has no annotation.
        mode: Pillow's name of the image file's pixel format, `RGB` for pixels in memory.
        colours: of the lesion in the mask files of one class, see `Decoded`.
        traits: what isn't plain about the files, see `Decoded`; `turned` for an image that was turned as its orientation says,
            `as_stored` for one whose mask shows that it must not be.
        steps: between rows and between columns, in one unit, None where nobody knows it.
    """

    image: Pixels
    mask: Pixels
    mode: str
    colours: frozenset[str]
    traits: frozenset[str]
    steps: tuple[float, float] | None = None


def decoded_image(raw: RawCase) -> Decoded:
    """The image of a case as stored, without its masks; raises a MeddiffError that names the file."""
    if isinstance(raw.image, np.ndarray):
        return Decoded(raw.image)
    return decode_image(raw.image) if isinstance(raw.image, Path) else raw.image.image()


def decode(raw: RawCase) -> Original:
    """Read one case at its original size, with its masks united.

    An image is turned as its EXIF orientation says, unless the size of its mask shows that this was drawn on the pixels as they
    are stored.

    Raises:
        MeddiffError: a file breaks a rule (see `decoding`), a mask is of another size than its image, or nothing tells whether it
            was drawn on the image as stored or turned, or a lesion-free image has a mask that isn't empty.
    """
    case = _joined(raw, decoded_image(raw))
    return replace(case, image=np.ascontiguousarray(case.image))


def decode_masks(raw: RawCase) -> Original:
    """As `decode`, but without opening the image's pixels where it is a file: it is black."""
    return _joined(raw, decode_header(raw.image)) if isinstance(raw.image, Path) else decode(raw)


def _joined(raw: RawCase, image: Decoded) -> Original:
    sources = [(_file(source) or raw.id, _mask(source, image, raw)) for source in raw.masks]
    turns = [_turns(where, image, mask) for where, mask in sources]
    if len({turn for turn, _ in turns}) > 1:
        raise MeddiffError(raw.file or raw.id, "the masks of an image must be drawn on the image turned one way", TURN)
    turn = turns[0][0] if turns else image.orientation
    pixels = turned(image.pixels, turn)
    union = np.zeros(pixels.shape[:2], dtype=np.uint8)
    for (where, mask), (_, own) in zip(sources, turns, strict=True):
        if raw.lesion_free and mask.pixels.any():
            raise MeddiffError(where, "the mask of a lesion-free image must be empty",
                               "Move the image to those with lesions")
        union = np.maximum(union, turned(mask.pixels, own))
    traits = frozenset().union(image.traits, *(mask.traits for _, mask in sources))
    if image.orientation > 1:
        traits |= {"as_stored" if turn == 1 else "turned"}
    colours = frozenset(mask.colour for _, mask in sources if mask.colour)
    return Original(pixels, union, image.mode, colours, traits, replace(image, orientation=turn).steps)


def _turns(where: object, image: Decoded, mask: Decoded) -> tuple[int, int]:
    """By which orientation the image and by which the mask is turned, so that both lie on each other.

    Files of the same orientation do as they are. Otherwise one of both heeds it and the other doesn't: their sizes tell which.
    """
    own, other = image.orientation, mask.orientation
    ways = [(own, other)] if own == other else [(a, b) for a in (own, 1) for b in (other, 1)]
    fitting = {(a, b): None for a, b in ways if turned(image.pixels, a).shape[:2] == turned(mask.pixels, b).shape}
    if not fitting:
        sizes = ["×".join(str(side) for side in reversed(pixels.shape[:2])) for pixels in (mask.pixels, image.pixels)]
        raise MeddiffError(where, f"a mask has its image's size, this one is {sizes[0]} and the image {sizes[1]} pixels",
                           "Replace the mask by the one drawn on this image")
    if len(fitting) > 1 and mask.pixels.any():
        raise MeddiffError(where, f"image and mask must be turned alike: EXIF's orientation is {own} in the image and {other} in "
                           "the mask, and both ways fit", TURN)
    return next(iter(fitting))


def _mask(source: Path | Pixels | MaskSource, image: Decoded, raw: RawCase) -> Decoded:
    if isinstance(source, np.ndarray):
        return Decoded(source)
    mask = decode_mask(source, raw.classes) if isinstance(source, Path) else source.mask(image, raw.classes)
    return replace(mask, pixels=mask.pixels * np.uint8(raw.label)) if raw.classes == 1 else mask


def fit_square(image: Pixels, mask: Pixels, size: int, fit: str, steps: tuple[float, float] | None = None) -> Fitted:
    """Bring image and mask to `size`×`size` pixels: the image by antialiased bilinear, the mask by nearest interpolation.

    `pad` keeps the aspect ratio, in millimetres where they are known, centres the frame and leaves black bars (mask 0)
    where it ends: bars of repeated pixels would look like tissue, in which lesions might be painted. `squash` stretches the frame
    to the square.

    Args:
        image: `[H, W, 3]` uint8.
        mask: `[H, W]` uint8 of 0 to K.
        size: side of the result [pixels].
        fit: `pad` or `squash`.
        steps: between rows and between columns, in one unit.
    """
    tall = steps[0] / steps[1] if steps and min(steps) > 0 else 1.0
    height, width = image.shape[0] * (tall if abs(tall - 1) > 1e-3 else 1), image.shape[1]
    scale = size / max(height, width)
    rows, columns = (max(1, round(height * scale)), max(1, round(width * scale))) if fit == "pad" else (size, size)
    frame = Frame((size - rows) // 2, (size - columns) // 2, rows, columns)
    inside = np.s_[frame.top:frame.top + rows, frame.left:frame.left + columns]
    square, flat = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    square[inside] = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    flat[inside] = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST))
    return Fitted(square, flat, frame)


def unfit_square(values: NDArray[np.float32], frame: Frame, height: int, width: int) -> NDArray[np.float32]:
    """Values of a square, `[C, S, S]` float32, back on the image that `fit_square` made it from, `[C, height, width]`.

    What lies on bars is left out; bilinear interpolation as for images, antialiased where the image is smaller than its frame.
    """
    inside = np.s_[frame.top:frame.top + frame.height, frame.left:frame.left + frame.width]
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(layer[inside])).resize(
        (width, height), Image.Resampling.BILINEAR)) for layer in values])
