"""What the exports of all annotation tools share: reading them strictly, finding their images, and cases of the shapes.

An export is text that others wrote: its paths must stay in the dataset's folder, its numbers must be finite, and what isn't as
the tool writes it is refused by one line that says where.
"""

import mmap
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from meddiff.datasets.adapters.listing import READABLE, composed, files_below, parts_of, place_ids
from meddiff.datasets.adapters.raw import ImageSource, RawCase
from meddiff.datasets.adapters.shapes import Drawing, Region, Size
from meddiff.errors import MeddiffError, joined, likewise, some

AGAIN = "Export it again, or mend the place named"
_NOT_A_MASK = "{} is no mask: the image counts as not annotated; draw its outline, or name the other categories by --classes"
_OTHERS = "its shapes are of categories that aren't named in `prepare.classes`: the image counts as not annotated"
_TELLING = ("images", "annotations", "categories", "shapes", "imagePath", "imageData", "shape_type", "data", "result", "filename",
            "regions", "original_width")
_T = TypeVar("_T")


class Record(BaseModel):
    """A part of an export; what the reader doesn't need is passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class Mark(NamedTuple):
    """What was drawn: of which category, and its shape, or what it is that is no mask."""

    category: str
    shape: Region | str


@dataclass(frozen=True, eq=False)
class DrawnOn:
    """One image of an export.

    Attributes:
        source: the export.
        place: where in it, for messages.
        image: file below the dataset's folder, or what reads the image.
        marks: what was drawn on it.
        size: of the image as the export says.
        turns: see `Drawing`.
        seen: someone looked at the image, and drew nothing where there are no marks.
    """

    source: Path
    place: str
    image: Path | ImageSource
    marks: Sequence[Mark] = ()
    size: Size | None = None
    turns: bool = False
    seen: bool = True


def read_export(file: Path, kind: TypeAdapter[_T], tool: str) -> _T:
    """An export in JSON, checked.

    Raises:
        MeddiffError: it isn't JSON in UTF-8, or not as the tool writes it: the first place is named, and how many more.
    """
    try:
        return kind.validate_json(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as e:
        places = [".".join(str(step) for step in error["loc"] if not isinstance(step, str) or step.isidentifier())
                  for error in e.errors(include_url=False, include_input=False)]
        message = " ".join(e.errors(include_url=False, include_input=False)[0]["msg"].split()).removeprefix("Value error, ")
        raise MeddiffError(file, f"the file must be as {tool} writes it ({places[0] or 'JSON'}: {message})"
                           f"{likewise(list(dict.fromkeys(places))[1:])}", AGAIN) from e


def keys_of(file: Path) -> frozenset[str]:
    """Which of the names that tell tools apart stand in a JSON file, in quotes; it may be cut short."""
    state = file.stat()
    return _keys(file, state.st_mtime_ns, state.st_size)


@cache
def _keys(file: Path, changed: int, size: int) -> frozenset[str]:
    if not size:
        return frozenset()
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return frozenset(name for name in _TELLING if content.find(f'"{name}"'.encode()) >= 0)


@contextmanager
def collecting(faults: list[MeddiffError], source: Path, place: str) -> Iterator[None]:
    """Put an error aside, so that all faults of an export are told at once; a ValueError is given its place."""
    try:
        yield
    except MeddiffError as fault:
        faults.append(fault)
    except ValidationError as e:
        faults.append(MeddiffError(f"{source}: {place}", str(e.errors(include_url=False, include_input=False)[0]["msg"]), AGAIN))
    except ValueError as e:
        faults.append(MeddiffError(f"{source}: {place}", " ".join(str(e).split()), AGAIN))


class Pictures:
    """The picture files below a dataset's folder, which an export names by where they lay when it was made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = files_below(root, READABLE)
        self._named: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            self._named[composed(file.name).casefold()].append(file)

    def find(self, name: str, base: Path, where: str) -> Path:
        """The one file that is meant: at this path from `base` or the dataset's folder, else the only one whose path ends so,
        below the nearest folder above the export that has any.

        Raises:
            MeddiffError: there is none, or several are meant, or the path leaves the dataset's folder.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if not path.name or path.is_absolute() or re.match(r"[A-Za-z]:|\w+://", name) or "\0" in name:
            raise MeddiffError(where, f"a path must lead from the dataset's folder to an image, `{some([name])}` doesn't",
                               "Write the path below that folder into the export")
        root = self.root.absolute()
        places = list[Path]()
        for start in (base.absolute(), root):
            steps = list(start.parts)
            for step in path.parts:
                if step == "..":
                    steps.pop()
                elif step != ".":
                    steps.append(step)
            places.append(Path(*steps))
        if not any(place.is_relative_to(root) for place in places):
            raise MeddiffError(where, f"a path must stay in the dataset's folder, `{some([name])}` leaves it",
                               "Put the image into that folder, and write its path below it into the export")
        exact = [file for file in self._named[composed(path.name).casefold()]
                 if any(composed(str(file.absolute())) == composed(str(place)) for place in places)]
        tail = [composed(step).casefold() for step in path.parts if step not in ("..", ".")]
        ending = [file for file in self._named[composed(path.name).casefold()]
                  if [composed(step).casefold() for step in file.absolute().parts][-len(tail):] == tail]
        above = [folder for folder in (base.absolute(), *base.absolute().parents) if folder.is_relative_to(root)]
        near = ([file for file in ending if file.absolute().is_relative_to(folder)] for folder in above)
        meant = exact[:1] or next((files for files in near if files), [])
        if len(meant) != 1:
            several = f"the export's image `{some([name])}` may be {meant[0]} or {meant[1]}" if meant else \
                f"the export names the image `{some([name])}`, which isn't there"
            raise MeddiffError(where, several, "Write its path below the dataset's folder into the export" if meant else
                               "Put the images into the dataset's folder, with the folders that the export names")
        return meant[0]


def beside(pictures: Pictures, entries: Sequence[DrawnOn], source: Path) -> list[DrawnOn]:
    """Images without annotation: the other ones of the folders in which annotated ones lie."""
    named = {entry.image for entry in entries if isinstance(entry.image, Path)}
    folders = {image.parent for image in named}
    return [DrawnOn(source, "", file, seen=False) for file in pictures.files if file.parent in folders and file not in named]


def cases_of(root: Path, entries: Sequence[DrawnOn], classes: Sequence[str], categories: Sequence[str] = (),
             faults: Sequence[MeddiffError] = ()) -> list[RawCase]:
    """The cases of an export; categories become classes by name, or all are one class.

    A lesion that has a box alone would be background in its mask: such an image counts as not annotated. So does one on which
    nothing was drawn, unless `prepare.empty_masks` says otherwise.

    Args:
        root: the dataset's folder.
        entries: the images.
        classes: names; of one that is no category's name all categories are.
        categories: names that the export declares, beside those of its marks.
        faults: what was found wrong so far.

    Raises:
        MeddiffError: there are faults, a class is no category, or an image comes twice.
    """
    if faults:
        raise joined(faults)
    used = {mark.category for entry in entries for mark in entry.marks}
    labels = _labels_of(classes, used | set(categories if len(classes) > 1 else ()))
    twice = defaultdict[Path, list[DrawnOn]](list)
    for entry in entries:
        twice[entry.image if isinstance(entry.image, Path) else entry.image.source].append(entry)
    if shared := [both for both in twice.values() if len(both) > 1]:
        raise MeddiffError(f"{shared[0][1].source}: {shared[0][1].place}", f"an image must come once, it is also "
                           f"{shared[0][0].source.name}: {shared[0][0].place}{likewise([both[1].place for both in shared[1:]])}",
                           "Remove one of the two")
    files = {entry: entry.image if isinstance(entry.image, Path) else entry.image.source for entry in entries}
    ids = place_ids(root, files.values())
    held = Counter(entry.source for entry in entries)  # a file for one image is named after it, not after a part
    parts = parts_of({entry: [*file.relative_to(root).parent.parts, *(
        re.split(r"[\W_]+", entry.source.stem) if held[entry.source] > 1 and entry.source != root else ())]
        for entry, file in files.items()})
    return [_case(entry, ids[files[entry]], parts.get(entry), labels, len(classes)) for entry in entries]


def _labels_of(classes: Sequence[str], categories: set[str]) -> dict[str, int]:
    """Category -> class from 1 on, in capitals or not; one class that isn't a category's name has all of them.

    Raises:
        MeddiffError: one of several classes is no category.
    """
    known = {name.casefold() for name in categories}
    missing = [name for name in classes if name.casefold() not in known]
    if missing and len(classes) == 1:
        return dict.fromkeys(categories, 1)
    if missing:
        raise MeddiffError("prepare.classes", f"the export has no category `{some(missing)}`, it has "
                           f"{some(sorted(categories), 8) or 'none'}", "Name its categories, or one class for all")
    labels = {name.casefold(): label for label, name in enumerate(classes, start=1)}
    return {name: labels[name.casefold()] for name in categories if name.casefold() in labels}


def tell_categories(cases: Sequence[RawCase], classes: Sequence[str]) -> list[str]:
    """Which categories, or names of segments, were united, and which are left out; nothing where there is one."""
    counted, wanted = Counter(name for case in cases for name in case.categories), {name.casefold() for name in classes}
    taken = {name for name in counted if name.casefold() in wanted} or set(counted)
    if len(classes) > 1 and counted and wanted.isdisjoint(map(str.casefold, counted)):  # only of segments
        return [f"no segment is named as a class, so that their numbers are the classes: {some(list(counted), 8)}"]
    names = {kind: some([f"{name or 'without name'} ({n} image{'s' * (n > 1)})" for name, n in counted.items()
                         if (name in taken) == kind], 8) for kind in (True, False)}
    apart = f"; --classes {shlex.quote(','.join(counted))} tells them apart" if len(counted) <= 8 and all(counted) else ""
    lines = [f"the categories are one class, {classes[0]}: {names[True]}{apart}"] \
        if len(classes) == 1 and len(taken) > 1 else []
    return lines + ([f"categories that `prepare.classes` doesn't name are left out: {names[False]}"] if names[False] else [])


def _case(entry: DrawnOn, id: str, part: str | None, labels: dict[str, int], classes: int) -> RawCase:
    own = [mark for mark in entry.marks if mark.category in labels]
    boxes = [mark.shape for mark in own if isinstance(mark.shape, str)]
    shapes = [(labels[mark.category], mark.shape) for mark in own if not isinstance(mark.shape, str)]
    doubt = _NOT_A_MASK.format(boxes[0]) if boxes else _OTHERS if entry.marks and not own else ""
    drawn = (Drawing(entry.source, entry.place, shapes, entry.size, entry.turns),) if entry.seen and not doubt else ()
    return RawCase(id, entry.image, drawn, part=part, classes=classes, doubt=doubt,
                   categories=tuple(dict.fromkeys(mark.category for mark in entry.marks)),
                   sources=frozenset({entry.source} if entry.seen else ()))

