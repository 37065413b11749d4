"""Predictions of DICOM files and volumes go back in their own format and geometry, as the formats' own readers see them."""

from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import SimpleITK

from meddiff.cases import read_mask
from meddiff.datasets.adapters import decode, list_inputs
from meddiff.errors import MeddiffError
from tests.conftest import make_cases
from tests.datasets.clinical import image
from tests.datasets.test_volumes import nifti
from tests.delivery.test_predicting import large, predict, table, train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("models") / "real")


def test_a_dicom_image_gets_a_segmentation(model: Path, tmp_path: Path) -> None:
    gray = np.asarray(large(make_cases(1, seed=5)[0], 77, 131)[0])[:, :, 0]
    (tmp_path / "in/deep").mkdir(parents=True)
    made = image(tmp_path / "in/a.dcm", gray, PixelSpacing=[0.5, 0.25])
    cine = image(tmp_path / "in/deep/cine.dcm", np.stack([gray, gray * 0]), NumberOfFrames=2)
    (tmp_path / "in/notes.txt").write_text("no picture")
    result = predict(model, tmp_path / "in", tmp_path / "out")
    assert (result.done, result.faults, [file.name for file in result.passed]) == (3, (), ["notes.txt"])
    rows = table(tmp_path / "out").set_index("file")
    assert len(rows) == 3
    row = rows.loc["a.dcm"]
    mask = read_mask(tmp_path / "out" / row["mask"])
    assert mask.shape == (77, 131)
    assert mask.any()
    assert row["area_mm2"] == pytest.approx(mask.sum() * 0.125, abs=1e-3)
    written = highdicom.seg.segread(tmp_path / "out/clinical" / Path(row["mask"]).with_suffix(".dcm").name)
    assert (written.get_pixels_by_source_instance([made.SOPInstanceUID])[0, :, :, 0] == mask).all()
    assert "Roentgen" not in (tmp_path / "out/predictions.csv").read_text() + str(sorted((tmp_path / "out").rglob("*")))
    frames = sorted(rows.loc["deep/cine.dcm", "mask"])
    assert [Path(name).stem[-5:] for name in frames] == ["_0001", "_0002"]
    first = highdicom.seg.segread(tmp_path / "out/clinical" / Path(frames[0]).with_suffix(".dcm").name)
    assert (first.get_pixels_by_source_frame(cine.SOPInstanceUID, [1], combine_segments=True)[0] > 0).any()
    written = tmp_path / "out/clinical" / Path(frames[0]).with_suffix(".dcm").name
    before = written.read_bytes()
    again = predict(model, tmp_path / "in", tmp_path / "out")
    assert (again.kept, again.done) == (3, 0)
    assert written.read_bytes() == before, "with other UIDs it would be another file"
    image(tmp_path / "in/deep/cine.dcm", np.stack([gray * 0, gray]), NumberOfFrames=2)
    assert predict(model, tmp_path / "in", tmp_path / "out").kept == 1


@pytest.mark.parametrize("direction", ["plain", "mirrored"])
def test_a_volume_gets_a_volume(model: Path, tmp_path: Path, direction: str) -> None:
    slices = [np.asarray(large(case, 60, 50)[0])[:, :, 0] for case in make_cases(3, seed=7)]
    (tmp_path / "in").mkdir()
    nifti(tmp_path / "in/scan.nii.gz", np.stack(slices, -1).astype(np.int16), direction)
    assert predict(model, tmp_path / "in/scan.nii.gz", tmp_path / "out").done == 3
    written = tmp_path / "out/clinical/scan.nii.gz"
    stamp = written.stat().st_mtime_ns
    assert predict(model, tmp_path / "in/scan.nii.gz", tmp_path / "out").kept == 3
    assert written.stat().st_mtime_ns == stamp
    masks = {name: read_mask(tmp_path / "out/masks" / f"{name}.png") for name in ("scan_0000", "scan_0001", "scan_0002")}
    back, source = nibabel.load(tmp_path / "out/clinical/scan.nii.gz"), nibabel.load(tmp_path / "in/scan.nii.gz")
    assert np.allclose(back.affine, source.affine, atol=1e-4)
    assert back.shape == source.shape
    assert np.asarray(back.dataobj).sum() == sum(int(mask.sum()) for mask in masks.values()) > 0
    cases, *_ = list_inputs(tmp_path / "in")
    shown = {case.id: decode(case) for case in cases}
    lesion = np.asarray(back.dataobj) > 0
    levels = np.asarray(source.dataobj)[lesion]
    inside = np.concatenate([shown[name].image[:, :, 0][mask > 0] for name, mask in masks.items()])
    assert sorted(levels.tolist()) == sorted(inside.tolist()), "the mask lies on the voxels whose picture it was drawn on"


def test_what_has_no_segmentation_is_told_and_all_else_is_done(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    slices = [np.asarray(large(case, 60, 50)[0])[:, :, 0] for case in make_cases(3, seed=7)]
    made = image(tmp_path / "in/a.dcm", slices[0])
    del made.SeriesInstanceUID, made.StudyInstanceUID
    made.save_as(tmp_path / "in/a.dcm")
    nifti(tmp_path / "in/scan.nii.gz", np.stack(slices, -1).astype(np.int16))
    result = predict(model, tmp_path / "in", tmp_path / "out")
    (fault,) = result.faults
    assert "a.dcm: a DICOM image must tell patient, study" in str(fault)
    assert result.done == 4
    assert [path.name for path in (tmp_path / "out/clinical").iterdir()] == ["scan.nii.gz"]


def test_a_broken_volume_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"no volume")
    with pytest.raises(MeddiffError, match=r"scan\.nii"):
        predict(model, tmp_path, tmp_path / "out")
    scan = SimpleITK.JoinSeries([SimpleITK.Image(8, 9, 2, SimpleITK.sitkInt16)] * 3)
    SimpleITK.WriteImage(scan, str(tmp_path / "series.nii.gz"))
    image(tmp_path / "a.dcm", np.zeros((40, 50), np.uint8))
    result = predict(model, tmp_path, tmp_path / "out")
    assert result.done == 1, "all others are done"
    assert sorted(Path(fault.where).name for fault in result.faults) == ["scan.nii", "series.nii.gz"]
    assert not result.passed
