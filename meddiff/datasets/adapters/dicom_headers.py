"""What the header of a DICOM file says: what it shows, of whom, where in space.

Errors of the library are never quoted here: they may hold the values of tags, and so a person's name.
"""

import logging
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import short_hash
from meddiff.datasets.adapters.listing import visible_files
from meddiff.environment import require_extra
from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")   # by segments, and by label map
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
# Doses, surfaces, maps of parameters and whole slides have pixels or shapes, but none that is an image of the size of a mask.
_NO_IMAGE = ("1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.66.5", "1.2.840.10008.5.1.4.1.1.30",
             "1.2.840.10008.5.1.4.1.1.77.1.6")
_SUFFIXES = (".dcm", ".dicom", ".ima")
_STACKS = ("CT", "MR", "PT", "NM")   # whose series are volumes
_TAGS = ["SOPClassUID", "SOPInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "PatientID", "IssuerOfPatientID",
         "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "FrameOfReferenceUID", "ImageType", "ImagePositionPatient",
         "ImageOrientationPatient", "PixelSpacing", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]


@dataclass(frozen=True, eq=False)
class Plane:
    """Where a frame lies in the patient.

    Attributes:
        origin: `[3]` centre of the first pixel [mm].
        axes: `[2, 3]` directions of the columns' index x and of the rows' index y, each of length 1.
        spacing: between rows and between columns [mm].
    """

    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points `[N, 3]` [mm] as x, y [pixels] and distance from the plane [mm]."""
        basis = np.stack([self.axes[0] / self.spacing[1], self.axes[1] / self.spacing[0], np.cross(*self.axes)])
        return np.asarray((points - self.origin) @ basis.T, np.float64)

    def covers(self, other: "Plane") -> bool:
        """Whether the other's pixels lie on these: first corner and steps differ by less than a tenth of a pixel."""
        corners = other.origin + np.array([[0, 0], [0, 100], [100, 0]]) @ (other.axes * np.array(other.spacing[::-1])[:, None])
        return bool(np.abs(self.project(corners) - [(0, 0, 0), (0, 100, 0), (100, 0, 0)]).max() < 0.1)


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """A DICOM file that holds images, segments or contours.

    Attributes:
        path: the file.
        uid, kind, series, space: UIDs of instance, SOP class, series and frame of reference; empty where there is none.
        modality: such as `US`.
        size: rows and columns, None where the file isn't to be read as an image.
        frames: number of frames.
        owner: patient and study; these never leave the memory.
        number: of the instance in its series.
        planes: of each frame, empty where they aren't known.
    """

    path: Path
    uid: str
    kind: str
    series: str
    space: str
    modality: str
    size: tuple[int, int] | None
    frames: int
    owner: tuple[str, str]
    number: int
    planes: tuple[Plane, ...]

    @property
    def id(self) -> str:
        """Its name in meddiff: the modality and a hash of the instance's UID."""
        return f"{self.modality.lower()}_{short_hash(self.uid)}"

    @property
    def stacked(self) -> bool:
        """Whether its series is a volume, of which it shows slices."""
        return self.modality in _STACKS and bool(self.planes)


def silence_pydicom() -> None:
    """Turn its warnings off for this process, threads included: they quote values of tags."""
    from pydicom import config

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    config.settings.reading_validation_mode = config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its content, or says so by its name; not a directory of such files."""
    unnamed = not file.suffix or re.fullmatch(r"\.\d+", file.suffix)   # or named by a UID
    return file.name.upper() != "DICOMDIR" and (file.suffix.lower() in _SUFFIXES or (bool(unnamed) and _marked(file)))


def dicom_files(path: Path) -> list[Path]:
    """The DICOM files below a folder."""
    return [file for file in visible_files(path) if is_dicom(file)]


def count_dicom(path: Path) -> int:
    """How many files of a folder, at any depth, the layout `dicom` would look at."""
    return len(dicom_files(path))


def read_headers(files: Iterable[Path]) -> list[DicomHeader]:
    """The headers of the files that have an intact one.

    Raises:
        MeddiffError: the extra isn't installed.
    """
    require_extra("dicom", "pydicom", "pylibjpeg")
    headers = list[DicomHeader]()
    for file in files:
        with suppress(MeddiffError):
            headers.append(_header(file))
    return headers


def read_tags(path: Path, tags: list[str] | None = None) -> "Dataset":
    """All tags of a file but its pixels, or those named.

    Raises:
        MeddiffError: the file isn't DICOM.
    """
    from pydicom import dcmread

    silence_pydicom()
    try:
        tagged = dcmread(path, stop_before_pixels=True, specific_tags=tags, force=bool(path.suffix))
        if "SOPInstanceUID" in tagged and "SOPClassUID" in tagged:
            return tagged
    except Exception:  # nosec B110: whatever it is, the next line tells
        pass
    raise MeddiffError(path, "a DICOM file must begin with an intact header", "Export it again, or take it out of the folder")


def _header(path: Path) -> DicomHeader:
    tags = read_tags(path, _TAGS)
    try:
        kind, modality = str(tags.SOPClassUID), re.sub("[^A-Z0-9]", "", str(tags.get("Modality", "")).upper())[:8] or "DICOM"
        image = "Rows" in tags and "Columns" in tags and kind not in (*SEGMENTATION, STRUCTURES, *_NO_IMAGE)
        scout = [str(word) for word in tags.get("ImageType") or []][2:3] == ["LOCALIZER"]
        patient, study = (str(tags.get(name) or "").strip() for name in ("PatientID", "StudyInstanceUID"))
        return DicomHeader(
            path, str(tags.SOPInstanceUID), kind, str(tags.get("SeriesInstanceUID") or ""),
            str(tags.get("FrameOfReferenceUID") or ""), modality,
            (int(tags.Rows), int(tags.Columns)) if image and not scout else None, int(tags.get("NumberOfFrames") or 1),
            (f"{tags.get('IssuerOfPatientID') or ''}\0{patient}" if patient else "", study),
            int(tags.get("InstanceNumber") or 0), planes(tags) if image else ())
    except Exception:
        raise MeddiffError(path, "the values of a DICOM header must be of their kind: numbers where numbers belong",
                           "Export it again, or take it out of the folder") from None


def planes(tags: "Dataset") -> tuple[Plane, ...]:
    """The plane of each frame, empty where one isn't known."""
    frames = [frame_tags(tags, frame) for frame in range(1, int(tags.get("NumberOfFrames") or 1) + 1)]
    known = all(frame.get(name) for frame in frames
                for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    return tuple(Plane(np.array(frame.ImagePositionPatient, np.float64),
                       np.array(frame.ImageOrientationPatient, np.float64).reshape(2, 3),
                       (float(frame.PixelSpacing[0]), float(frame.PixelSpacing[1]))) for frame in frames) if known else ()


def frame_tags(tags: "Dataset", frame: int) -> "Dataset":
    """What the header says of one frame, from 1: its own functional groups before those of all frames before the file's tags."""
    from pydicom import Dataset

    flat = Dataset()
    groups = [*(tags.get("SharedFunctionalGroupsSequence") or [])[:1],
              *(tags.get("PerFrameFunctionalGroupsSequence") or [])[frame - 1:frame]]
    for place in (tags, *(item for group in groups for element in group if element.VR == "SQ" for item in element.value[:1])):
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
                    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
                    "PixelRepresentation", "SequenceOfUltrasoundRegions"):
            if tag in place:
                flat[tag] = place[tag]
    return flat


def _marked(file: Path) -> bool:
    """Whether a file has DICOM's mark behind its preamble."""
    try:
        with file.open("rb") as stream:
            stream.seek(128)
            return stream.read(4) == b"DICM"
    except OSError:
        return False
