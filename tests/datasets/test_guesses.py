"""Folders whose masks don't lie in masks/ by the same stem: one reading, or both are named; and what lies in a folder."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from meddiff.datasets.adapters import decode, passed_over, read, recognise, tell_left_out, tell_taken
from meddiff.datasets.inspection import inspect_masks
from meddiff.errors import MeddiffError
from meddiff.params.section import DatasetName
from tests.datasets import test_adapters as layouts


def lay(root: Path, *names: str) -> None:
    """Files of 30 by 20 pixels: masks where the name says so by a word, images else."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((20, 30), np.uint8)
        pixels[5:9, 6:12] = 255
        Image.fromarray(pixels).save(root / name)


def pairs(root: Path) -> list[tuple[str, str, str]]:
    return [(case.id, str(case.image.relative_to(root)), *(str(mask.relative_to(root)) for mask in case.masks))  # type: ignore
            for case in read("folder", root)]


@pytest.mark.parametrize(("names", "expected"), [
    (("images/a.jpg", "masks/a_mask.png"), [("a", "images/a.jpg", "masks/a_mask.png")]),
    (("images/a.jpg", "masks/a_segmentation.png"), [("a", "images/a.jpg", "masks/a_segmentation.png")]),
    (("images/a.jpg", "labels/a.png"), [("a", "images/a.jpg", "labels/a.png")]),
    (("images/a.jpg", "annotations/a.png"), [("a", "images/a.jpg", "annotations/a.png")]),
    (("Original/a.tif", "Ground Truth/a.tif"), [("a", "Original/a.tif", "Ground Truth/a.tif")]),
    (("a.png", "a_GT.png", "b.png", "b_GT.png"), [("a", "a.png", "a_GT.png"), ("b", "b.png", "b_GT.png")]),
    (("scans/a 1.png", "scans/a 1-mask.PNG"), [("a 1", "scans/a 1.png", "scans/a 1-mask.PNG")]),
    (("images/IMG_1.JPG", "masks/img_1.png"), [("IMG_1", "images/IMG_1.JPG", "masks/img_1.png")]),
    (("images/p1/a.png", "images/p2/a.png", "masks/p1/a.png", "masks/p2/a.png"),
     [("p1_a", "images/p1/a.png", "masks/p1/a.png"), ("p2_a", "images/p2/a.png", "masks/p2/a.png")]),
    (("p1/images/a.png", "p1/masks/a.png", "p2/images/b.png", "p2/masks/b.png"),
     [("p1_a", "p1/images/a.png", "p1/masks/a.png"), ("p2_b", "p2/images/b.png", "p2/masks/b.png")]),
    (("set/images/a.png", "set/masks/a.png", "set/preview.png"), [("a", "set/images/a.png", "set/masks/a.png")]),
    (("images/a.png", "labels/a.png", ".hidden/a_mask.png", "images/._a.png", "__MACOSX/images/a.png"),
     [("a", "images/a.png", "labels/a.png")]),
    (("images/a.png", "images/a_mask.png", "masks/a.png", "masks/a_mask.png"),
     [("a", "images/a.png", "masks/a.png"), ("a_mask", "images/a_mask.png", "masks/a_mask.png")]),
    (("images/a.png", "masks/a.png", "labels/a.png", "images/old/b.png"), [("a", "images/a.png", "masks/a.png")]),
    (("scans/a.jpg", "GT/a_GT.png", "scans/b.jpg", "GT/b_GT.png"),
     [("a", "scans/a.jpg", "GT/a_GT.png"), ("b", "scans/b.jpg", "GT/b_GT.png")]),
    (("photos/a.jpg", "labels/a.png", "normal/n.jpg"), [("a", "photos/a.jpg", "labels/a.png"), ("n", "normal/n.jpg")]),
    (("images/img_1.png", "masks/mask_1.png"), [("img_1", "images/img_1.png", "masks/mask_1.png")]),
    (("1.png", "mask_1.png", "2.png", "mask_2.png"), [("1", "1.png", "mask_1.png"), ("2", "2.png", "mask_2.png")]),
    (("p1/image.png", "p1/mask.png", "p2/image.png", "p2/mask.png"),
     [("p1_image", "p1/image.png", "p1/mask.png"), ("p2_image", "p2/image.png", "p2/mask.png")]),
])
def test_one_reading_is_found(names: Sequence[str], expected: list[tuple[str, str, str]], tmp_path: Path) -> None:
    lay(tmp_path, *names)
    assert recognise(tmp_path) == "folder"
    assert pairs(tmp_path) == expected
    assert all(decode(case).mask.any() for case in read("folder", tmp_path) if case.masks)


@pytest.mark.parametrize(("names", "message"), [
    (("images/a.png", "labels/a.png", "annotations/a.png"), "masks may be those of annotations/ or of labels/"),
    (("a.png", "a_mask.png", "a_GT.png"), "a_mask.png: masks must be named in one way, a_GT.png is named in another"),
    (("a.png", "a_mask.png", "b.png", "b_seg.png"), "masks must be named in one way"),
    (("images/a.png", "labels/a.png", "labels/A.jpg"), "an image has one mask, this may be it or labels/A.jpg"),
    (("images/a.png", "images/a.jpg", "labels/a.png"), "a stem must be unique"),
    (("a.png", "a_mask.png", "b.png", "c.png"),
     r"b.png: an image must have its mask, as a.png has a_mask.png; likewise c.png.*unlabelled/"),
    (("images/a.png", "labels/a.png", "labels/c.png"),
     "labels/c.png: a mask must have its image, as images/a.png has labels/a.png"),
    (("images/a.png", "images/b.png", "masks/a_mask.png"),
     "b.png: an image must have its mask, as images/a.png has masks/a_mask.png"),
    (("images/a.png", "masks/b_mask.png"), "a.png: an image must have its mask `masks/a.png`"),
    (("a.png", "a_mask.png", "b.png", "mask_b.png"), "masks must be named in one way"),
    (("scans/a.png", "other/b.png", "masks/c.png"), "the dataset's layout needs this folder"),
])
def test_two_readings_are_named_and_none_is_taken(names: Sequence[str], message: str, tmp_path: Path) -> None:
    lay(tmp_path, *names)
    assert recognise(tmp_path) == "folder"
    with pytest.raises(MeddiffError, match=message):
        read("folder", tmp_path)


def test_parts_lesion_free_and_unlabelled_images_lie_in_nested_folders_too(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{part}/{kind}/{part}1.png" for part in ("train", "val", "test") for kind in ("images", "masks")),
        "train/normal/n.png", "train/unlabelled/u.png")
    cases = {case.id: case for case in read("folder", tmp_path)}
    assert {id: case.part for id, case in cases.items()} == {
        "train_train1": "train", "val_val1": "val", "test_test1": "test", "train_n": "train", "train_u": "train"}
    assert (cases["train_n"].lesion_free, cases["train_u"].annotated) == (True, False)


def test_files_of_one_name_are_no_name_of_a_patient(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/{patient}/1.png" for kind in ("images", "masks") for patient in ("p1", "p2")))
    (tmp_path / "groups.csv").write_text("id,group\n1.png,x\n")
    with pytest.raises(MeddiffError, match="every image must have its group, `p1_1` has none; likewise p2_1"):
        read("folder", tmp_path)
    (tmp_path / "groups.csv").write_text("id,group\np1_1,x\np2_1,y\n")
    assert [case.group for case in read("folder", tmp_path)] == ["x", "y"]


def test_what_was_taken_is_told_by_place_and_ending(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.png", *(f"labels/{name}_mask.png" for name in "abc"))
    assert tell_taken(tmp_path, read("folder", tmp_path)) == [
        "taken for images: images/*.jpg (2), images/*.png (1)", "taken for masks: labels/*_mask.png (3)"]


# ---- detection

@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_published_layouts_are_recognised(name: str, tmp_path: Path) -> None:
    layouts.LAYOUTS[name](tmp_path)
    assert recognise(tmp_path) == name


def test_each_layout_of_the_settings_has_a_reader_and_stands_in_the_help(tmp_path: Path) -> None:
    names = set(get_args(DatasetName)) - {"demo"}
    for name in names:
        with pytest.raises(MeddiffError, match=f"the folder of the `{name}` dataset must be there"):
            read(name, tmp_path / "gone")
    page = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text()
    assert names <= set(re.findall(r"\w+", next(line for line in page.splitlines() if "--dataset" in line)))


def test_images_of_one_stem_are_no_sign_of_masks(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png", "images/a.jpg")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert recognise(tmp_path) == "coco"


def test_two_layouts_are_both_named(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(MeddiffError, match=r"as `folder` or as `coco`\. Say which is meant: --dataset folder or --dataset coco"):
        recognise(tmp_path)


def test_pictures_without_masks_beside_volumes_are_told_and_left_out(tmp_path: Path) -> None:
    lay(tmp_path, "images/overview.png")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir(exist_ok=True)
        volume = SimpleITK.GetImageFromArray(np.eye(6, dtype=np.uint8)[None].repeat(3, 0))
        SimpleITK.WriteImage(volume, str(tmp_path / f"{kind}/a.nii.gz"))
    assert recognise(tmp_path) == "volumes"
    cases = read("volumes", tmp_path)
    assert tell_taken(tmp_path, cases) == ["taken for images: images/*.nii.gz (1 file, for 3 images)",
                                           "taken for masks: masks/*.nii.gz (1 file, for 3 images)"]
    assert [each.id for each in passed_over("volumes", tmp_path, cases)] == ["images/overview.png"]
    lay(tmp_path, "masks/overview.png")
    with pytest.raises(MeddiffError, match=r"\(2 .nii.gz files, 2 .png files\) can be read as `folder` or as `volumes`\. Say "
                       "which is meant: .* for all of them at once .* recipe"):
        recognise(tmp_path)
    (left,) = tell_left_out(passed_over("folder", tmp_path, read("folder", tmp_path)))[:1]
    assert left.endswith("volumes are read from a folder of their own, by --dataset volumes")


def test_a_mask_of_another_kind_than_its_image_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png")
    (tmp_path / "masks").mkdir()
    SimpleITK.WriteImage(SimpleITK.Image(30, 20, 1, SimpleITK.sitkUInt8), str(tmp_path / "masks/a.nii.gz"))
    assert recognise(tmp_path) == "volumes"
    with pytest.raises(MeddiffError, match=r"`images/a\.nii\.gz`; there is a\.png instead: both must be of one kind .*recipe"):
        read("volumes", tmp_path)


def test_many_places_are_told_as_one(tmp_path: Path) -> None:
    lay(tmp_path, *(f"p{i}/scans/{i}{name}.png" for i in range(6) for name in ("", "_mask")))
    told = tell_taken(tmp_path, read("folder", tmp_path))
    assert told == ["taken for images: */scans/*.png (6)", "taken for masks: */scans/*_mask.png (6)"]
    shutil.rmtree(tmp_path)
    lay(tmp_path, *(f"p{i}/{name}.png" for i in range(6) for name in ("image", "mask")))
    told = tell_taken(tmp_path, read("folder", tmp_path))
    assert told == ["taken for images: */image.png (6)", "taken for masks: */mask.png (6)"]


@pytest.mark.parametrize(("name", "layout"), [("deep/1.dcm", "dicom"), ("images/a.nii.gz", "volumes"), ("a.seg.nrrd", "volumes")])
def test_files_of_a_kind_of_their_own_are_known_at_any_depth(name: str, layout: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert recognise(tmp_path) == layout


@pytest.mark.parametrize(("names", "message"), [
    ((), "the folder is empty"),
    ([f"{i}.mat" for i in range(20)], "found 20 .mat files: save its slices as PNG"),
    (["a/b/scan.tar.gz", "x.npy"], "found 1 .tar.gz file, 1 .npy file: "),
    (["a.png", "b.png"], "found 2 .png files: name the masks after their images, in masks/"),
])
def test_nothing_known_says_what_lies_there(names: Sequence[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MeddiffError, match=message):
        recognise(tmp_path)
    with pytest.raises(MeddiffError, match="must be a folder that is there"):
        recognise(tmp_path / "gone")


# ---- inspection

def test_every_mask_is_opened_and_every_fault_told(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/{i:02d}.png" for i in range(30) for kind in ("images", "masks")))
    for i in range(24):
        (tmp_path / f"masks/{i:02d}.png").write_bytes(b"no picture")
    Image.new("L", (9, 9), 255).save(tmp_path / "masks/24.png")
    Image.new("L", (30, 20)).save(tmp_path / "masks/25.png")
    inspection = inspect_masks(read("folder", tmp_path), 2)
    assert (inspection.marked, inspection.empty) == ({f"{i}" for i in range(26, 30)}, {"25"})
    lines = inspection.tell_faults()
    assert len(lines) == 21
    assert "masks/00.png: a mask must be there and decode" in lines[0]
    assert lines[-1] == "and 5 more"


def test_images_are_not_opened_but_their_sizes_are(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg", "masks/a.png", "images/b.tif", "masks/b.png")
    whole = (tmp_path / "images/a.jpg").read_bytes()
    (tmp_path / "images/a.jpg").write_bytes(whole[:-60])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "images/b.tif", exif=exif)
    cases = read("folder", tmp_path)
    assert inspect_masks(cases, 1).marked == {"a", "b"}
    assert decode(cases[1]).image.shape == (20, 30, 3)
    Image.new("L", (20, 31), 255).save(tmp_path / "masks/b.png")
    assert "this one is 20×31 and the image 20×30" in str(inspect_masks(cases, 1).faults[0])


def test_stray_files_of_a_guessed_folder_are_told(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png", "labels/a.png", "preview/x.png")
    assert [each.id for each in passed_over("folder", tmp_path, read("folder", tmp_path))] == ["preview/x.png"]
