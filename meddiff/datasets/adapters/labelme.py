"""labelme: a JSON file for each image, beside it or with the image in it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from meddiff.cases import UNREADABLE
from meddiff.datasets.adapters.exports import (
    AGAIN,
    DrawnOn,
    Mark,
    Pictures,
    Record,
    beside,
    cases_of,
    collecting,
    keys_of,
    read_export,
)
from meddiff.datasets.adapters.listing import files_below
from meddiff.datasets.adapters.raw import ImageSource, RawCase
from meddiff.datasets.adapters.shapes import Contour, Ellipse, Patch, Region, Size
from meddiff.datasets.decoding import Decoded, decode_image, turned
from meddiff.errors import MeddiffError

_ALIKE = 0.99   # ours: correlation of the small gray pictures of one that was turned, converted or saved anew


class _Drawn(Record):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    mask: str | None = None


class _File(Record):
    shapes: list[_Drawn]
    imagePath: str | None = None  # noqa: N815
    imageData: str | None = None  # noqa: N815
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


_KIND = TypeAdapter(_File)


@dataclass(frozen=True)
class _Embedded:
    """The image within a JSON file, read again when it is needed."""

    source: Path

    def image(self) -> Decoded:
        """The image, see `decode_image`."""
        try:
            content = _bytes(read_export(self.source, _KIND, "labelme").imageData or "", "an image")
        except ValueError as e:
            raise MeddiffError(self.source, str(e), AGAIN) from e
        return decode_image(self.source, content)


@dataclass(frozen=True)
class _Picture:
    """A mask as a small picture in Base64, and the corners between which it lies, both included."""

    content: str
    corners: tuple[int, int, int, int]

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The same pixels."""
        left, top, right, bottom = self.corners
        try:
            with Image.open(BytesIO(_bytes(self.content, "a mask"))) as picture:
                width, height = picture.size
                inside = np.asarray(picture.convert("L")) > 0 if (width, height) == (right - left + 1, bottom - top + 1) else None
        except UNREADABLE as e:
            raise ValueError(f"a mask must be a picture in Base64 ({' '.join(str(e).split())})") from e
        if inside is None:
            raise ValueError(f"a mask of {width}×{height} pixels must reach from one corner to the other")
        return Patch(inside, top, left).fill(size)


def labelme(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """labelme: polygons, rectangles, circles and masks; points and lines are none.

    labelme shows images turned as their EXIF orientation says. A file without shapes is a mask that holds nothing, see
    `prepare.empty_masks`; an image without file has no annotation.

    Raises:
        MeddiffError: see `read`; or a file is malformed, or its image is neither there nor in it, or another one is in it.
    """
    pictures, faults, entries = Pictures(path), list[MeddiffError](), list[DrawnOn]()
    for file in labelme_files(path):
        with collecting(faults, file, "the file"):
            export = read_export(file, _KIND, "labelme")
            marks = list[Mark]()
            for i, drawn in enumerate(export.shapes):
                with collecting(faults, file, f"shape {i} ({drawn.label})"):
                    marks.append(Mark(drawn.label, _shape(drawn)))
            size = (export.imageHeight, export.imageWidth) if export.imageHeight and export.imageWidth else None
            entries.append(DrawnOn(file, "its image", _image(export, file, pictures), marks, size, turns=True))
    return cases_of(path, [*entries, *beside(pictures, entries, path)], classes, faults=faults)


def labelme_files(path: Path) -> list[Path]:
    """The JSON files below a folder that are labelme's."""
    return [file for file in files_below(path, (".json",)) if "shapes" in (keys := keys_of(file)) and
            keys & {"imagePath", "imageData", "shape_type"}]


def _image(export: _File, file: Path, pictures: Pictures) -> Path | ImageSource:
    """The file that is named, if it isn't another picture than the one within; where it isn't there, the one within."""
    try:
        named = pictures.find(export.imagePath or "", file.parent, str(file))
    except MeddiffError:
        if not export.imageData:
            raise
        return _Embedded(file)
    if export.imageData and not _same(named, file, _bytes(export.imageData, "an image")):
        raise MeddiffError(file, f"the image within must be {named.name}, which the file names; it is another picture",
                           "Correct `imagePath`; if that image is meant, set `imageData` to null")
    return named


def _same(named: Path, file: Path, content: bytes) -> bool:
    """Whether a file and the image within an annotation are one picture: labelme keeps the bytes, or turns and converts it."""
    if named.stat().st_size == len(content) and named.read_bytes() == content:
        return True
    both = [Image.fromarray(np.ascontiguousarray(turned(each.pixels, each.orientation))).convert("L")
            for each in (decode_image(named), decode_image(file, content))]
    first, second = (np.asarray(each.resize((32, 32), Image.Resampling.BOX), np.float64).ravel() for each in both)
    first, second = first - first.mean(), second - second.mean()
    return both[0].size == both[1].size and bool(first @ second >= _ALIKE * np.linalg.norm(first) * np.linalg.norm(second))


def _shape(drawn: _Drawn) -> Region | str:
    kind, points = drawn.shape_type or "polygon", np.array(drawn.points, np.float64).reshape(-1, 2)
    if kind in ("polygon", "oriented_rectangle"):
        return Contour(points)
    if kind in ("rectangle", "circle", "mask"):
        if len(points) != 2:
            raise ValueError(f"a {kind} needs two points, this one has {len(points)}")
        (x, y), (u, v) = points
        if kind == "circle":
            radius = float(np.hypot(u - x, v - y))
            return Ellipse(float(x), float(y), radius, radius)
        if kind == "rectangle":
            return Contour(np.array([(x, y), (u, y), (u, v), (x, v)]))
        if max(abs(points).ravel()) > 1 << 20:
            raise ValueError("a mask's corners must lie on the image")
        return _Picture(drawn.mask or "", (int(x), int(y), int(u), int(v)))
    return f"a {kind}"


def _bytes(text: str, what: str) -> bytes:
    content = re.sub(r"\s+|^data:[^,]*,", "", text)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as e:
        raise ValueError(f"{what} must be in Base64 ({e})") from e
