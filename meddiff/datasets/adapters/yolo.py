"""YOLO segmentation: a text file for each image, a line for each polygon, as Ultralytics and Roboflow write them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from meddiff.datasets.adapters.exports import DrawnOn, Mark, Pictures, beside, cases_of, collecting
from meddiff.datasets.adapters.listing import composed, files_below
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.shapes import Contour, Region
from meddiff.errors import MeddiffError

_LINE = re.compile(r"\s*\d+(\s+[-+.\deE]+|\s+nan|\s+inf){4,}\s*", re.IGNORECASE)
_SLACK = 0.01  # tools round, and draw a little beside the image


def yolo(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """YOLO-seg: `images/X.jpg` and `labels/X.txt`, or both in one folder; names of categories in `data.yaml`.

    Lines of four numbers are boxes, which are no masks. An image with an empty text file is a mask that holds nothing, see
    `prepare.empty_masks`; one without text file has no annotation.

    Raises:
        MeddiffError: see `read`; or a line or `data.yaml` is malformed, or a text file has no image.
    """
    pictures, faults, entries = Pictures(path), list[MeddiffError](), list[DrawnOn]()
    names = _names(path)
    by_label = {_label_of(file.relative_to(path)): file for file in pictures.files}
    labels = yolo_files(path)
    folders = {file.parent for file in labels}
    for file in files_below(path, (".txt",)):
        image = by_label.get(_place(file.relative_to(path).with_suffix("")))
        if file not in labels and not (image and file.parent in folders and not file.read_text(errors="replace").strip()):
            continue
        with collecting(faults, file, "the file"):
            if image is None:
                raise MeddiffError(file, "its image isn't there", "Add the image, or take the text file out")
            marks = list[Mark]()
            for i, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
                with collecting(faults, file, f"line {i}"):
                    marks += [_mark(line.split(), names)] if line.strip() else []
            entries.append(DrawnOn(file, "its image", image, marks))
    return cases_of(path, [*entries, *beside(pictures, entries, path)], classes, list(names.values()), faults)


def yolo_files(path: Path) -> set[Path]:
    """The text files below a folder whose first line is a class and four numbers or more."""
    files = set()
    for file in files_below(path, (".txt",)):
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            if _LINE.fullmatch(next((line for line in stream if line.strip()), "")):
                files.add(file)
    return files


def _label_of(image: Path) -> str:
    """The place of an image's text file, without suffix: the last folder `images` is `labels` there."""
    steps = list(image.with_suffix("").parts)
    if places := [i for i, step in enumerate(steps[:-1]) if step.casefold() == "images"]:
        steps[places[-1]] = "labels"
    return _place(Path(*steps))


def _place(path: Path) -> str:
    return composed(path.as_posix()).casefold()


def _names(path: Path) -> dict[int, str]:
    """Index -> category, of the YAML file that has `names`; empty without one."""
    known: tuple[Path, dict[int, str]] | None = None
    for file in files_below(path, (".yaml", ".yml")):
        try:
            listed = (yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}).get("names", {})
            pairs = listed.items() if isinstance(listed, dict) else enumerate(listed)
            names = {int(index): name for index, name in pairs}
            if not all(isinstance(name, str | int) for name in names.values()):
                raise ValueError("a name must be text")
        except (yaml.YAMLError, ValueError, TypeError, AttributeError) as e:
            why = " ".join(str(e).split())
            raise MeddiffError(file, f"the file must be YAML with `names` ({why})", "Mend the place named") from e
        if names and known and names != known[1]:
            raise MeddiffError(file, f"one file must name the categories, {known[0].name} names others", "Remove one of the two")
        known = (file, names) if names else known
    return {index: str(name) for index, name in known[1].items()} if known else {}


def _mark(words: Sequence[str], names: dict[int, str]) -> Mark:
    index, *numbers = words
    if not index.isdecimal() or (names and int(index) not in names):
        raise ValueError(f"a category must be an index of `names` in data.yaml, {index} isn't")
    points = np.array([float(number) for number in numbers])
    shape: Region | str = "a box"
    if len(points) != 4:
        if len(points) % 2:
            raise ValueError(f"a polygon must be pairs of x and y, this one has {len(points)} numbers")
        shape = Contour(points.reshape(-1, 2), 1)
    if not (np.abs(points - 0.5) <= 0.5 + _SLACK).all():
        raise ValueError("numbers must be shares of the image's sides, 0 to 1")
    return Mark(names.get(int(index), index), shape)
