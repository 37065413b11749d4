"""COCO: instances in JSON, as COCO-Annotator, CVAT, Label Studio, Roboflow and many others export them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from meddiff.datasets.adapters.exports import DrawnOn, Mark, Pictures, Record, cases_of, collecting, keys_of, read_export
from meddiff.datasets.adapters.listing import files_below
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.shapes import Contour, Runs
from meddiff.errors import MeddiffError

_Count = Annotated[int, Field(ge=0, lt=1 << 40)]
_Side = Annotated[int, Field(ge=1, le=1 << 20)]


class _Image(Record):
    id: int | str
    file_name: str
    width: _Side | None = None
    height: _Side | None = None


class _Category(Record):
    id: int
    name: str


class _Runs(Record):
    size: tuple[_Side, _Side]
    counts: str | list[_Count]


class _Annotation(Record):
    id: int | str | None = None
    image_id: int | str
    category_id: int | None = None
    segmentation: list[list[float]] | _Runs | None = None
    segments_info: list[object] | None = None  # of panoptic annotations


class _Coco(Record):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


_KIND = TypeAdapter(_Coco)


def coco(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """COCO: JSON files with `images`, `annotations` and `categories`; polygons, plain and compressed run lengths, crowds too.

    An image without annotation may be lesion-free or not looked at: its mask holds nothing, see `prepare.empty_masks`.

    Raises:
        MeddiffError: see `read`; or an export is malformed, an id comes twice, or an image or category isn't there.
    """
    pictures, faults, entries, names = Pictures(path), list[MeddiffError](), list[DrawnOn](), list[str]()
    for file in coco_files(path):
        with collecting(faults, file, "the file"):
            export = read_export(file, _KIND, "COCO")
            if any(each.segments_info is not None for each in export.annotations):
                raise ValueError("annotations must be instances, polygons or run lengths; these are panoptic, whose masks are "
                                 "PNG files of their own")
            for what, ids in (("images", [each.id for each in export.images]),
                              ("categories", [each.id for each in export.categories]),
                              ("annotations", [each.id for each in export.annotations if each.id is not None])):
                if len(set(ids)) < len(ids):
                    twice = next(id for i, id in enumerate(ids) if id in ids[:i])
                    raise ValueError(f"an id must come once, {twice} comes twice in `{what}`")
            categories = {each.id: each.name for each in export.categories}
            marks = defaultdict[int | str, list[Mark]](list)
            known = {image.id for image in export.images}
            for i, each in enumerate(export.annotations):
                with collecting(faults, file, f"annotation {i if each.id is None else each.id}"):
                    if each.image_id not in known or each.category_id is None or each.category_id not in categories:
                        raise ValueError(f"its image {each.image_id} and its category {each.category_id} must be in the file")
                    marks[each.image_id] += [Mark(categories[each.category_id], shape) for shape in _shapes(each)]
            names += categories.values()
            for image in export.images:
                where = f"image {image.id} ({image.file_name})"
                with collecting(faults, file, where):
                    size = (image.height, image.width) if image.height and image.width else None
                    entries.append(DrawnOn(file, where, pictures.find(image.file_name, file.parent, f"{file}: image {image.id}"),
                                         marks[image.id], size))
    return cases_of(path, entries, classes, names, faults)


def coco_files(path: Path) -> list[Path]:
    """The JSON files below a folder that are COCO's."""
    return [file for file in files_below(path, (".json",)) if {"images", "annotations", "categories"} <= keys_of(file)]


def _shapes(annotation: _Annotation) -> list[Contour | Runs | str]:
    drawn = annotation.segmentation
    if not drawn:
        return ["a box"]
    if isinstance(drawn, list):
        if odd := [points for points in drawn if len(points) % 2]:
            raise ValueError(f"a polygon must be pairs of x and y, this one has {len(odd[0])} numbers")
        return [Contour(np.array(points, np.float64).reshape(-1, 2)) for points in drawn]
    return [Runs(_counts(drawn.counts) if isinstance(drawn.counts, str) else drawn.counts, drawn.size)]


def _counts(text: str) -> list[int]:
    """Run lengths from pycocotools' letters: each holds 5 bits and whether more follow; from the fourth on, differences."""
    counts, value, shift = list[int](), 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError("compressed run lengths must be as pycocotools writes them")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths are cut short")
    return counts
