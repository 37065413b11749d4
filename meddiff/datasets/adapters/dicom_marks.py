"""What DICOM's segmentations and structure sets draw, and on which frame of which image; no pixels are opened."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meddiff.datasets.adapters.dicom_headers import SEGMENTATION, STRUCTURES, DicomHeader, Plane, planes, read_tags
from meddiff.datasets.adapters.dicom_pixels import DicomContours, DicomSegments
from meddiff.datasets.adapters.slicing import class_by_name
from meddiff.errors import MeddiffError, joined

if TYPE_CHECKING:
    from pydicom import Dataset

_DRAWN = "Draw it on the image that it names, or take it out of the folder"
_BESIDE = "a contour lies beside its image or off its plane, so that the image counts as not annotated; draw it again"
_NOWHERE = "a contour is drawn on an image whose place in the patient isn't told, so that it counts as not annotated"
Spot = tuple[str, int]   # UID of an instance, and frame from 1


@dataclass(frozen=True, eq=False)
class DicomMark:
    """What is drawn on one frame: a frame of a segmentation, or a contour.

    Attributes:
        file: that it is in.
        number, name: of its segment or region.
        target: UID of the image it was drawn on, and number of its frame, 0 where that isn't said; empty where neither is.
        space: UID of the frame of reference.
        plane: of the segmentation's frame, None where it isn't known.
        size: rows and columns of the segmentation; None for a contour.
        index, value: of the segmentation's frame, and the pixels' value in it (0: any but 0).
        points: `[N, 3]` corners of the contour [mm], empty otherwise.
    """

    file: Path
    number: int
    name: str
    target: Spot
    space: str
    plane: Plane | None
    size: tuple[int, int] | None
    index: int
    value: int
    points: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Marked:
    """What is known of a frame that something was drawn on: its masks, and why something isn't used, else empty."""

    masks: tuple[DicomSegments | DicomContours, ...]
    doubt: str = ""

    def drawn(self) -> bool:
        """Whether anything was drawn, used or not."""
        return bool(self.doubt) or any(isinstance(mask, DicomContours) or mask.drawn() for mask in self.masks)


def read_marks(headers: Iterable[DicomHeader]) -> list[DicomMark]:
    """The marks of all segmentations and structure sets.

    Raises:
        MeddiffError: a segmentation isn't binary, or a file lacks what it must say; all are named.
    """
    marks, faults = list[DicomMark](), list[MeddiffError]()
    for header in headers:
        read = _segments if header.kind in SEGMENTATION else _contours if header.kind == STRUCTURES else None
        if read:
            try:
                marks += read(header, read_tags(header.path))
            except MeddiffError as fault:
                faults.append(fault)
            except Exception:
                faults.append(MeddiffError(header.path, "a segmentation or structure set must say of all segments where they lie",
                                           "Export it again, or take it out of the folder"))
    if faults:
        raise joined(faults)
    return marks


def place_marks(marks: Sequence[DicomMark], images: Sequence[DicomHeader], classes: Sequence[str],
                root: Path) -> tuple[dict[Spot, Marked], dict[Spot, tuple[str, ...]]]:
    """The marks by the frame of the image that they were drawn on; those whose image isn't here are passed over.

    The names of their segments, too, those that are no class's among them.

    Args:
        images: headers with a size.
        classes: names of the classes, see `slicing.class_by_name`.
        root: folder of the dataset, for errors.

    Raises:
        MeddiffError: a segmentation lies otherwise than the image it names: all are named; or segments aren't of `classes`.
    """
    known = {image.uid: image for image in images}
    stacks: dict[str, list[tuple[Plane, Spot]]] = defaultdict(list)
    for image in images:
        for frame, plane in enumerate(image.planes, start=1):
            stacks[image.space].append((plane, (image.uid, frame)))
    label_of = class_by_name({mark.name for mark in marks}, classes, root)
    placed: dict[Spot, list[tuple[int, DicomMark]]] = defaultdict(list)
    names: dict[Spot, dict[str, None]] = defaultdict(dict)
    faults = list[MeddiffError]()
    for mark in marks:
        label, place = label_of(mark.number, mark.name), _place(mark, known, stacks)
        if place and (fault := _misplaced(mark, known[place[0]], place[1])):
            faults.append(fault)
        elif place:
            names[place][mark.name] = None
            if label:
                placed[place].append((label, mark))
    if faults:
        raise joined(list({fault.where: fault for fault in faults}.values()))
    return ({place: _sources(drawn, known[place[0]], place[1]) for place, drawn in placed.items()},
            {place: tuple(each) for place, each in names.items()})


def _segments(header: DicomHeader, tags: "Dataset") -> Iterator[DicomMark]:
    kind = str(tags.SegmentationType)
    if kind not in ("BINARY", "LABELMAP"):
        raise MeddiffError(header.path, f"a segmentation must be BINARY or LABELMAP, this one is {kind}", "Export it as BINARY")
    names = {int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "") for segment in tags.SegmentSequence}
    shown, size = planes(tags), (int(tags.Rows), int(tags.Columns))
    lone = {str(instance.ReferencedSOPInstanceUID) for series in tags.get("ReferencedSeriesSequence") or []
            for instance in series.get("ReferencedInstanceSequence") or []}
    shared = (tags.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for index, own in enumerate(tags.PerFrameFunctionalGroupsSequence):
        derived = [source for item in own.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or []
                   for source in item.get("SourceImageSequence") or []]
        targets = [_target(source) for source in derived] or [(min(lone), 0) if len(lone) == 1 else ("", 0)]
        if kind == "LABELMAP":
            numbers = [(number, number) for number in names if number]
        else:
            groups = (group.get("SegmentIdentificationSequence") for group in (own, shared))
            numbers = [(int(next(filter(None, groups))[0].ReferencedSegmentNumber), 0)]
        for number, value in numbers:
            for target in targets:
                yield DicomMark(header.path, number, names.get(number, ""), target, header.space, shown[index] if shown else None,
                           size, index, value, np.empty((0, 3)))


def _contours(header: DicomHeader, tags: "Dataset") -> Iterator[DicomMark]:
    regions = {int(region.ROINumber): region for region in tags.get("StructureSetROISequence") or []}
    for drawn in tags.get("ROIContourSequence") or []:
        region = regions[int(drawn.ReferencedROINumber)]
        space = str(region.get("ReferencedFrameOfReferenceUID") or header.space)
        for contour in drawn.get("ContourSequence") or []:
            if str(contour.ContourGeometricType).startswith("CLOSED"):
                source = (contour.get("ContourImageSequence") or [None])[0]
                target = _target(source) if source else ("", 0)
                points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
                yield DicomMark(header.path, int(region.ROINumber), str(region.get("ROIName") or ""), target, space, None, None,
                                0, 0, points)


def _place(mark: DicomMark, known: dict[str, DicomHeader], stacks: dict[str, list[tuple[Plane, Spot]]]) -> Spot | None:
    """The frame that a mark names; or, where it names none, the one that lies where it was drawn."""
    uid, frame = mark.target
    if uid:
        image = known.get(uid)
        if image and (frame or image.frames == 1):
            return (uid, frame or 1) if (frame or 1) <= image.frames else None
    near = [(distance, place) for plane, place in stacks[mark.space] if not uid or place[0] == uid
            for distance in [_distance(mark, plane)] if distance is not None]
    return min(near, key=lambda each: each[0])[1] if near else None


def _distance(mark: DicomMark, plane: Plane) -> float | None:
    """How far a mark lies from a plane [mm], None where it is no part of it: the other way round, or half a millimetre off."""
    if mark.size is not None:
        return 0.0 if mark.plane is not None and plane.covers(mark.plane) else None
    off = float(np.abs(plane.project(mark.points)[:, 2]).max())
    return off if off < 0.5 else None


def _misplaced(mark: DicomMark, image: DicomHeader, frame: int) -> MeddiffError | None:
    """Why a segmentation can't be laid on its image, None where it can; contours are looked at one by one."""
    if mark.size is None:
        return None
    if mark.size != image.size:
        own, its = ("×".join(map(str, reversed(size or ()))) for size in (mark.size, image.size))
        return MeddiffError(mark.file, f"a mask has its image's size, this one is {own} and the image {its} pixels", _DRAWN)
    if mark.plane and image.planes and not image.planes[frame - 1].covers(mark.plane):
        return MeddiffError(mark.file, "a segmentation must lie where its image lies, this one has another position, "
                            "direction or spacing", _DRAWN)
    return None


def _sources(drawn: Sequence[tuple[int, DicomMark]], image: DicomHeader, frame: int) -> Marked:
    """The masks of one frame, one a file."""
    segments: dict[Path, list[tuple[int, int, int]]] = defaultdict(list)
    regions: dict[Path, dict[tuple[int, int], list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    for label, mark in drawn:
        if mark.size is not None:
            segments[mark.file].append((mark.index, mark.value, label))
        else:
            if not image.planes:
                return Marked((), _NOWHERE)
            points = _on_image(mark, image, image.planes[frame - 1])
            if points is None:
                return Marked((), _BESIDE)
            regions[mark.file][label, mark.number].append(points)
    contours = (DicomContours(file, tuple((label, tuple(each)) for (label, _), each in own.items()))
                for file, own in regions.items())
    return Marked((*(DicomSegments(file, tuple(parts)) for file, parts in segments.items()), *contours))


def _on_image(mark: DicomMark, image: DicomHeader, plane: Plane) -> NDArray[np.float64] | None:
    """The corners of a contour as (x, y) in pixels, None where it lies beside the image or off its plane."""
    seen, (rows, columns) = plane.project(mark.points).round(3), image.size or (0, 0)   # a contour may run through pixel centres
    low, high = seen.min(axis=0), seen.max(axis=0)
    beside = (high[:2] < -0.5).any() or (low[:2] > (columns - 0.5, rows - 0.5)).any()
    return None if beside or np.abs(seen[:, 2]).max() > 0.5 or len(seen) < 3 else seen[:, :2]


def _target(source: "Dataset") -> Spot:
    """The image that a reference names, and its frame: the first of several, 0 where there is none."""
    numbers = source.get("ReferencedFrameNumber") or 0
    return str(source.ReferencedSOPInstanceUID), int(numbers[0] if isinstance(numbers, Sequence) else numbers)
