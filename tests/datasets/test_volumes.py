"""The layout `volumes`: slices as nibabel and SimpleITK read them, turned as radiologists see them, and masks that must fit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from meddiff.datasets.adapters import decode, passed_over, read, tell_categories, tell_left_out
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.adapters.volume_pixels import VolumeSlice
from meddiff.datasets.adapters.volumes import count_volumes
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages.prepare import run

RNG = np.random.default_rng(0)
A = RNG.integers(-1000, 3000, (20, 27, 11)).astype(np.int16)    # x, y, z
M = np.zeros(A.shape, np.uint8)
M[3:9, 4:15, 5:8], M[10, 20, 6] = 1, 1
SPACING = (0.5, 0.75, 3.0)
# Of voxel indices to millimetres to the right, front and head: as stored, mirrored, sagittal, oblique by a few degrees.
TURN = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
DIRECTIONS = {"plain": np.diag([-1, -1, 1]), "mirrored": np.diag([1, -1, -1]), "oblique": TURN @ np.diag([-1, -1, 1]),
              "sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]])}


def nifti(path: Path, array: NDArray[Any], direction: str = "plain", origin: tuple[float, ...] = (-10, 20, 5)) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = DIRECTIONS[direction] @ np.diag(SPACING[:array.ndim]), origin
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def meta(path: Path, array: NDArray[Any], origin: tuple[float, ...] = (10, -20, 5)) -> None:
    made = SimpleITK.GetImageFromArray(array.transpose(range(array.ndim)[::-1]))
    made.SetSpacing(SPACING[:array.ndim])
    made.SetOrigin(origin[:array.ndim])
    SimpleITK.WriteImage(made, str(path))


def slicer(path: Path, array: NDArray[Any], start: tuple[int, ...], *segments: tuple[int, int, str]) -> None:
    """A `.seg.nrrd` as 3D Slicer saves it, `[x, y, z]` or `[layers, x, y, z]`, from voxel `start` of `meta`'s volume on."""
    steps, layers, origin = np.diag(SPACING), array.ndim == 4, np.array((10, -20, 5)) + np.array(start) * SPACING
    fields = {f"Segment{i}_{key}": str(value) for i, segment in enumerate(segments)
              for key, value in zip(("Layer", "LabelValue", "Name"), segment, strict=True)}
    nrrd.write(str(path), array, {
        "space": "left-posterior-superior", "space directions": np.vstack([np.full((int(layers), 3), np.nan), steps]),
        "space origin": origin, "kinds": ["list"] * layers + ["domain"] * 3, **fields})


def dataset(root: Path, write: Callable[..., None] = nifti, suffix: str = ".nii.gz", image: NDArray[Any] = A,
            mask: NDArray[Any] | None = M, **options: Any) -> Path:
    for folder, array in (("images", image), ("masks", mask)):
        (root / folder).mkdir(exist_ok=True, parents=True)
        if array is not None:
            write(root / folder / f"a{suffix}", array, **options)
    return root


def as_seen(path: Path, axis: str) -> list[NDArray[Any]]:
    """Slices by nibabel alone: voxels in the order left, back, head, then rows downwards."""
    turned = nibabel.as_closest_canonical(nibabel.load(path))
    array = np.asarray(turned.dataobj)[::-1, ::-1]      # from right, front, head
    views = {"axial": array.transpose(2, 1, 0), "coronal": array.transpose(1, 2, 0)[:, ::-1],
             "sagittal": array.transpose(0, 2, 1)[:, ::-1]}
    return list(views[axis])


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_slices_are_those_that_nibabel_reads(tmp_path: Path, direction: str, axis: str) -> None:
    dataset(tmp_path, direction=direction)
    images, masks = (as_seen(tmp_path / f"{kind}/a.nii.gz", axis) for kind in ("images", "masks"))
    low, high = np.percentile(A, (0.1, 99.9))
    cases = {case.id: case for case in read("volumes", tmp_path, slicing=Slicing(axis=axis, frames=99))}
    assert sorted(cases) == [f"a_{index:04d}" for index in range(len(images))]
    for index, (levels, mask) in enumerate(zip(images, masks, strict=True)):
        case = cases[f"a_{index:04d}"]
        original = decode(case)
        assert np.abs(original.image[:, :, 0] - np.clip((levels - low) / (high - low), 0, 1) * 255).max() <= 0.51
        assert (original.mask == mask).all()
        assert (case.lesion_free, case.group) == (not mask.any(), "a")
    turned = nibabel.as_closest_canonical(nibabel.load(tmp_path / "images/a.nii.gz")).header.get_zooms()
    across = {"axial": 2, "coronal": 1, "sagittal": 0}[axis]
    assert original.steps == pytest.approx([turned[i] for i in (2, 1, 0) if i != across], rel=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_formats_that_simpleitk_writes(tmp_path: Path, suffix: str) -> None:
    dataset(tmp_path, meta, suffix)
    cases = read("volumes", tmp_path, slicing=Slicing((40, 400), frames=99))
    assert len(cases) == 11
    for index, case in enumerate(cases):
        original, levels = decode(case), A[:, :, index].T
        assert (original.mask == M[:, :, index].T).all()
        assert np.abs(original.image[:, :, 1] - np.clip((levels - -160) / 399, 0, 1) * 255).max() <= 0.51
        assert (original.traits, original.mode) == ({"windowed"}, "L")
    assert passed_over("volumes", tmp_path, cases) == []


def test_images_of_two_axes_and_of_one_slice_are_as_stored(tmp_path: Path) -> None:
    gray = RNG.integers(0, 256, (20, 27), np.uint8)
    dataset(tmp_path / "flat", meta, ".mha", gray, M[:, :, 6])
    dataset(tmp_path / "one", nifti, ".nii.gz", gray[:, :, None], M[:, :, 6:7], direction="mirrored")
    for name in ("flat", "one"):
        (case,) = read("volumes", tmp_path / name, slicing=Slicing(axis="coronal"))
        original = decode(case)
        assert (case.id, case.group, original.mode, original.steps) == ("a", "", "L", (0.75, 0.5))
        assert (original.image == np.repeat(gray.T[:, :, None], 3, axis=2)).all()
        assert (original.mask == M[:, :, 6].T).all()


def test_spacing_that_no_header_says_is_unknown(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nrrd", "a.mha"):
        meta(tmp_path / name, A)
        assert VolumeSlice(tmp_path / name, "axial", 5, 11).image().spacing == pytest.approx((0.75, 0.5))
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[80:92] = bytes(12)      # pixdim
    raw[252:256] = bytes(4)     # neither qform nor sform
    (tmp_path / "a.nii").write_bytes(raw)
    nrrd.write(str(tmp_path / "a.nrrd"), A)
    whole = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(re.sub(rb"ElementSpacing.*\n", b"", whole, count=1))
    for name in ("a.nii", "a.nrrd", "a.mha"):
        assert VolumeSlice(tmp_path / name, "axial", 5, 11).image().spacing is None


def test_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (27, 20, 3), np.uint8)
    dataset(tmp_path, meta, ".mha", M[:, :, 6], M[:, :, 6])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "images/a.mha"))
    mask = SimpleITK.GetImageFromArray(M[:, :, 6].T)
    SimpleITK.WriteImage(mask, str(tmp_path / "masks/a.mha"))
    (case,) = read("volumes", tmp_path)
    assert (decode(case).image == colours).all()
    assert decode(case).mode == "RGB"


def test_segmentations_of_3d_slicer_are_laid_on_their_image(tmp_path: Path) -> None:
    dataset(tmp_path, meta, ".nrrd", mask=None)
    crop, other = M[2:12, 3:22, 4:9], np.roll(M, 2, 0)[2:12, 3:22, 4:9]
    inside = {"tumour": np.zeros(M.shape, bool), "organ": np.zeros(M.shape, bool)}
    inside["tumour"][2:12, 3:22, 4:9], inside["organ"][2:12, 3:22, 4:9] = crop, other
    slicer(tmp_path / "masks/a.seg.nrrd", np.stack([crop, other]), (2, 3, 4), (0, 1, "Tumour"), (1, 1, "organ"))
    for classes, expected in ((("tumour",), inside["tumour"]), (("lesion",), inside["tumour"] | inside["organ"]),
                              (("organ", "tumour"), np.where(inside["tumour"], 2, inside["organ"]))):
        cases = read("volumes", tmp_path, classes, slicing=Slicing(frames=99))
        assert (np.stack([decode(case).mask for case in cases]) == expected.T).all()
    assert tell_categories(cases, ("organ", "tumour")) == []
    assert tell_categories(read("volumes", tmp_path, ("tumour",)), ("tumour",)) == \
        ["categories that `prepare.classes` doesn't name are left out: organ (3 images)"]
    assert tell_categories(read("volumes", tmp_path), ("lesion",)) == \
        ["the categories are one class, lesion: Tumour (3 images), organ (3 images); --classes Tumour,organ tells them apart"]
    slicer(tmp_path / "masks/a.seg.nrrd", crop * 7, (2, 3, 4), (0, 7, "x"))
    assert (np.stack([decode(case).mask for case in read("volumes", tmp_path, slicing=Slicing(frames=99))])
            == inside["tumour"].T).all()


def test_nnunet_folders_and_slices_without_lesion(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr", "normal", "unlabelled"):
        (tmp_path / folder).mkdir()
    nifti(tmp_path / "imagesTr/case_0000.nii.gz", A)
    nifti(tmp_path / "imagesTr/case_0001.nii.gz", A)
    nifti(tmp_path / "labelsTr/case.nii.gz", M)
    nifti(tmp_path / "normal/free.nii.gz", A)
    nifti(tmp_path / "unlabelled/more.nii.gz", A)
    cases = read("volumes", tmp_path, slicing=Slicing(frames=2))
    assert [(case.id, bool(case.masks), case.lesion_free) for case in cases] == [
        ("case_0000", False, True), *((f"case_{index:04d}", True, False) for index in (5, 6, 7)), ("case_0010", False, True),
        ("free_0000", False, True), ("free_0010", False, True), ("more_0000", False, False), ("more_0010", False, False)]
    told = tell_left_out(passed_over("volumes", tmp_path, cases))
    assert told[0] == "1 file isn't read (imagesTr/case_0001.nii.gz): of several channels the first, _0000, is read"
    assert told[1].startswith("3 files give some of their frames or slices (imagesTr/case_0000.nii.gz, normal/free.nii.gz")
    assert count_volumes(tmp_path) == 5


@pytest.mark.parametrize(("image", "mask", "id"), [
    ("images/{}.nii.gz", "labels/{}.nii.gz", "{}"), ("images/{}.nii.gz", "masks/{}_mask.nii.gz", "{}"),
    ("{}.nii.gz", "{}_seg.nii.gz", "{}"), ("{}/image.nii.gz", "{}/mask.nii.gz", "{}_image"),
    ("{}/ct.nrrd", "{}/ct.seg.nrrd", "{}_ct"), ("Images/{}.mha", "Masks/{}.nrrd", "{}"),
    ("images/x/{}.nii", "masks/x/{}.nii", "{}"), ("scans/{}.nii", "GT/{}_GT.nii", "{}")])
def test_masks_are_found_by_the_names_that_pictures_are_found_by(tmp_path: Path, image: str, mask: str, id: str) -> None:
    for name in ("a", "b"):
        for place, array in ((image, A), (mask, M)):
            file = tmp_path / place.format(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            meta(file, array)
    cases = [case for case in read("volumes", tmp_path) if case.masks]
    assert sorted({case.group for case in cases}) == [id.format("a"), id.format("b")]
    assert (np.stack([decode(case).mask for case in cases[:3]]) == M.T[5:8]).all()
    assert not [each for each in passed_over("volumes", tmp_path, read("volumes", tmp_path)) if each.what == "file"]


def test_an_empty_mask_says_of_no_slice_that_it_is_lesion_free(tmp_path: Path) -> None:
    dataset(tmp_path, mask=M * 0)
    cases = read("volumes", tmp_path, slicing=Slicing(frames=3))
    assert [(len(case.masks), case.lesion_free) for case in cases] == [(1, False)] * 3


@pytest.mark.parametrize(("write", "rule"), [
    (lambda path: nifti(path, M[:, :, :10]), "a mask has its image's size, this one is 20×27×10 and the image 20×27×11"),
    (lambda path: nifti(path, M, "mirrored"), "a mask has its image's direction"),
    (lambda path: nifti(path, M, origin=(-10, 22, 5)), "a mask has its image's origin"),
    (lambda path: nibabel.save(nibabel.Nifti1Image(M, np.diag([-1, -1, 1, 1])), path), "a mask has its image's spacing"),
    (lambda path: nifti(path, M * 2 + np.roll(M, 9, 1)), "a mask of one class holds one value beside 0"),
    (lambda path: nifti(path, M * 0.5), "a mask holds whole numbers, this one 0.5"),
    (lambda path: nifti(path, np.stack([M, M], -1)), "a volume has two or three axes, this one 4"),
    (lambda path: path.write_bytes(b"no volume"), "a volume must be there and be read"),
], ids=["size", "direction", "origin", "spacing", "values", "smooth", "axes", "bytes"])
def test_masks_that_dont_fit_are_refused_all_at_once(tmp_path: Path, write: Callable[[Path], None], rule: str) -> None:
    dataset(tmp_path)
    write(tmp_path / "masks/a.nii.gz")
    for folder in ("images", "masks"):
        (tmp_path / folder / "b.nii.gz").write_bytes((tmp_path / folder / "a.nii.gz").read_bytes())
    with pytest.raises(MeddiffError, match=rf"a\.nii\.gz: {rule}.*likewise b\.nii\.gz") as caught:
        read("volumes", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_volume_that_is_cut_short_or_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    dataset(tmp_path)
    whole = (tmp_path / "images/a.nii.gz").read_bytes()
    (tmp_path / "images/a.nii.gz").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(MeddiffError, match=r"a\.nii\.gz: a volume must be there and be read") as caught:
        decode(read("volumes", tmp_path)[0])
    assert "\n" not in str(caught.value)
    (tmp_path / "images/a.nii.gz").unlink()
    meta(tmp_path / "images/a.mha", np.where(M, np.nan, A))   # of NIfTI files SimpleITK reads what is no number as 0
    with pytest.raises(MeddiffError, match="its gray levels must be finite numbers"):
        decode(read("volumes", tmp_path)[0])


def test_without_the_extra_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MeddiffError, match=r"pip install 'meddiff\[volumes\]'"):
        read("volumes", tmp_path)


def test_a_stage_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for number in range(6):
        levels = np.random.default_rng(number).integers(0, 4000, A.shape).astype(np.int16)
        nifti(tmp_path / f"raw/images/p{number}.nii.gz", levels)
        nifti(tmp_path / f"raw/masks/p{number}.nii.gz", np.roll(M, number, 0))
    run(Layout(tmp_path), Params.model_validate({
        "prepare": {"dataset": "volumes", "path": "raw", "size": 32, "n_labelled": 4, "window": "1000,2000", "frames": 2},
        "compute": {"threads": 2}}), Unrecorded())
    told = capsys.readouterr().err
    assert "30 images have more than 8 bits and were windowed" in told
    assert "6 files give some of their frames or slices (images/p0.nii.gz" in told
    assert "patients" not in told
