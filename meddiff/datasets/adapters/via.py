"""VGG Image Annotator (VIA) 1 and 2: its project or its export in JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, TypeAdapter

from meddiff.datasets.adapters.exports import DrawnOn, Mark, Pictures, Record, cases_of, collecting, keys_of, read_export
from meddiff.datasets.adapters.listing import files_below
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.shapes import Contour, Ellipse, Region
from meddiff.errors import MeddiffError


class _Region(Record):
    shape_attributes: dict[str, Any]
    region_attributes: dict[str, Any] = Field(default_factory=dict)


class _Image(Record):
    filename: str
    regions: list[_Region] | dict[str, _Region]


_KIND = TypeAdapter(dict[str, Any])
_IMAGES = TypeAdapter(dict[str, _Image])
_WORDS = {"rect": "a box", "point": "a point", "polyline": "a line"}


def via(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """VIA: polygons, circles and ellipses; boxes, points and lines are no masks. A region's attributes are its category.

    An image without region is a mask that holds nothing, see `prepare.empty_masks`: VIA lists all images of a project.

    Raises:
        MeddiffError: see `read`; or an export is malformed, or an image isn't there.
    """
    pictures, faults, entries = Pictures(path), list[MeddiffError](), list[DrawnOn]()
    for file in via_files(path):
        with collecting(faults, file, "the file"):
            content = read_export(file, _KIND, "VIA")
            images = _IMAGES.validate_python(content.get("_via_img_metadata", content))
            for image in images.values():
                with collecting(faults, file, f"image {image.filename}"):
                    regions = list(image.regions.values()) if isinstance(image.regions, dict) else image.regions
                    marks = [Mark(", ".join(str(value).strip() for value in region.region_attributes.values()) or "no category",
                                  _shape(region.shape_attributes)) for region in regions]
                    picture = pictures.find(image.filename, file.parent, str(file))
                    entries.append(DrawnOn(file, f"image {image.filename}", picture, marks))
    return cases_of(path, entries, classes, faults=faults)


def via_files(path: Path) -> list[Path]:
    """The JSON files below a folder that are VIA's."""
    return [file for file in files_below(path, (".json",)) if {"filename", "regions"} <= keys_of(file)]


def _shape(drawn: dict[str, Any]) -> Region | str:
    kind = drawn.get("name")
    try:
        if kind == "polygon":
            corners = zip(drawn["all_points_x"], drawn["all_points_y"], strict=True)
            return Contour(np.array(list(corners), np.float64).reshape(-1, 2))
        if kind in ("circle", "ellipse"):
            width = float(drawn["r" if kind == "circle" else "rx"])
            return Ellipse(float(drawn["cx"]), float(drawn["cy"]), width, float(drawn.get("ry", width)),
                           float(np.degrees(drawn.get("theta", 0))))
    except (KeyError, TypeError) as e:
        raise ValueError(f"a {kind} lacks {e}") from e
    return _WORDS.get(str(kind), f"a {kind}")
