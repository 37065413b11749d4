"""CVAT: its own XML of images, "CVAT for images 1.1"."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from meddiff.datasets.adapters.exports import AGAIN, DrawnOn, Mark, Pictures, cases_of, collecting
from meddiff.datasets.adapters.listing import files_below
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.shapes import Contour, Ellipse, Region, Runs
from meddiff.errors import MeddiffError

_WORDS = {"box": "a box", "points": "a point", "polyline": "a line", "cuboid": "a cuboid", "skeleton": "a skeleton"}


def cvat(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """CVAT for images 1.1: polygons, masks and ellipses; boxes, points and lines are no masks.

    An image without shape is a mask that holds nothing, see `prepare.empty_masks`: CVAT lists all images of a task,
    whether anyone has looked at them or not.

    Raises:
        MeddiffError: see `read`; or an export is malformed, or is one of videos, or an image isn't there.
    """
    pictures, faults, entries, names = Pictures(path), list[MeddiffError](), list[DrawnOn](), list[str]()
    for file in cvat_files(path):
        with collecting(faults, file, "the file"):
            root = _parsed(file)
            names += [name.text or "" for name in root.iterfind("meta//labels/label/name")]
            for i, image in enumerate(root.iterfind("image")):
                where = f"image {image.get('id', i)} ({image.get('name', '')})"
                with collecting(faults, file, where):
                    marks = [Mark(shape.get("label", ""), _shape(shape)) for shape in image if shape.tag != "tag"]
                    picture = pictures.find(image.get("name", ""), file.parent, f"{file}: {where}")
                    entries.append(DrawnOn(file, where, picture, marks, (_whole(image, "height"), _whole(image, "width"))))
    return cases_of(path, entries, classes, names, faults)


def cvat_files(path: Path) -> list[Path]:
    """The XML files below a folder that are CVAT's."""
    return [file for file in files_below(path, (".xml",)) if b"<annotations>" in _beginning(file)]


def _beginning(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(1000)


def _parsed(file: Path) -> ElementTree.Element:
    """A document type is refused: entities could expand without bound."""
    content = file.read_bytes()
    try:
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError("it declares a document type")
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as e:
        raise MeddiffError(file, f"the file must be XML as CVAT writes it ({e})", AGAIN) from e
    if root.find("track") is not None:
        raise MeddiffError(file, "tracks of a video aren't read", "Export the task as CVAT for images 1.1")
    return root


def _whole(element: ElementTree.Element, name: str) -> int:
    value = float(element.get(name, "nan"))
    if not value.is_integer():
        raise ValueError(f"`{name}` must be a whole number, not {element.get(name)}")
    return int(value)


def _shape(element: ElementTree.Element) -> Region | str:
    if element.tag == "polygon":
        pairs = [pair.split(",") for pair in element.get("points", "").split(";") if pair.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("a polygon must be pairs of x and y")
        return Contour(np.array([(float(x), float(y)) for x, y in pairs]).reshape(-1, 2))
    if element.tag == "mask":
        counts = [int(count) for count in element.get("rle", "").split(",") if count.strip()]
        left, top, width, height = (_whole(element, name) for name in ("left", "top", "width", "height"))
        return Runs(counts, (height, width), (top, left))
    if element.tag == "ellipse":
        return Ellipse(*(float(element.get(name, default)) for name, default in
                         (("cx", "nan"), ("cy", "nan"), ("rx", "nan"), ("ry", "nan"), ("rotation", "0"))))
    return _WORDS.get(element.tag, f"a {element.tag}")
