"""Each adapter on a miniature of the layout its authors publish, and everything that may be wrong with it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import Case
from meddiff.datasets.adapters import Polygon, RawCase, decode, fit_square, in_memory, passed_over, read
from meddiff.errors import MeddiffError

H, W = 20, 30


def image(path: Path, size: tuple[int, int] = (H, W), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


def mask(path: Path, box: tuple[int, int, int, int] = (5, 5, 12, 15), mode: str = "L", size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(size, np.uint8)
    array[box[0]:box[2], box[1]:box[3]] = 255
    Image.fromarray(array).convert(mode).save(path)


def isic2017(root: Path) -> None:
    for part, name in (("Training", "0"), ("Validation", "1"), ("Test_v2", "2")):
        image(root / f"ISIC-2017_{part}_Data/ISIC_000000{name}.jpg")
        image(root / f"ISIC-2017_{part}_Data/ISIC_000000{name}_superpixels.png")
        mask(root / f"ISIC-2017_{part}_Part1_GroundTruth/ISIC_000000{name}_segmentation.png")
    (root / "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv").write_text("image_id\n")


def isic2018(root: Path) -> None:
    image(root / "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg")
    (root / "ISIC2018_Task1-2_Training_Input/LICENSE.txt").write_text("CC0")
    mask(root / "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png")


def busi(root: Path) -> None:
    folder = root / "Dataset_BUSI_with_GT"
    for name in ("benign (1)", "benign (10)"):
        image(folder / f"benign/{name}.png")
        mask(folder / f"benign/{name}_mask.png", (2, 2, 6, 6), "RGBA" if "10" in name else "L")
    mask(folder / "benign/benign (1)_mask_1.png", (10, 20, 14, 24))
    image(folder / "malignant/malignant (1).png")
    mask(folder / "malignant/malignant (1)_mask.png", mode="1")
    image(folder / "normal/normal (1).png")
    mask(folder / "normal/normal (1)_mask.png", (0, 0, 0, 0))


def ph2(root: Path) -> None:
    for name, mode in (("IMD002", "1"), ("IMD003", "RGB")):
        folder = root / "PH2Dataset/PH2 Dataset images" / name
        image(folder / f"{name}_Dermoscopic_Image/{name}.bmp")
        mask(folder / f"{name}_lesion/{name}_lesion.bmp", mode=mode)
        mask(folder / f"{name}_roi/{name}_R1_Label4.bmp")


def polygons(*boxes: tuple[int, int, int, int]) -> str:
    return json.dumps([{"points": [{"x": x, "y": y} for x, y in ((a, b), (c, b), (c, d), (a, d))],
                        "annotation": {}, "regionType": "freehand"} for a, b, c, d in boxes])


def ddti(root: Path) -> None:
    for name in ("1_1", "1_2", "2_1", "3_1"):
        image(root / f"{name}.jpg")
    (root / "1.xml").write_text(f"""<?xml version="1.0"?><case><number>1</number><age>40</age><tirads>4a</tirads>
        <mark><image>1</image><svg>{polygons((2, 3, 8, 9), (20, 3, 26, 9))}</svg></mark>
        <mark><image>1</image><svg>{polygons((10, 12, 14, 16))}</svg></mark>
        <mark><image>2</image><svg>{polygons((2, 3, 80, 90))}</svg></mark>
        <mark><image>7</image><svg>{polygons((2, 3, 8, 9))}</svg></mark></case>""")
    (root / "2.xml").write_text('<?xml version="1.0"?><case><number>2</number><mark><image>1</image><svg></svg></mark>'
                                '<mark><image/><svg/></mark></case>')


def plain(root: Path) -> None:
    for i, ending in enumerate((".png", ".JPG", ".tif")):
        image(root / f"images/case{i}{ending}")
        mask(root / f"masks/case{i}.png")
    image(root / "normal/free.bmp")
    (root / "groups.json").write_text(json.dumps({"case0": "p", "case1": "p", "case2": 7}))
    (root / "split.json").write_text(json.dumps({"train": ["case0", "case1"], "val": [], "test": ["case2"]}))


LAYOUTS: dict[str, Callable[[Path], None]] = {"isic2017": isic2017, "isic2018": isic2018, "busi": busi, "ph2": ph2, "ddti": ddti,
                                              "folder": plain}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_read_and_decodes(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    cases = read(name, tmp_path)
    assert [case.id for case in cases] == sorted({case.id for case in cases})
    for raw in cases:
        case = decode(raw)
        assert case.image.shape == (H, W, 3)
        assert case.mask is not None
        assert case.mask.shape == (H, W)
        assert bool(case.mask.any()) == bool(raw.annotated and not raw.lesion_free)


def test_isic2017_parts_are_the_split(tmp_path: Path) -> None:
    isic2017(tmp_path)
    assert [(case.id, case.part) for case in read("isic2017", tmp_path)] == \
        [("ISIC_0000000", "train"), ("ISIC_0000001", "val"), ("ISIC_0000002", "test")]


def test_training_part_alone_is_no_split(tmp_path: Path) -> None:
    isic2018(tmp_path)
    assert [case.part for case in read("isic2018", tmp_path)] == [None]


def test_busi_masks_are_united_and_normal_is_lesion_free(tmp_path: Path) -> None:
    busi(tmp_path)
    cases = {case.id: case for case in read("busi", tmp_path / "Dataset_BUSI_with_GT")}
    assert list(cases) == ["benign_001", "benign_010", "malignant_001", "normal_001"]
    union = decode(cases["benign_001"]).mask
    assert union is not None
    assert union.sum() == 32
    assert union[3, 3] == union[12, 22] == 1
    assert cases["normal_001"].lesion_free


def test_ddti_polygons_are_united_by_image(tmp_path: Path) -> None:
    ddti(tmp_path)
    cases = {case.id: case for case in read("ddti", tmp_path)}
    assert [case.group for case in cases.values()] == ["patient_1", "patient_1", "patient_2", "patient_3"]
    assert [case.annotated for case in cases.values()] == [True, True, False, False]
    first = decode(cases["ddti_1_1"]).mask
    assert first is not None
    assert first[5, 5] == first[5, 23] == first[14, 12] == 1
    assert first[14, 5] == 0   # x and y aren't exchanged
    clipped = decode(cases["ddti_1_2"]).mask
    assert clipped is not None
    assert clipped[H - 1, W - 1] == 1


def test_ddti_counts_marks_that_cannot_be_right_as_no_annotation(tmp_path: Path) -> None:
    ddti(tmp_path)
    for i, shapes in enumerate((
            json.loads(polygons((2, 3, 8, 9), (200, 3, 206, 9))),   # one of two lies beside the image
            [*json.loads(polygons((2, 3, 8, 9))), {"points": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]}],
            [{"points": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]}],
            json.loads(polygons((-40, 3, -9, 9)))), start=4):
        image(tmp_path / f"{i}_1.JPG")
        (tmp_path / f"{i}.XML").write_text(MARK.format(json.dumps(shapes)))
    image(tmp_path / "8_1.jpg")
    (tmp_path / "8.xml").write_text(MARK.format(polygons((2, 3, 8, 9))[:-30]))
    image(tmp_path / "9_1.jpg")
    (tmp_path / "9.xml").write_text(MARK.format(polygons((2, 3, 8, 9))))
    (tmp_path / "9 (1).xml").write_text(MARK.format(polygons((0, 0, 29, 19))))
    image(tmp_path / "9_1 copy.jpg")
    for name in ("._1.xml", "._1_1.jpg"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    cases = {case.id: case for case in read("ddti", tmp_path)}
    assert {id: case.annotated for id, case in cases.items()} == {
        "ddti_1_1": True, "ddti_1_2": True, "ddti_2_1": False, "ddti_3_1": False, "ddti_4_1": False, "ddti_5_1": True,
        "ddti_6_1": False, "ddti_7_1": False, "ddti_8_1": False, "ddti_9_1": True}
    whole = decode(cases["ddti_9_1"]).mask
    assert whole is not None
    assert whole.sum() == decode(cases["ddti_5_1"]).mask.sum() > 0  # type: ignore[union-attr]
    assert not any(case.lesion_free for case in cases.values())
    left = passed_over("ddti", tmp_path, list(cases.values()))
    assert [(each.id, each.what, each.reason.split(",")[0].split(";")[0]) for each in left] == [
        ("9 (1).xml", "file", "the layout has no such name or place"),
        ("9_1 copy.jpg", "file", "the layout has no such name or place"),
        ("ddti_4_1", "annotation", "a polygon lies outside of its image"),
        ("ddti_5_1", "annotation", "an outline of fewer than three points is passed over"),
        ("ddti_6_1", "annotation", "an outline of fewer than three points is passed over"),
        ("ddti_7_1", "annotation", "a polygon lies outside of its image"), ("ddti_8_1", "annotation", "a mark is cut short")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_authors_publish_beside_their_images_is_not_told(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    assert passed_over(name, tmp_path, read(name, tmp_path)) == []


def test_folder_groups_parts_and_normal(tmp_path: Path) -> None:
    plain(tmp_path)
    assert [(c.id, c.group, c.part, c.lesion_free) for c in read("folder", tmp_path)] == [
        ("case0", "p", "train", False), ("case1", "p", "train", False), ("case2", "7", "test", False),
        ("free", "", None, True)]


def test_folder_without_annotation_has_its_place(tmp_path: Path) -> None:
    plain(tmp_path)
    image(tmp_path / "unlabelled/new.png")
    with pytest.raises(MeddiffError, match=r"groups.json: every image must have its group, `new`"):
        read("folder", tmp_path)
    (tmp_path / "groups.json").write_text(json.dumps({"case0": "p", "case1": "p", "case2": 7, "new": "p"}))
    new = next(case for case in read("folder", tmp_path) if case.id == "new")
    assert (new.group, new.part, new.annotated, new.lesion_free) == ("p", None, False, False)


def unlink(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text) and None


ISIC_MASK = "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png"
ISIC_IMAGE = "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg"
PH2_MASK = "PH2Dataset/PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp"
BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><case>&a;</case>'
MARK = "<case><mark><image>1</image><svg>{}</svg></mark></case>"


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("isic2017", unlink(ISIC_MASK), "ISIC_0000000.jpg: an image must have its mask"),
    ("isic2018", unlink(ISIC_IMAGE), "ISIC_0000000_segmentation.png: a mask must have its image"),
    ("busi", unlink("Dataset_BUSI_with_GT/benign/benign (1).png"), r"benign \(1\)_mask.png: a mask must have its image"),
    ("busi", unlink("Dataset_BUSI_with_GT/malignant/malignant (1)_mask.png"), "an image must have its mask `malignant"),
    ("ph2", unlink(PH2_MASK), "IMD003_lesion.bmp: a PH2 case must have"),
    ("ddti", write("1.xml", "<case><mark>"), "1.xml: a DDTI case holds"),
    ("ddti", write("1.xml", BOMB), "1.xml: .*document type"),
    ("ddti", write("1.xml", MARK.format("[{")), "an image must have polygons in its case's XML file: a mark is cut short"),
    ("ddti", write("1.xml", MARK.format('[{"points": [{"x": NaN, "y": 1}]}]')), "1.xml: .*two finite numbers"),
    ("ddti", lambda root: [write(f"{i}.xml", "<case>")(root) for i in (1, 2, 3)], "1.xml: a DDTI case .*; likewise 2.xml, 3.xml"),
    ("ddti", write("1.xml", MARK.format('[{"points": [{"x": 1}]}]')), "1.xml: a DDTI case holds"),
    ("ddti", write("1.xml", MARK.format('[3]')), "1.xml: a DDTI case holds"),
    ("ddti", unlink("1.xml"), "an image must have polygons"),
    ("folder", unlink("masks/case1.png"), "case1.JPG: an image must have its mask.*move the image to unlabelled/"),
    ("folder", unlink("images/case2.tif"), "case2.png: a mask must have its image"),
    ("folder", lambda root: image(root / "images/case0.jpg"), "case0.png: a stem must be unique"),
    ("folder", lambda root: image(root / "normal/case0.png"), "ids must be unique"),
    ("folder", write("groups.json", '{"case0": "p"}'), "groups.json: every image must have its group, `case1`"),
    ("folder", write("groups.json", '{"case0": ["p"]}'), "groups.json: each id has one group"),
    ("folder", write("groups.json", '[1]'), "groups.json: the file must hold one JSON object"),
    ("folder", write("split.json", "{"), "split.json: the file must be JSON"),
    ("folder", write("split.json", '{"train": ["case0"]}'), "split.json: a split has the lists"),
    ("folder", write("split.json", '{"train": ["case0"], "val": ["case1"], "test": []}'),
     "split.json: every image must be in a part, `case2`"),
    ("folder", write("split.json", '{"train": ["case9"], "val": [], "test": []}'),
     "split.json: `case9` in `train` must be an image"),
    ("folder", write("split.json", '{"train": ["case0"], "val": ["case0"], "test": []}'),
     "split.json: `case0` must be in one part"),
])
def test_a_broken_layout_is_named(name: str, spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    spoil(tmp_path)
    with pytest.raises(MeddiffError, match=message):
        read(name, tmp_path)


def test_a_name_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """As an old archive leaves it: no table and no page could name the case."""
    name = os.fsdecode("läsion.png".encode("latin-1"))
    image(tmp_path / "images" / name)
    mask(tmp_path / "masks" / name)
    with pytest.raises(MeddiffError, match=r"images/l\\udce4sion\.png: the name of a file must be UTF-8"):
        read("folder", tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_and_empty_folders_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="folder of the"):
        read(name, tmp_path / "nowhere")
    with pytest.raises(MeddiffError):
        read(name, tmp_path)


def raw(root: Path, **changes: object) -> RawCase:
    image(root / "a.png")
    mask(root / "m.png")
    return RawCase(**{"id": "a", "image": root / "a.png", "masks": (root / "m.png",), "group": "a", **changes})  # type: ignore[arg-type]


def test_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    case = raw(tmp_path)
    mask(tmp_path / "m.png", size=(H, H))
    with pytest.raises(MeddiffError, match=r"m\.png: .*20×20 and the image 30×20"):
        decode(case)


def test_gray_mask_and_corrupt_image_are_named(tmp_path: Path) -> None:
    case = raw(tmp_path)
    Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W)).save(tmp_path / "m.png")
    with pytest.raises(MeddiffError, match=r"m\.png: a mask holds only"):
        decode(case)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(MeddiffError, match=r"a\.png: an image must"):
        decode(case)


def test_lesion_free_image_with_a_lesion_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="lesion-free image must be empty"):
        decode(raw(tmp_path, lesion_free=True))


def test_outline_is_filled_in_x_and_y() -> None:
    square = Polygon(np.array([[2.0, 1.0], [2.0, 4.0], [9.0, 4.0], [9.0, 1.0]]), Path("x.xml"))
    found = decode(RawCase("a", np.zeros((8, 12, 3), np.uint8), (square,), "a")).mask
    assert found is not None
    ys, xs = np.nonzero(found)
    assert (ys.min(), ys.max()) == (1, 4)
    assert (xs.min(), xs.max()) == (2, 9)


def test_a_case_in_memory_is_lesion_free_when_its_mask_is_empty() -> None:
    picture, empty = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    assert in_memory(Case("a", picture, empty)).lesion_free
    assert not in_memory(Case("a", picture, empty + 1)).lesion_free


def test_pad_keeps_the_aspect_and_squash_fills() -> None:
    picture, flat = np.full((40, 80, 3), 200, np.uint8), np.ones((40, 80), np.uint8)
    padded = fit_square(picture, flat, 32, "pad")
    assert (padded.frame.top, padded.frame.left, padded.frame.height, padded.frame.width) == (8, 0, 16, 32)
    inside = padded.frame.mask(32)
    assert inside.sum() == 16 * 32
    assert np.array_equal(padded.mask > 0, inside)
    assert (padded.image[inside] == 200).all()
    assert not padded.image[~inside].any()
    squashed = fit_square(picture, flat, 32, "squash")
    assert squashed.mask.all()
    assert (squashed.image == 200).all()


def test_pad_keeps_the_aspect_of_millimetres() -> None:
    """Of slices 5 mm thick and pixels of 0.5 mm, ten rows are as high as a hundred columns are wide."""
    picture, flat = np.full((10, 50, 3), 200, np.uint8), np.ones((10, 50), np.uint8)
    for spacing, rows, columns in (((5.0, 0.5), 32, 16), ((0.5, 5.0), 1, 32), ((0.7, 0.7), 6, 32), (None, 6, 32)):
        frame = fit_square(picture, flat, 32, "pad", spacing).frame
        assert (frame.height, frame.width) == (rows, columns)
    assert fit_square(picture, flat, 32, "squash", (5.0, 0.5)).frame == fit_square(picture, flat, 32, "squash").frame


def test_resizing_is_antialiased_and_masks_stay_binary() -> None:
    checker = (np.indices((128, 128)).sum(axis=0) % 2).astype(np.uint8)
    fitted = fit_square(np.repeat(checker[:, :, None] * 255, 3, axis=2), checker, 32, "pad")
    assert np.abs(fitted.image.astype(int) - 128).max() < 20
    assert set(np.unique(fitted.mask)) <= {0, 1}


def test_a_case_of_the_right_size_is_unchanged() -> None:
    rng = np.random.default_rng(0)
    picture, flat = rng.integers(0, 255, (32, 32, 3), np.uint8), rng.integers(0, 2, (32, 32)).astype(np.uint8)
    fitted = fit_square(picture, flat, 32, "pad")
    assert np.array_equal(fitted.image, picture)
    assert np.array_equal(fitted.mask, flat)


def test_folder_reads_class_indices_and_names_what_is_no_class(tmp_path: Path) -> None:
    plain(tmp_path)
    indices = np.zeros((H, W), np.uint8)
    indices[2:6, 2:6], indices[10:16, 20:28] = 1, 2
    for i in range(3):
        Image.fromarray(indices).save(tmp_path / f"masks/case{i}.png")
    cases = read("folder", tmp_path, ("benign", "malignant"))
    assert all(np.array_equal(decode(case).mask, indices) for case in cases if not case.lesion_free)
    Image.fromarray(indices * 2).save(tmp_path / "masks/case1.png")
    with pytest.raises(MeddiffError, match=r"case1\.png: a mask of 2 classes holds the indices 0 to 2, this one holds 4"):
        decode(read("folder", tmp_path, ("benign", "malignant"))[1])


def test_busi_folders_are_the_classes(tmp_path: Path) -> None:
    busi(tmp_path)
    for classes in (("benign", "malignant"), ("malignant", "benign")):
        for case in read("busi", tmp_path, classes):
            values = set(np.unique(decode(case).mask).tolist()) - {0}
            assert values == (set() if case.lesion_free else {classes.index(case.id.split("_")[0]) + 1})
    with pytest.raises(MeddiffError, match="BUSI tells the classes benign and malignant, not cyst, solid"):
        read("busi", tmp_path, ("cyst", "solid"))


@pytest.mark.parametrize("name", ["isic2017", "isic2018", "ph2", "ddti"])
def test_layouts_of_one_class_say_so(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    with pytest.raises(MeddiffError, match=rf"prepare.classes: the `{name}` layout tells one class .*not 2.*`folder`"):
        read(name, tmp_path, ("nevus", "melanoma"))
    assert {int(value) for case in read(name, tmp_path, ("nevus",)) for value in np.unique(decode(case).mask)} <= {0, 1}


def test_resizing_invents_no_class() -> None:
    """Halfway between 0 and 2 lies 1: an interpolated mask would surround class 2 by class 1."""
    indices = np.zeros((120, 200), np.uint8)
    indices[30:90, 20:80], indices[40:80, 130:180] = 2, 3
    fitted = fit_square(np.zeros((120, 200, 3), np.uint8), indices, 64, "pad")
    assert set(np.unique(fitted.mask).tolist()) == {0, 2, 3}
    assert not fitted.mask[~fitted.frame.mask(64)].any()
