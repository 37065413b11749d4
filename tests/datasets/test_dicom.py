"""The layout `dicom`: pixels as other readers show them, masks where they were drawn, nothing of what files say of people."""

import csv
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.seg import SegmentationTypeValues
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from skimage.draw import polygon2mask

from meddiff.datasets.adapters import RawCase, decode, passed_over, read, tell_categories, tell_left_out
from meddiff.datasets.adapters.dicom_headers import count_dicom
from meddiff.datasets.adapters.dicom_pixels import DicomFrame
from meddiff.datasets.adapters.slicing import Slicing, evenly
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages.prepare import run
from tests.datasets.clinical import HOSPITAL, NAME, NUMBER, image, segmentation, stack, structures

H, W = 20, 27
RNG = np.random.default_rng(0)
GRAY, RGB = RNG.integers(0, 256, (H, W), np.uint8), RNG.integers(0, 256, (H, W, 3), np.uint8)
DEEP, SIGNED = RNG.integers(0, 4096, (H, W)).astype(np.uint16), RNG.integers(-1000, 3000, (H, W)).astype(np.int16)
M = np.zeros((H, W), np.uint8)
M[3:9, 4:15], M[12, 20] = 1, 1
SAMPLES = Path(pydicom.__file__).parent / "data/test_files"
WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}


def grayed(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(pixels[:, :, None], 3, axis=2)


def through(low: float, high: float, values: NDArray[Any]) -> NDArray[Any]:
    return grayed(np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8))


PIXELS: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[Any]]] = {
    "8 bits": (GRAY, {}, grayed(GRAY)),
    "0 is white": (GRAY, {"PhotometricInterpretation": "MONOCHROME1"}, grayed(255 - GRAY)),
    "colours": (RGB, {}, RGB),
    "colours by plane": (RGB.transpose(2, 0, 1).reshape(H, W, 3), {"PlanarConfiguration": 1}, RGB),
    "12 bits": (DEEP, {"BitsStored": 12, "HighBit": 11}, through(*np.percentile(DEEP, (0.1, 99.9)), DEEP)),
    "12 bits, window": (DEEP, {"BitsStored": 12, "HighBit": 11, **WINDOW}, through(0, 1999, DEEP)),
    "signed, window of two": (SIGNED, {"WindowCenter": [500, 40], "WindowWidth": [1001, 400]}, through(-0.5, 999.5, SIGNED)),
    "exact window": (DEEP, {**WINDOW, "VOILUTFunction": "LINEAR_EXACT"}, through(0, 2000, DEEP)),
    "rescaled": (DEEP, {"RescaleSlope": 2, "RescaleIntercept": -1024, **WINDOW}, through(0, 1999, DEEP * 2.0 - 1024)),
    "16 bits in colour": (RGB.astype(np.uint16) * 257, {}, RGB),
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_what_viewers_show(tmp_path: Path, name: str) -> None:
    pixels, tags, shown = PIXELS[name]
    image(tmp_path / "a.dcm", pixels, **tags)
    decoded = DicomFrame(tmp_path / "a.dcm").image()
    assert np.abs(decoded.pixels.astype(int) - shown).max() <= (0 if "percentile" in name else 1)
    assert (decoded.pixels == shown).mean() > 0.99
    if "WindowCenter" in tags and "RescaleSlope" not in tags:  # of stored values its window is half a unit off
        other = highdicom.imread(tmp_path / "a.dcm").get_frame(1, apply_voi_transform=True, voi_output_range=(0, 255))
        assert np.abs(decoded.pixels[:, :, 0] - other).max() <= 0.5001
    assert ("windowed" in decoded.traits) == ("WindowCenter" in tags)


def test_a_window_of_the_settings_wins_over_the_files_for_deep_images_alone(tmp_path: Path) -> None:
    image(tmp_path / "deep.dcm", DEEP, RescaleSlope=1, RescaleIntercept=-1000, **WINDOW)
    image(tmp_path / "gray.dcm", GRAY)
    assert (DicomFrame(tmp_path / "deep.dcm", window=(40, 400)).image().pixels == through(-160, 239, DEEP - 1000.0)).mean() > 0.99
    assert (DicomFrame(tmp_path / "gray.dcm", window=(40, 400)).image().pixels == grayed(GRAY)).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_lossless_syntaxes_give_the_same_pixels(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    made = image(tmp_path / "a.dcm", np.tile(DEEP, (4, 4)), BitsStored=12, HighBit=11, **WINDOW)
    plain = DicomFrame(tmp_path / "a.dcm").image()
    made.compress(syntax)
    made.save_as(tmp_path / "a.dcm")
    assert (DicomFrame(tmp_path / "a.dcm").image().pixels == plain.pixels).all()


@pytest.mark.parametrize("name", [
    "examples_palette.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm", "SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm",
    "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm", "ExplVR_BigEnd.dcm", "JPEGLSNearLossless_08.dcm", "SC_rgb_small_odd.dcm"])
def test_colours_are_those_that_simpleitk_reads(name: str) -> None:
    decoded = DicomFrame(SAMPLES / name).image()
    other = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(SAMPLES / name)))[0].astype(int)
    if other.max() > 255:
        other >>= 8
    other = grayed(other) if other.ndim == 2 else other
    assert np.abs(decoded.pixels - other).max() <= (0 if "jpeg" not in name and "ybr" not in name else 3)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"])
def test_gray_levels_are_those_that_simpleitk_reads(name: str) -> None:
    levels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(SAMPLES / name)))[0]
    tags = pydicom.dcmread(SAMPLES / name)
    low = float(tags.WindowCenter) - 0.5 - (float(tags.WindowWidth) - 1) / 2
    assert (DicomFrame(SAMPLES / name).image().pixels == through(low, low + float(tags.WindowWidth) - 1, levels)).mean() > 0.99


def test_spacing_is_that_of_the_pixels(tmp_path: Path) -> None:
    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    image(tmp_path / "us.dcm", GRAY, SequenceOfUltrasoundRegions=[region])
    image(tmp_path / "ct.dcm", GRAY, PixelSpacing=[0.5, 0.7])
    image(tmp_path / "none.dcm", GRAY)
    spacings = [DicomFrame(tmp_path / name).image().spacing for name in ("us.dcm", "ct.dcm", "none.dcm")]
    assert spacings == [pytest.approx((0.3, 0.2)), (0.5, 0.7), None]
    image(tmp_path / "video.dcm", GRAY, PixelAspectRatio=[4, 3])  # height and width of a pixel
    digitised = DicomFrame(tmp_path / "video.dcm").image()
    assert digitised.spacing is None
    assert digitised.steps == pytest.approx((4 / 3, 1))


# ---- masks

def masks_of(path: Path, classes: tuple[str, ...] = ("lesion",), **slicing: Any) -> dict[str, NDArray[np.uint8]]:
    return {case.id: decode(case).mask for case in read("dicom", path, classes, slicing=Slicing(**slicing)) if case.masks}


def test_a_segmentation_lies_on_the_image_that_it_names(tmp_path: Path) -> None:
    first, _ = (image(tmp_path / f"{name}.dcm", GRAY, patient=name) for name in ("a", "b"))
    segmentation(tmp_path / "seg", [first], M[None])
    cases = read("dicom", tmp_path)
    assert [case.annotated for case in cases if case.file == tmp_path / "a.dcm"] == [True]
    assert sum(case.annotated for case in cases) == 1
    (mask,) = masks_of(tmp_path).values()
    assert (mask == M).all()
    assert (mask == highdicom.seg.segread(tmp_path / "seg").get_pixels_by_source_instance(
        [first.SOPInstanceUID], combine_segments=True)[0]).all()


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_become_classes_by_name_else_by_number(tmp_path: Path, kind: str) -> None:
    source, both = stack(tmp_path, np.zeros((1, H, W), np.int16))[0], M.copy()
    both[14:18, 2:9] = 2
    segmentation(tmp_path / "seg.dcm", [source], both[None], ("Malignant", "benign"), SegmentationTypeValues(kind))
    by_name, = masks_of(tmp_path, ("benign", "malignant")).values()
    assert (by_name == np.array([0, 2, 1])[both]).all()
    by_number, = masks_of(tmp_path, ("one", "two")).values()
    assert (by_number == both).all()
    named, = masks_of(tmp_path, ("benign",)).values()
    assert (named == (both == 2)).all()
    united, = masks_of(tmp_path).values()
    assert (united == (both > 0)).all()
    told = {classes: " ".join(tell_categories(read("dicom", tmp_path, classes), classes))
            for classes in (("benign", "malignant"), ("one", "two"), ("benign",), ("lesion",))}
    assert list(told.values()) == [
        "", "no segment is named as a class, so that their numbers are the classes: Malignant, benign",
        "categories that `prepare.classes` doesn't name are left out: Malignant (1 image)",
        "the categories are one class, lesion: Malignant (1 image), benign (1 image); "
        "--classes Malignant,benign tells them apart"]


def test_a_series_that_is_annotated_gives_lesion_free_slices(tmp_path: Path) -> None:
    volume = RNG.integers(0, 3000, (12, H, W)).astype(np.int16)
    sources, masks = stack(tmp_path, volume), np.zeros((12, H, W), np.uint8)
    masks[4:7] = M
    segmentation(tmp_path / "seg.dcm", sources, masks)
    cases = read("dicom", tmp_path, slicing=Slicing(frames=5))
    assert [sum(bool(case.masks) for case in cases), sum(case.lesion_free for case in cases), len(cases)] == [3, 5, 8]
    assert all(decode(case).steps == (0.5, 0.7) for case in cases)
    assert "4 files aren't read" in " ".join(tell_left_out(passed_over("dicom", tmp_path, cases)))
    windowed = decode(read("dicom", tmp_path, slicing=Slicing((40, 400)))[0])
    assert windowed.traits == {"windowed"}


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_slices_that_a_segmentation_leaves_empty_are_lesion_free(tmp_path: Path, kind: str) -> None:
    """As where a program writes a frame for each slice, or one for several segments."""
    sources, masks = stack(tmp_path, RNG.integers(0, 3000, (12, H, W)).astype(np.int16)), np.zeros((12, H, W), np.uint8)
    masks[4:7], masks[8] = M, M * 2
    segmentation(tmp_path / "seg.dcm", sources, masks, ("lesion", "liver"), SegmentationTypeValues(kind), omit_empty_frames=False)
    cases = read("dicom", tmp_path, slicing=Slicing(frames=5))
    assert [sum(bool(case.masks) for case in cases), sum(case.lesion_free for case in cases), len(cases)] == [3, 5, 8]
    assert all(decode(case).mask.any() for case in cases if case.masks)
    segmentation(tmp_path / "seg.dcm", sources, masks * 0, ("lesion",), SegmentationTypeValues(kind), omit_empty_frames=False)
    assert not any(case.annotated for case in read("dicom", tmp_path)), "an empty one says nothing of any slice"


def test_frames_of_a_video_are_taken_evenly_and_annotated_ones_always(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (30, H, W), np.uint8)
    video = image(tmp_path / "cine", frames, NumberOfFrames=30)
    still = image(tmp_path / "still.dcm", GRAY)
    seg = segmentation(tmp_path / "seg.dcm", [still], M[None])
    reference = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber = video.SOPInstanceUID, 8
    seg.save_as(tmp_path / "seg.dcm")
    cases = read("dicom", tmp_path, slicing=Slicing(frames=4))
    shown = {case.image.frame: case for case in cases if isinstance(case.image, DicomFrame) and case.image.frames == 30}
    assert sorted(shown) == [1, 8, 11, 21, 30]
    assert [frame for frame, case in shown.items() if case.masks] == [8]
    assert not any(case.lesion_free for case in cases)
    for frame, case in shown.items():
        assert (decode(case).image == grayed(frames[frame - 1])).all()
    assert any("1 file gives some of its frames" in line for line in tell_left_out(passed_over("dicom", tmp_path, cases)))


def test_contours_are_filled_with_holes_and_found_by_place_where_no_image_is_named(tmp_path: Path) -> None:
    sources = stack(tmp_path, np.zeros((3, H, W), np.int16))
    outer, inner = (np.array([(x, y) for x, y in corners], float) for corners in (
        [(3, 2), (20, 2), (20, 15), (3, 15)], [(7, 5), (12, 5), (12, 9), (7, 9)]))
    structures(tmp_path / "named.dcm", sources[0], {"GTV": [outer, inner]})
    structures(tmp_path / "placed.dcm", sources[2], {"GTV": [outer]}, named=False)
    expected = [polygon2mask((H, W), each[:, ::-1]) for each in (outer, inner)]
    drawn = {case.file: decode(case).mask for case in read("dicom", tmp_path) if case.masks}
    assert (drawn[Path(sources[0].filename)] == (expected[0] ^ expected[1])).all()
    assert (drawn[Path(sources[2].filename)] == expected[0]).all()
    assert len(drawn) == 2


# ---- what is wrong

def seg_elsewhere(path: Path) -> None:
    segmentation(path / "seg.dcm", [image(path / "gone.dcm", GRAY)], M[None])
    (path / "gone.dcm").unlink()


def seg_of_another_size(path: Path) -> None:
    seg = segmentation(path / "seg.dcm", [image(path / "b.dcm", GRAY)], M[None])
    other = image(path / "b.dcm", GRAY[:10])
    seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = \
        other.SOPInstanceUID
    seg.save_as(path / "seg.dcm")


def seg_moved(path: Path) -> None:
    seg = segmentation(path / "seg.dcm", stack(path, np.zeros((1, H, W), np.int16)), M[None])
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-10, -15, 5]
    seg.save_as(path / "seg.dcm")


def seg_fractional(path: Path) -> None:
    segmentation(path / "seg.dcm", [image(path / "b.dcm", GRAY)], M[None].astype(float), kind=SegmentationTypeValues.FRACTIONAL)


def contour_beside(path: Path) -> None:
    source = stack(path, np.zeros((1, H, W), np.int16))[0]
    structures(path / "rt.dcm", source, {"GTV": [np.array([(100.0, 100), (120, 100), (120, 120)])]})


def contour_on_no_plane(path: Path) -> None:
    source = stack(path, np.zeros((1, H, W), np.int16))[0]
    structures(path / "rt.dcm", source, {"GTV": [np.array([(0.0, 0, 9), (5, 0, 9), (5, 5, 9)])]})


def structure_set_spoilt(path: Path) -> None:
    made = structures(path / "rt.dcm", stack(path, np.zeros((1, H, W), np.int16))[0], {"GTV": []})
    made.ROIContourSequence[0].ReferencedROINumber = 9
    made.save_as(path / "rt.dcm")


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / "b.dcm").write_bytes(content) and None


def report(path: Path) -> None:
    made = image(path / "b.dcm", GRAY, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    del made.Rows, made.Columns, made.PixelData
    made.save_as(path / "b.dcm")


def copied(path: Path) -> None:
    (path / "copy.dcm").write_bytes((path / "a.dcm").read_bytes())


def scout(path: Path) -> None:
    image(path / "b.dcm", GRAY, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


@pytest.mark.parametrize(("spoil", "told"), [
    (seg_elsewhere, r"1 file isn't read \(seg\.dcm\): nothing that it draws could be laid on an image here"),
    (contour_beside, r"1 annotation isn't used \(ct_\w+\): a contour lies beside its image"),
    (contour_on_no_plane, r"1 annotation isn't used \(ct_\w+\): a contour lies beside its image or off its plane"),
    (written(b"no DICOM"), r"1 file isn't read \(b\.dcm\): its DICOM header isn't intact"),
    (report, r"1 file isn't read \(b\.dcm\): it shows no image"),
    (copied, r"1 file isn't read \(copy\.dcm\): it is a copy"),
    (scout, r"1 file isn't read \(b\.dcm\): it shows no image to learn from: a localizer"),
], ids=lambda value: getattr(value, "__name__", None))
def test_what_isnt_used_is_told(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    image(tmp_path / "a.dcm", GRAY)
    spoil(tmp_path)
    lines = tell_left_out(passed_over("dicom", tmp_path, read("dicom", tmp_path)))
    assert any(re.search(told, line) for line in lines), lines


@pytest.mark.parametrize(("spoil", "rule"), [
    (seg_of_another_size, r"seg\.dcm: a mask has its image's size, this one is 27×20 and the image 27×10 pixels"),
    (seg_moved, r"seg\.dcm: a segmentation must lie where its image lies"),
    (seg_fractional, r"seg\.dcm: a segmentation must be BINARY or LABELMAP, this one is FRACTIONAL"),
    (structure_set_spoilt, r"rt\.dcm: a segmentation or structure set must say of all segments where they lie"),
], ids=lambda value: getattr(value, "__name__", None))
def test_wrong_annotations_are_refused(tmp_path: Path, spoil: Callable[[Path], None], rule: str) -> None:
    spoil(tmp_path)
    with pytest.raises(MeddiffError, match=rule) as caught:
        read("dicom", tmp_path)
    assert "\n" not in str(caught.value)


def shortened(path: Path) -> None:
    image(path, GRAY)
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    made = image(path, GRAY)
    del made.PixelData
    made.save_as(path)


def unknown_syntax(path: Path) -> None:
    made = image(path, GRAY)
    made.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.3.4")
    made.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)


def video(path: Path) -> None:
    made = image(path, GRAY)
    made.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    made.PixelData = pydicom.encaps.encapsulate([b"\0" * 100])
    made["PixelData"].is_undefined_length = True
    made.save_as(path)


@pytest.mark.parametrize(("spoil", "rule"), [
    (shortened, r"a\.dcm: the pixels of a DICOM image must decode"), (emptied, r"a\.dcm: a DICOM image must hold pixels"),
    (video, r"a\.dcm: its pixels are in a transfer syntax that isn't read, MPEG-4"),
    (unknown_syntax, r"a\.dcm: its pixels are in a transfer syntax that isn't read, 1\.2\.3\.4"),
    (lambda path: image(path, RGB, PhotometricInterpretation="HSV"), r"a\.dcm: the colours of a DICOM image must be"),
])
def test_pixels_that_arent_read_are_refused(tmp_path: Path, spoil: Callable[[Path], object], rule: str) -> None:
    spoil(tmp_path / "a.dcm")
    (case,) = read("dicom", tmp_path)
    with pytest.raises(MeddiffError, match=rule) as caught:
        decode(case)
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.dcm", GRAY)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MeddiffError, match=r"pip install 'meddiff\[dicom\]'"):
        read("dicom", tmp_path)


# ---- people

def test_patients_are_salted_hashes_and_one_patient_stays_one(tmp_path: Path) -> None:
    for name, patient, study in (("a", NUMBER, "1.2.1"), ("b", NUMBER, "1.2.2"), ("c", "other", "1.2.3"), ("d", "", "1.2.4"),
                                 ("e", "", "1.2.4"), ("f", "", "")):
        made = image(tmp_path / f"{name}.dcm", GRAY, patient, study or "1.2")
        if not study:
            del made.StudyInstanceUID
            made.save_as(tmp_path / "f.dcm")
    groups = {case.file.stem: case.group for case in read("dicom", tmp_path) if case.file}
    assert groups["a"] == groups["b"] != groups["c"]
    assert groups["d"] == groups["e"] != groups["f"] == ""
    assert groups == {case.file.stem: case.group for case in read("dicom", tmp_path) if case.file}
    (tmp_path / "a.dcm").unlink()
    (tmp_path / "elsewhere").mkdir()
    image(tmp_path / "elsewhere/a.dcm", GRAY, NUMBER, "9.9")
    (alone,) = read("dicom", tmp_path / "elsewhere")
    assert alone.group != groups["a"], "the number alone gives no group"


def test_a_stage_tells_nothing_of_people(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(8):
        pixels = RNG.normal(100, 20, (40, 40)).clip(0, 255).astype(np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        mask[10:20, 5 + number:25] = 1
        made = image(raw / f"IM{number}", pixels, f"{NUMBER}-{number}", BurnedInAnnotation="YES" if number == 3 else "NO",
                     StudyDescription=f"of {NAME}")
        segmentation(raw / f"SEG{number}", [made], mask[None])
        with pydicom.config.disable_value_validation():
            made.add(pydicom.DataElement("PatientBirthDate", "DA", "not a date", validation_mode=pydicom.config.IGNORE))
            made.save_as(raw / f"IM{number}")
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        run(Layout(tmp_path), Params.model_validate({"prepare": {"dataset": "dicom", "path": "raw", "size": 32, "n_labelled": 4},
                                                     "compute": {"threads": 2}}), Unrecorded())
    lines = [*capfd.readouterr(), *(str(each.message) for each in heard)]
    told = " ".join(lines)
    assert "1 image is flagged (us_" in told
    assert "its DICOM header says that text is burned in" in told
    with (tmp_path / "data/train/cases.csv").open(newline="") as table:
        assert all(row["group"].startswith("patient_") and row["id"].startswith("us_") for row in csv.DictReader(table))
    for path in (tmp_path / "data").rglob("*"):
        content = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [word for word in (NAME, NUMBER, HOSPITAL, "Roentgen") if word.encode() in content], path
    assert not [word for word in (NAME, NUMBER, HOSPITAL, "Roentgen", "not a date") if word in told]


def test_files_are_counted_by_name_and_content(tmp_path: Path) -> None:
    image(tmp_path / "IM0001", GRAY)
    image(tmp_path / "1.2.840.5", GRAY)
    (tmp_path / "deep").mkdir()
    image(tmp_path / "deep/x.IMA", GRAY)
    (tmp_path / "README").write_text("no image")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "IM0001").read_bytes())
    assert count_dicom(tmp_path) == 3
    cases: list[RawCase] = read("dicom", tmp_path)
    assert len(cases) == 3
    assert tell_left_out(passed_over("dicom", tmp_path, cases)) == ["1 file isn't read (README): it is no DICOM file"]


def test_items_are_spread_evenly() -> None:
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly(range(3), 5) == [0, 1, 2]
    assert evenly([], 5) == []
