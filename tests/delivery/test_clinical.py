"""Masks written for DICOM files and volumes: the formats' own readers and ours find the same mask, pixel for pixel."""

from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from meddiff.datasets.adapters import decode, read
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.delivery.clinical import write_dicom_mask, write_volume_mask
from meddiff.errors import MeddiffError
from tests.datasets.clinical import image, stack
from tests.datasets.test_volumes import DIRECTIONS, A, meta, nifti

H, W = 20, 27
GRAY = np.random.default_rng(0).integers(0, 256, (H, W), np.uint8)
K = np.zeros((H, W), np.uint8)
K[3:9, 4:15], K[12:15, 17:22] = 1, 2


@pytest.mark.parametrize("kind", ["ultrasound", "tomography", "empty"])
def test_a_dicom_mask_comes_back(tmp_path: Path, kind: str) -> None:
    made = stack(tmp_path, np.zeros((1, H, W), np.int16))[0] if kind == "tomography" else image(tmp_path / "a.dcm", GRAY)
    mask = K * 0 if kind == "empty" else K
    write_dicom_mask(Path(made.filename), mask, ("benign", "malignant"), tmp_path / "out/seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "out/seg.dcm")
    planes = seg.get_pixels_by_source_instance([made.SOPInstanceUID])[0]
    assert (planes == np.stack([mask == 1, mask == 2], -1)).all()
    assert (pydicom.dcmread(tmp_path / "out/seg.dcm").pixel_array == np.stack([mask == 1, mask == 2])).all()
    assert len({seg.SOPInstanceUID, seg.SeriesInstanceUID, made.SOPInstanceUID, made.SeriesInstanceUID}) == 4
    assert seg.StudyInstanceUID == made.StudyInstanceUID
    (case,) = read("dicom", tmp_path, ("benign", "malignant"))
    assert (decode(case).mask == mask).all()


def test_a_mask_of_a_frame_comes_back_on_its_frame(tmp_path: Path) -> None:
    video = image(tmp_path / "cine.dcm", np.stack([GRAY] * 9), NumberOfFrames=9)
    write_dicom_mask(tmp_path / "cine.dcm", K, ("benign", "malignant"), tmp_path / "seg.dcm", frame=5)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.get_pixels_by_source_frame(video.SOPInstanceUID, [5], combine_segments=True)[0] == K).all()
    (case,) = (case for case in read("dicom", tmp_path, ("benign", "malignant"), slicing=Slicing(frames=2)) if case.masks)
    assert case.id.endswith("_0005")
    assert (decode(case).mask == K).all()


def test_a_file_that_was_made_anonymous_gets_a_mask(tmp_path: Path) -> None:
    made = image(tmp_path / "a.dcm", GRAY)
    for name in ("AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
                 "StudyDate", "StudyID", "StudyTime"):
        delattr(made, name)
    made.save_as(tmp_path / "a.dcm")
    write_dicom_mask(tmp_path / "a.dcm", K, ("benign", "malignant"), tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.get_pixels_by_source_instance([made.SOPInstanceUID], combine_segments=True)[0] == K).all()


def test_a_mask_of_a_frame_with_functional_groups_lies_where_the_frame_lies(tmp_path: Path) -> None:
    """An enhanced multi-frame file, as highdicom makes it of a series."""
    (tmp_path / "series").mkdir()
    series = stack(tmp_path / "series", np.zeros((3, H, W), np.int16))
    for each in series:
        each.AcquisitionNumber = 1
    uids = [pydicom.uid.generate_uid() for _ in range(2)]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(series, uids[0], 1, uids[1], 1)
    enhanced.save_as(tmp_path / "a.dcm")
    write_dicom_mask(tmp_path / "a.dcm", K, ("benign", "malignant"), tmp_path / "seg.dcm", frame=2)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.get_pixels_by_source_frame(uids[1], [2], combine_segments=True)[0] == K).all()
    own, place = seg.PerFrameFunctionalGroupsSequence[0], enhanced.PerFrameFunctionalGroupsSequence[1]
    assert own.PlanePositionSequence[0].ImagePositionPatient == place.PlanePositionSequence[0].ImagePositionPatient
    assert seg.FrameOfReferenceUID == enhanced.FrameOfReferenceUID
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.7]
    (case,) = (case for case in read("dicom", tmp_path, ("benign", "malignant")) if case.masks)
    assert case.id.endswith("_0002")
    assert (decode(case).mask == K).all()


@pytest.mark.parametrize("tags", [
    {"PatientBirthDate": "19670000"}, {"StudyTime": "12:00:00"}, {"PatientSex": "W"}, {"SpecificCharacterSet": "ISO_IR 100"},
    {"SpecificCharacterSet": ["", "ISO 2022 IR 87"]}], ids=lambda tags: next(iter(tags)))
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_values_that_hospitals_write_dont_hinder_a_mask(tmp_path: Path, tags: dict[str, Any]) -> None:
    name = "Müller^Jürgen" if "ISO_IR 100" in tags.values() else "Yamada^Tarou=山田^太郎"
    made = image(tmp_path / "a.dcm", GRAY, **tags, **({"PatientName": name} if "SpecificCharacterSet" in tags else {}))
    write_dicom_mask(tmp_path / "a.dcm", K, ("benign", "malignant"), tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.get_pixels_by_source_instance([made.SOPInstanceUID], combine_segments=True)[0] == K).all()
    assert seg.PatientName == made.PatientName


@pytest.mark.parametrize("lacking", ["SliceThickness", "ImagePositionPatient", "PixelSpacing", "FrameOfReferenceUID"])
def test_a_slice_whose_place_isnt_told_gets_a_mask_that_names_it(tmp_path: Path, lacking: str) -> None:
    (made,) = stack(tmp_path, np.zeros((1, H, W), np.int16))
    source = Path(made.filename)
    delattr(made, lacking)
    made.save_as(source)
    write_dicom_mask(source, K, ("benign", "malignant"), tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.get_pixels_by_source_instance([made.SOPInstanceUID], combine_segments=True)[0] == K).all()
    assert {each.value for each in seg.iterall() if each.keyword == "ReferencedSOPClassUID"} == {made.SOPClassUID}
    (case,) = read("dicom", tmp_path, ("benign", "malignant"))
    assert (decode(case).mask == K).all()


def test_what_a_segmentation_cant_be_written_for_is_refused(tmp_path: Path) -> None:
    made = image(tmp_path / "a.dcm", GRAY)
    with pytest.raises(MeddiffError, match="this one is 20×27 and the image 27×20 pixels"):
        write_dicom_mask(tmp_path / "a.dcm", K.T, ("benign", "malignant"), tmp_path / "seg.dcm")
    del made.SeriesInstanceUID, made.StudyInstanceUID
    made.save_as(tmp_path / "a.dcm")
    with pytest.raises(MeddiffError, match=r"a\.dcm: a DICOM image must tell patient, study"):
        write_dicom_mask(tmp_path / "a.dcm", K, ("benign", "malignant"), tmp_path / "seg.dcm")


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_volume_mask_comes_back(tmp_path: Path, direction: str, axis: str) -> None:
    whole = np.random.default_rng(1).integers(0, 3, A.shape).astype(np.uint8)
    for folder, array in (("images", A), ("masks", whole)):
        (tmp_path / folder).mkdir()
        nifti(tmp_path / folder / "a.nii.gz", array, direction)
    cases = read("volumes", tmp_path, ("one", "two"), slicing=Slicing(axis=axis))
    slices = {int(case.id[-4:]): decode(case).mask for case in cases}
    for suffix in ("nii.gz", "nrrd", "seg.nrrd", "mha"):
        write_volume_mask(tmp_path / "images/a.nii.gz", slices, tmp_path / f"out/a.{suffix}", axis, ("one", "two"))
        back = SimpleITK.ReadImage(str(tmp_path / f"out/a.{suffix}"))
        assert (SimpleITK.GetArrayFromImage(back) == whole.T).all()
        source = SimpleITK.ReadImage(str(tmp_path / "images/a.nii.gz"))
        assert np.allclose(back.GetOrigin(), source.GetOrigin(), atol=1e-4)
        assert np.allclose(back.GetDirection(), source.GetDirection(), atol=1e-5)
        assert np.allclose(back.GetSpacing(), source.GetSpacing())
    again = nibabel.load(tmp_path / "out/a.nii.gz")
    assert (np.asarray(again.dataobj) == whole).all()
    assert np.allclose(again.affine, nibabel.load(tmp_path / "images/a.nii.gz").affine, atol=1e-4)
    (tmp_path / "masks/a.nii.gz").unlink()
    (tmp_path / "out/a.seg.nrrd").rename(tmp_path / "masks/a.seg.nrrd")
    ours = {case.id: decode(case).mask for case in read("volumes", tmp_path, ("one", "two"), slicing=Slicing(axis=axis))}
    assert all((ours[f"a_{index:04d}"] == mask).all() for index, mask in slices.items())


def test_a_flat_mask_comes_back_and_others_are_refused(tmp_path: Path) -> None:
    meta(tmp_path / "a.mha", GRAY)
    write_volume_mask(tmp_path / "a.mha", {0: K.T}, tmp_path / "mask.mha")
    assert (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "mask.mha"))) == K.T).all()
    for index, mask in ((0, K[:5]), (3, K.T)):
        with pytest.raises(MeddiffError, match="a mask has the size of its slice"):
            write_volume_mask(tmp_path / "a.mha", {index: mask}, tmp_path / "mask.mha")
