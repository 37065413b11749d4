"""DICOM files that the tests write: images, segmentations and structure sets, valid unless a test spoils them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

NAME, NUMBER, HOSPITAL = "Roentgen^Wilhelm", "4711-0815", "Juliusspital"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"


def image(path: Path, pixels: NDArray[Any], patient: str = NUMBER, study: str = "", series: str = "", **tags: Any) -> FileDataset:
    """An ultrasound image `[H, W]`, `[H, W, 3]`, or with frames in front where `NumberOfFrames` is among the tags."""
    kind = UltrasoundMultiFrameImageStorage if "NumberOfFrames" in tags else UltrasoundImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    shape = pixels.shape[1:] if "NumberOfFrames" in tags else pixels.shape
    colour, bits = len(shape) == 3, 8 * pixels.dtype.itemsize
    for name, value in {
            "SOPClassUID": kind, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "US", "PatientID": patient,
            "PatientName": NAME, "InstitutionName": HOSPITAL, "PatientBirthDate": "18450327", "PatientSex": "M",
            "StudyInstanceUID": study or generate_uid(), "SeriesInstanceUID": series or generate_uid(), "InstanceNumber": 1,
            "StudyDate": "20200101", "StudyTime": "120000", "StudyID": "1", "SeriesNumber": 1, "AccessionNumber": "1",
            "ReferringPhysicianName": "", "Manufacturer": "M", "ManufacturerModelName": "M", "DeviceSerialNumber": "1",
            "SoftwareVersions": "1", "Laterality": "", "PatientOrientation": "",
            "Rows": shape[0], "Columns": shape[1], "SamplesPerPixel": 3 if colour else 1, "BitsAllocated": bits,
            "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2", **({"PlanarConfiguration": 0} if colour else {}),
            "PixelData": pixels.tobytes(), **tags}.items():
        setattr(made, name, value)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.save_as(path, enforce_file_format=True)
    return made


def stack(folder: Path, volume: NDArray[np.int16], patient: str = NUMBER, spacing: Sequence[float] = (3.0, 0.5, 0.7),
          **tags: Any) -> list[FileDataset]:
    """A CT series `[Z, H, W]`, its first slice lowest."""
    study, series, space = generate_uid(), generate_uid(), generate_uid()
    return [image(folder / f"{patient}_{z:03d}.dcm", levels, patient, study, series, Modality="CT", SOPClassUID=CTImageStorage,
                  InstanceNumber=z + 1, FrameOfReferenceUID=space, ImagePositionPatient=[-10, -20, 5 + z * spacing[0]],
                  ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=list(spacing[1:]), SliceThickness=spacing[0],
                  RescaleSlope=1, RescaleIntercept=-1024, PositionReferenceIndicator="",
                  ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **tags) for z, levels in enumerate(volume)]


def segmentation(path: Path, sources: Sequence[Dataset], masks: NDArray[Any], labels: Sequence[str] = ("lesion",),
                 kind: SegmentationTypeValues = SegmentationTypeValues.BINARY, **options: Any) -> Segmentation:
    """A SEG of `masks` `[N, H, W]`, whose values are the numbers of the segments."""
    described = [SegmentDescription(number, label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion,
                                    SegmentAlgorithmTypeValues.MANUAL) for number, label in enumerate(labels, start=1)]
    made = Segmentation(
        list(sources), masks, kind, described, generate_uid(), 2, generate_uid(), 1, manufacturer="M",
        manufacturer_model_name="M", software_versions="1", device_serial_number="1", **options)
    made.save_as(path)
    return made


def structures(path: Path, source: Dataset, contours: dict[str, list[NDArray[np.float64]]], named: bool = True) -> Dataset:
    """An RTSTRUCT whose contours `[N, 2]` are corners (x, y) in pixels of `source`, or `[N, 3]` [mm]."""
    made = image(path, np.zeros((1, 1), np.uint8), Modality="RTSTRUCT", SOPClassUID=STRUCTURE_SET)
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(made, name)
    made.FrameOfReferenceUID = source.FrameOfReferenceUID
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, outlines) in enumerate(contours.items(), start=1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, source.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for corners in outlines:
            each, steps = Dataset(), np.array(source.PixelSpacing[::-1], np.float64)
            points = corners if corners.shape[1] == 3 else np.c_[corners * steps, np.zeros(len(corners))] + np.array(
                source.ImagePositionPatient, np.float64)
            each.ContourGeometricType, each.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            each.ContourData = [f"{value:.6g}" for value in points.ravel()]
            if named:
                reference = Dataset()
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
                each.ContourImageSequence = [reference]
            drawn.ContourSequence.append(each)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(drawn)
    made.save_as(path, enforce_file_format=True)
    return made


