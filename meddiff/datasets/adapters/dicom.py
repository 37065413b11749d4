"""The layout `dicom`: a folder of DICOM files, as archives export them; annotations are segmentations and structure sets.

Of what the files say of people nothing leaves this room: a patient is a hash, and so is the name of a case.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from meddiff.cases import short_hash
from meddiff.datasets.adapters.dicom_headers import (
    SEGMENTATION,
    STRUCTURES,
    DicomHeader,
    dicom_files,
    is_dicom,
    read_headers,
)
from meddiff.datasets.adapters.dicom_marks import Marked, place_marks, read_marks
from meddiff.datasets.adapters.dicom_pixels import DicomFrame
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.slicing import Slicing, evenly


def dicom(path: Path, classes: Sequence[str] = ("lesion",), slicing: Slicing | None = None) -> list[RawCase]:
    """Every frame of every image below `path` (.dcm, .dicom, .ima, without suffix, or named by UID) is a case.

    Masks are the DICOM SEG (BINARY, LABELMAP) and RTSTRUCT files there, matched by the UID and frame that they name, else by
    where they lie. All frames with a mask are cases. Of the others a file of several frames gives `slicing.frames`, and so does a
    series of CT, MR, PT or NM; in a series that is annotated these are lesion-free.

    A case is named by modality and a hash of its SOP Instance UID. Its group is a hash of PatientID, salted by the patient's
    first StudyInstanceUID, which never leaves the dataset: the same data gives the same group, and who hasn't the data can't find
    a number by trying all. Without PatientID a study is the group.

    Raises:
        MeddiffError: see `read`, and `dicom_marks`.
    """
    slicing = slicing or Slicing()
    headers = read_headers(dicom_files(path))
    images = _images(headers)
    marked, names = place_marks(read_marks(headers), images, classes, path)
    stacked = {image.uid for image in images if image.stacked}   # whose frames that a segmentation leaves empty are lesion-free
    marked = {spot: each for spot, each in marked.items() if spot[0] not in stacked or each.drawn()}
    owners, stacks = _groups(images), {image.series for image in images if image.stacked for frame in _numbers(image)
                                       if (image.uid, frame) in marked and marked[image.uid, frame].masks}
    batches: dict[str, list[tuple[DicomHeader, int]]] = defaultdict(list)
    for image in sorted(images, key=lambda each: (each.series, each.number, each.uid)):
        batch = image.series if image.stacked else image.uid
        batches[batch] += [(image, frame) for frame in _numbers(image) if (image.uid, frame) not in marked]
    chosen = [place for batch in batches.values() for place in evenly(batch, slicing.frames)]
    drawn = [(image, frame) for image in images for frame in _numbers(image) if (image.uid, frame) in marked]
    cases = [_case(image, frame, owners[image.uid], marked.get((image.uid, frame)), image.series in stacks, slicing, len(classes))
             for image, frame in (*drawn, *chosen)]
    return [replace(case, categories=names.get((image.uid, frame), ()))
            for case, (image, frame) in zip(cases, (*drawn, *chosen), strict=True)]


def dicom_frames(files: Sequence[Path], slicing: Slicing) -> list[RawCase]:
    """Every frame of the images among DICOM files, named as in `dicom`, whatever is drawn on them."""
    images = _images(read_headers(files))
    return [_case(image, frame, "", None, False, slicing, 1) for image in images for frame in _numbers(image)]


def explain_dicom(ids: Collection[str], file: Path) -> str:
    """Why a file that no case is read from isn't used, and what helps; `ids` are those of the cases."""
    if not is_dicom(file):
        return "" if file.name.upper() == "DICOMDIR" else "it is no DICOM file"
    header = next(iter(read_headers([file])), None)
    if header is None:
        return "its DICOM header isn't intact: export it again"
    if header.kind in (*SEGMENTATION, STRUCTURES):
        return "nothing that it draws could be laid on an image here as one of the classes"
    if header.size is None:
        return "it shows no image to learn from: a localizer, report, plan, dose, map or slide"
    if header.id in ids or f"{header.id}_0001" in ids:
        return "it is a copy of another file"
    return "its series has more slices without mask than `prepare.frames`"


def _images(headers: Sequence[DicomHeader]) -> list[DicomHeader]:
    """Those that show an image to learn from; of copies the first."""
    return list({header.uid: header for header in reversed(headers) if header.size}.values())[::-1]


def _numbers(image: DicomHeader) -> range:
    return range(1, image.frames + 1)


def _groups(images: Sequence[DicomHeader]) -> dict[str, str]:
    """UID of an image -> its group, empty where the file names neither patient nor study."""
    studies: dict[str, str] = {}
    for image in images:
        patient, study = image.owner
        studies[patient] = min(studies.get(patient, study), study)
    named = {"": ""} | {study: f"study_{short_hash(study)}" for _, study in (image.owner for image in images) if study}
    return {image.uid: f"patient_{short_hash(patient, studies[patient])}" if patient else named[study]
            for image in images for patient, study in [image.owner]}


def _case(image: DicomHeader, frame: int, group: str, marked: Marked | None, complete: bool, slicing: Slicing,
          classes: int) -> RawCase:
    many = image.frames > 1
    return RawCase(f"{image.id}_{frame:04d}" if many else image.id, DicomFrame(image.path, frame, image.frames, slicing.window),
                   marked.masks if marked else (), group, lesion_free=complete and marked is None, classes=classes,
                   doubt=marked.doubt if marked else "")
