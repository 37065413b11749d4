"""The raw case: where its image and masks come from, how it is decoded and made square."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon2mask

from meddiff.cases import Case, Frame, Pixels, read_image, read_mask
from meddiff.errors import MeddiffError

_IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Polygon:
    """A lesion drawn as a polygon.

    Attributes:
        points: `[N, 2]` float64 corners as (x, y) in pixels of the original image.
        source: file that holds the polygon.
    """

    points: NDArray[np.float64]
    source: Path


@dataclass(frozen=True, eq=False)
class RawCase:
    """One image of a raw dataset, not yet decoded.

    Attributes:
        id: unique name, later the file stem.
        image: file, or `[H, W, 3]` uint8 pixels.
        masks: the lesion masks, united when there are several (the higher class wins); none for an image without annotation.
        group: patient, video or series; the id where the dataset tells nothing.
        lesion_free: the dataset's authors declare the image free of lesions.
        part: `train`, `val` or `test` where the dataset comes split, else None.
        classes: highest class index that a mask file may hold; with 1 the masks are plain ones of one class.
        label: the class of plain masks.
    """

    id: str
    image: Path | Pixels
    masks: tuple[Path | Pixels | Polygon, ...]
    group: str
    lesion_free: bool = False
    part: str | None = None
    classes: int = 1
    label: int = 1

    @property
    def annotated(self) -> bool:
        """Whether it is known where the image has lesions, or that it has none."""
        return self.lesion_free or bool(self.masks)


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


def decode(raw: RawCase) -> Case:
    """Read one case at its original size, with its masks united (all zero where the image is lesion-free).

    Raises:
        MeddiffError: a file is missing or corrupt, a mask is gray-valued, names a class that there isn't or is of another size
            than its image, or a lesion-free image has a mask that isn't empty.
    """
    image = raw.image if isinstance(raw.image, np.ndarray) else read_image(raw.image)
    union = np.zeros(image.shape[:2], dtype=np.uint8)
    for source in raw.masks:
        mask = _mask(source, union.shape, raw)
        where = source if isinstance(source, Path) else raw.id
        if mask.shape != union.shape:
            sizes = ["×".join(str(side) for side in reversed(array.shape)) for array in (mask, union)]
            raise MeddiffError(where, f"a mask has its image's size, this one is {sizes[0]} and the image {sizes[1]} pixels",
                               "Replace the mask by the one drawn on this image")
        if raw.lesion_free and mask.any():
            raise MeddiffError(where, "the mask of a lesion-free image must be empty", "Move the image to those with lesions")
        union = np.maximum(union, mask)
    return Case(raw.id, image, union, raw.group)


def image_mode(raw: RawCase) -> str:
    """Pillow's name of the image file's pixel format, such as `L` (gray), `I;16` (gray, 16 bits) or `RGB`; pixels are `RGB`."""
    if isinstance(raw.image, np.ndarray):
        return "RGB"
    with Image.open(raw.image) as header:
        return header.mode


def _mask(source: Path | Pixels | Polygon, shape: tuple[int, ...], raw: RawCase) -> Pixels:
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Polygon):
        mask = np.asarray(polygon2mask(shape, source.points[:, ::-1]), dtype=np.uint8)
    else:
        mask = read_mask(source, raw.classes)
    return mask * np.uint8(raw.label) if raw.classes == 1 else mask


def fit_square(image: Pixels, mask: Pixels, size: int, fit: str) -> Fitted:
    """Bring image and mask to `size`×`size` pixels: the image by antialiased bilinear, the mask by nearest interpolation.

    `pad` keeps the aspect ratio, centres the frame and leaves black bars (mask 0) where it ends: bars of repeated pixels would
    look like tissue, in which lesions might be painted. `squash` stretches the frame to the square.

    Args:
        image: `[H, W, 3]` uint8.
        mask: `[H, W]` uint8 of 0 to K.
        size: side of the result [pixels].
        fit: `pad` or `squash`.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    rows, columns = (max(1, round(height * scale)), max(1, round(width * scale))) if fit == "pad" else (size, size)
    frame = Frame((size - rows) // 2, (size - columns) // 2, rows, columns)
    inside = np.s_[frame.top:frame.top + rows, frame.left:frame.left + columns]
    square, flat = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    square[inside] = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    flat[inside] = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST))
    return Fitted(square, flat, frame)


def image_files(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their stem.

    Raises:
        MeddiffError: the folder is missing, or two files share a stem.
    """
    if not folder.is_dir():
        raise MeddiffError(folder, "the dataset's layout needs this folder",
                           "Correct `prepare.path`, or unpack the dataset as its authors publish it")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _IMAGE_TYPES and not path.name.startswith("."):
            if path.stem in files:
                raise MeddiffError(path, f"a stem must be unique, {files[path.stem].name} has it too", "Remove or rename one")
            files[path.stem] = path
    return files


def require_pairs(images: dict[str, Path], masks: dict[str, Path], mask_place: str,
                  remedy: str = "Add the mask, or take the image out") -> None:
    """Check that images and masks have the same names.

    Args:
        images, masks: stem -> file.
        mask_place: where a mask belongs, `{}` for the stem.
        remedy: for an image without mask.

    Raises:
        MeddiffError: names the first image without mask, or mask without image.
    """
    for name in sorted(images.keys() - masks.keys()):
        raise MeddiffError(images[name], f"an image must have its mask, expected as {mask_place.format(name)}", remedy)
    for name in sorted(masks.keys() - images.keys()):
        raise MeddiffError(masks[name], f"a mask must have its image, there is none named {name}",
                           "Add the image, or take the mask out")
