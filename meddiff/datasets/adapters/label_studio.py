"""Label Studio: tasks as JSON, with outlines in percent and brush strokes in its own run lengths."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, RootModel, TypeAdapter

from meddiff.datasets.adapters.exports import DrawnOn, Mark, Pictures, Record, cases_of, collecting, keys_of, read_export
from meddiff.datasets.adapters.listing import READABLE, files_below
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.shapes import Contour, Ellipse, Patch, Region, Size
from meddiff.errors import MeddiffError, some

_NO_REGIONS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "labels", "relation")
_WORDS = {"rectangle": "a box", "keypoint": "a point"}
_Side = Annotated[int, Field(ge=1, le=1 << 20)]


class _Result(Record):
    id: str = ""
    type: str = ""
    value: dict[str, Any] = Field(default_factory=dict)
    original_width: _Side | None = None
    original_height: _Side | None = None
    image_rotation: float | None = None


class _Annotation(Record):
    result: list[_Result]
    was_cancelled: bool | None = None
    ground_truth: bool | None = None


class _Task(Record):
    id: int | str = ""
    data: dict[str, Any]
    annotations: list[_Annotation]


class _Tasks(RootModel[list[_Task]]):
    pass


_KIND = TypeAdapter(_Tasks)
_BYTES, _POINTS = TypeAdapter(list[Annotated[int, Field(ge=0, le=255)]]), TypeAdapter(list[tuple[float, float]])


@dataclass(frozen=True)
class _Brush:
    """Runs of bits, as Label Studio's converter reads them: of four channels an alpha, and what has any is inside."""

    content: bytes
    size: Size

    def __post_init__(self) -> None:
        if len(self.content) < 4 or int.from_bytes(self.content[:4], "big") != self.size[0] * self.size[1] * 4:
            raise ValueError(f"run lengths must cover four channels of {self.size[1]}×{self.size[0]} pixels")

    def fill(self, size: Size) -> NDArray[np.bool_]:
        """The same pixels."""
        if size != self.size:
            raise ValueError(f"a mask of {self.size[1]}×{self.size[0]} pixels doesn't fit")
        bits, place = "".join(f"{byte:08b}" for byte in self.content), 32

        def take(n: int) -> int:
            nonlocal place
            place += n
            if place > len(bits):
                raise ValueError("run lengths are cut short")
            return int(bits[place - n:place], 2)

        word = take(5) + 1
        lengths = [take(4) + 1 for _ in range(4)]
        values = np.zeros(size[0] * size[1] * 4, np.bool_)
        i = 0
        while i < len(values):
            repeated = take(1)
            end = i + 1 + take(lengths[take(2)])
            if repeated:
                values[i:end] = take(word) > 0
            else:
                values[i:end] = [take(word) > 0 for _ in range(i, min(end, len(values)))]
            i = end
        return Patch(values.reshape(*size, 4)[:, :, 3]).fill(size)


def label_studio(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """Label Studio: brush strokes, polygons and ellipses; boxes and points are no masks.

    A task without annotation, or whose only one was cancelled, has none; a submitted one without region is a mask that
    holds nothing, see `prepare.empty_masks`. Of several annotations of a task the one marked as ground truth counts.

    Raises:
        MeddiffError: see `read`; or an export is malformed, an image isn't there, or nothing tells which annotation counts.
    """
    pictures, faults, entries = Pictures(path), list[MeddiffError](), list[DrawnOn]()
    for file in label_studio_files(path):
        with collecting(faults, file, "the file"):
            for i, task in enumerate(read_export(file, _KIND, "Label Studio (JSON, not JSON-MIN)").root):
                where = f"task {task.id or i}"
                with collecting(faults, file, where):
                    results = _annotation(task)
                    sizes = {(each.original_height, each.original_width) for each in results or ()
                             if each.original_height and each.original_width}
                    if len(sizes) > 1:
                        raise ValueError("all regions must be of one image")
                    size = next(iter(sizes), None)
                    entries.append(DrawnOn(file, where, _find(pictures, task, f"{file}: {where}"), _marks(results or (), size),
                                         size, seen=results is not None))
    return cases_of(path, entries, classes, faults=faults)


def label_studio_files(path: Path) -> list[Path]:
    """The JSON files below a folder that are Label Studio's; its JSON-MIN too, so that it is told."""
    return [file for file in files_below(path, (".json",)) if {"data", "annotations", "result"} <= (keys := keys_of(file))
            or ("original_width" in keys and "result" not in keys)]


def _annotation(task: _Task) -> Sequence[_Result] | None:
    valid = [each for each in task.annotations if not each.was_cancelled]
    best = [each for each in valid if each.ground_truth] or valid
    if len(best) > 1:
        raise ValueError(f"one annotation must count, the task has {len(best)}: mark one as ground truth")
    return best[0].result if best else None


def _find(pictures: Pictures, task: _Task, where: str) -> Path:
    """By name alone: the export tells the server's paths, and a name that was uploaded has eight digits before it."""
    urls = [value for value in task.data.values() if isinstance(value, str)]
    paths = [unquote((parse_qs(urlsplit(url).query).get("d") or [urlsplit(url).path])[0]) for url in urls]
    names = [name for path in paths if (name := path.replace("\\", "/").rpartition("/")[2]).lower().endswith(READABLE)]
    if len(names) != 1:
        raise ValueError(f"a task has one image, its data name {some(names) or 'none'}")
    try:
        return pictures.find(names[0], pictures.root, where)
    except MeddiffError:
        if not (uploaded := re.fullmatch(r"[0-9a-f]{8}-(.+)", names[0])):
            raise
        return pictures.find(uploaded[1], pictures.root, where)


def _marks(results: Sequence[_Result], size: Size | None) -> list[Mark]:
    labels = defaultdict[str, list[str]](list)
    for each in results:
        labels[each.id] += [str(name) for name in each.value.get(each.type, ())] if each.type.endswith("labels") else []
    return [Mark(", ".join(dict.fromkeys(labels[each.id])) or "no label", _shape(each, size)) for each in results
            if each.type not in _NO_REGIONS and each.value]


def _shape(result: _Result, size: Size | None) -> Region | str:
    kind, value = result.type.removesuffix("labels"), result.value
    if result.image_rotation:
        raise ValueError(f"the image was turned by {result.image_rotation:g} degrees in Label Studio: turn it back there")
    if size is None:
        raise ValueError("a region must have the image's original_width and original_height")
    if kind == "brush":
        return _Brush(bytes(_BYTES.validate_python(value.get("rle"))), size)
    if kind == "polygon":
        return Contour(np.array(_POINTS.validate_python(value.get("points")), np.float64).reshape(-1, 2), 100)
    if kind == "ellipse":
        x, y, width, height, angle = (float(value.get(name) or 0) for name in ("x", "y", "radiusX", "radiusY", "rotation"))
        return Ellipse(x * size[1] / 100, y * size[0] / 100, width * size[1] / 100, height * size[0] / 100, angle)
    return _WORDS.get(kind, f"a {kind}")
