"""Masks in the format and geometry of the files that they belong to: DICOM SEG, NIfTI, NRRD, MetaImage.

A SEG goes back into its patient's study, and so it names the patient, as its source does; nothing of that is told anywhere else.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meddiff.cases import Pixels
from meddiff.datasets.adapters.dicom_headers import frame_tags, read_tags
from meddiff.datasets.adapters.volume_pixels import place_slice, read_volume, turn_volume
from meddiff.environment import require_extra
from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from pydicom import Dataset

_MAY_BE_EMPTY = ("AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
                 "StudyDate", "StudyID", "StudyTime")  # which a SEG must have, and which files that were made anonymous may lack
_IN_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "FrameIncrementPointer",
              "DimensionIndexSequence", "DimensionOrganizationSequence")

_PLACED = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")  # what a place needs


def write_dicom_mask(source: Path, mask: Pixels, classes: Sequence[str], out: Path, frame: int = 1, root: str = "") -> None:
    """Write a mask as DICOM SEG (BINARY, a segment for each class), with UIDs of its own, that refers to its source.

    Args:
        source: the DICOM file of the image.
        mask: `[H, W]` uint8 of 0 to K, of the image's own size.
        classes: names of the classes, 1 to K.
        out: the file to write.
        frame: of the source, from 1.
        root: with which the new UIDs begin, ending in a dot; pydicom's if not given.

    Raises:
        MeddiffError: the extra isn't installed, the mask is of another size, or the source lacks what a SEG must repeat.
    """
    require_extra("dicom", "pydicom", "highdicom")
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import PYDICOM_ROOT_UID, SecondaryCaptureImageStorage, generate_uid

    tags = read_tags(source)
    if mask.shape != (size := (int(tags.get("Rows", 0)), int(tags.get("Columns", 0)))):
        raise MeddiffError(source, f"a mask has its image's size, this one is {mask.shape[1]}×{mask.shape[0]} and the image "
                           f"{size[1]}×{size[0]} pixels", "Bring it to the image's own size")
    _mend(tags)
    many, kind = int(tags.get("NumberOfFrames") or 1) > 1, tags.SOPClassUID
    if many:  # the frame is made a single image
        own = frame_tags(tags, frame)
        for name in _IN_GROUPS:
            if name in tags:
                del tags[name]
        tags.update({element.tag: element for element in own})
        tags.NumberOfFrames = 1
    if "PixelSpacing" in tags and not tags.get("SliceThickness"):  # both, or readers refuse the segmentation
        del tags.PixelSpacing
    placed = all(tags.get(name) for name in _PLACED)
    if not placed and "FrameOfReferenceUID" in tags:
        del tags.FrameOfReferenceUID
    if many or not placed:  # highdicom takes nothing else without a place in the patient
        tags.SOPClassUID = SecondaryCaptureImageStorage
    algorithm = AlgorithmIdentificationSequence("meddiff", codes.DCM.ArtificialIntelligence, version("meddiff"))
    segments = [SegmentDescription(
        number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm) for number, name in enumerate(classes, start=1)]
    new, synthetic = partial(generate_uid, root or PYDICOM_ROOT_UID), tags.get("SyntheticData") == "YES"
    try:
        made = Segmentation(
            [tags], mask[None], SegmentationTypeValues.BINARY, segments, new(), 1000, new(), 1,
            manufacturer="meddiff", manufacturer_model_name="meddiff", software_versions=version("meddiff"),
            device_serial_number="1", series_description=f"meddiff: {'synthetic' if synthetic else 'predicted'} mask",
            omit_empty_frames=False)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise MeddiffError(source, "a DICOM image must tell patient, study, series and modality, for a segmentation "
                           "to repeat them", "Write the mask as PNG") from None
    for group in made.PerFrameFunctionalGroupsSequence if many else ():
        for each in group.DerivationImageSequence[0].SourceImageSequence:
            each.ReferencedFrameNumber = frame
    for element in made.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = kind
    made.update({"SyntheticData": "YES"} if synthetic else {})  # as all that is derived from synthetic data
    out.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(out)


def _mend(tags: "Dataset") -> None:
    """Empty what hospitals' files hold against the standard, such as a birth in 19670000, and highdicom refuses."""
    from pydicom.valuerep import DA, TM

    for name in (name for name in _MAY_BE_EMPTY if name not in tags):
        setattr(tags, name, "")
    for name, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(str(tags[name].value or ""))
        except (ValueError, TypeError):
            setattr(tags, name, "")
    if tags.PatientSex not in ("M", "F", "O"):
        tags.PatientSex = ""
    if "SpecificCharacterSet" in tags:  # of which there may be several
        tags.decode()
        tags.SpecificCharacterSet = "ISO_IR 192"


def write_volume_mask(source: Path, slices: Mapping[int, Pixels], out: Path, axis: str = "axial",
                      classes: Sequence[str] = ("lesion",)) -> None:
    """Write masks of a volume's slices as one volume in its own geometry; slices without a mask are empty.

    Args:
        source: the volume file of the images.
        slices: index -> mask `[H, W]` uint8 of 0 to K, as `adapters.volume_pixels.VolumeSlice` counts and turns slices.
        out: the file to write; its suffix says in which format, `.seg.nrrd` with the names of the classes for 3D Slicer.
        axis: across which the slices were cut.
        classes: names of the classes.

    Raises:
        MeddiffError: the extra isn't installed, the source can't be read, or a mask is of another size than its slice.
    """
    require_extra("volumes", "SimpleITK")
    import SimpleITK

    stored = read_volume(source)
    turned = turn_volume(stored)
    array = np.zeros(turned.GetSize()[::-1], np.uint8)
    for index, mask in slices.items():
        try:
            place_slice(array if array.ndim == 3 else array[None], axis, index, mask)
        except (ValueError, IndexError):
            raise MeddiffError(source, f"a mask has the size of its slice, that of {axis} slice {index} hasn't, or there is no "
                               "such slice", "Bring it to the slice's own size") from None
    made = SimpleITK.GetImageFromArray(array)
    made.CopyInformation(turned)
    if turned is not stored:
        made = SimpleITK.DICOMOrient(made, SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            stored.GetDirection()))
    made.CopyInformation(stored)
    for number, name in enumerate(classes if out.name.endswith(".seg.nrrd") else ()):
        for key, value in (("ID", f"Segment_{number + 1}"), ("Name", name), ("LabelValue", str(number + 1)), ("Layer", "0")):
            made.SetMetaData(f"Segment{number}_{key}", value)
    out.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(made, str(out), useCompression=True)
