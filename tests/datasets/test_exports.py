"""Exports of annotation tools, held against each format's own reference, and everything that may be wrong with one."""

import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks
from skimage.draw import polygon2mask

from meddiff.datasets.adapters import decode, passed_over, read, recognise, tell_categories
from meddiff.errors import MeddiffError
from tests.datasets.exporting import (
    POLYGON,
    SIZE,
    Bools,
    base64_png,
    brush,
    coco,
    compressed,
    cvat,
    cvat_mask,
    labelme,
    picture,
    plain_runs,
    region,
    ring,
    save,
    task,
    yolo_line,
)

FLAT = [value for corner in POLYGON for value in corner]
PERCENT = [[x / SIZE[1] * 100, y / SIZE[0] * 100] for x, y in POLYGON]


def outlined() -> Bools:
    return np.asarray(polygon2mask(SIZE, np.array(POLYGON)[:, ::-1]))


def masks(tool: str, root: Path, classes: tuple[str, ...] = ("lesion",)) -> dict[str, Any]:
    assert recognise(root) == tool
    return {case.id: decode(case).mask if case.masks else None for case in read(tool, root, classes)}


def same(mask: Any, inside: Bools, label: int = 1) -> bool:
    return bool(np.array_equal(mask, inside * np.uint8(label)))


def runs(inside: Bools) -> dict[str, Any]:
    return {"size": list(SIZE), "counts": plain_runs(inside.ravel(order="F"))}


# ---- what is read

def test_coco_polygons_and_run_lengths_of_both_kinds(tmp_path: Path) -> None:
    export = coco(tmp_path, [[FLAT], compressed(ring()), runs(ring()), [FLAT, [20, 10, 25, 10, 25, 15]]])
    save(tmp_path / "annotations/instances_default.json", export)
    read_masks = masks("coco", tmp_path)
    assert same(read_masks["0"], outlined())
    for id in "12":
        reference = coco_masks.decode(export["annotations"][1]["segmentation"])
        assert same(read_masks[id], reference > 0)
        assert same(read_masks[id], ring())
    assert same(read_masks["3"], outlined() | polygon2mask(SIZE, np.array([(10, 20), (10, 25), (15, 25)])))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_compressed_run_lengths_are_those_of_pycocotools(height: int, width: int, seed: int, share: float) -> None:
    inside = np.random.default_rng(seed).random((height, width)) < share
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        picture(root / "a.png", (height, width))
        save(root / "coco.json", {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}],
                                  "annotations": [{"image_id": 1, "category_id": 1, "segmentation": compressed(inside)}]})
        assert same(decode(read("coco", root)[0]).mask, inside)


def test_coco_categories_are_classes_by_name_or_united(tmp_path: Path) -> None:
    save(tmp_path / "coco.json", coco(tmp_path, [[FLAT], compressed(ring())], ("adenoma", "polyp")))
    united = read("coco", tmp_path)
    assert [decode(case).mask.max() for case in united] == [1, 1]
    assert tell_categories(united, ("lesion",)) == \
        ["the categories are one class, lesion: adenoma (1 image), polyp (1 image); --classes adenoma,polyp tells them apart"]
    apart = masks("coco", tmp_path, ("polyp", "adenoma"))
    assert same(apart["0"], outlined(), 2)
    assert same(apart["1"], ring(), 1)
    alone = read("coco", tmp_path, ("polyp",))
    assert [bool(case.masks) for case in alone] == [False, True], "a class of that name is that category"
    assert "named in `prepare.classes`" in alone[0].doubt
    assert tell_categories(alone, ("polyp",)) == \
        ["categories that `prepare.classes` doesn't name are left out: adenoma (1 image)"]
    assert same(masks("coco", tmp_path, ("Polyp",))["1"], ring())
    with pytest.raises(MeddiffError, match=r"prepare.classes: the export has no category `cyst`, it has adenoma, polyp"):
        read("coco", tmp_path, ("polyp", "cyst"))


def test_an_image_without_shape_is_not_lesion_free_and_one_with_a_box_not_annotated(tmp_path: Path) -> None:
    export = coco(tmp_path, [[FLAT], [], [FLAT]])
    export["annotations"] = [*export["annotations"][:2], {"id": 7, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    save(tmp_path / "coco.json", export)
    boxed, alone, empty = read("coco", tmp_path)
    assert not boxed.masks, "its second lesion has only a box, which would be background"
    assert "a box is no mask" in boxed.doubt
    assert not alone.annotated
    assert empty.masks
    assert not empty.lesion_free
    assert not decode(empty).mask.any(), "`prepare.empty_masks` says what that means"
    assert [each.id for each in passed_over("coco", tmp_path, [boxed, alone, empty]) if each.what == "annotation"] == ["0", "1"]


def test_parts_and_ids_come_from_nested_folders(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        export = coco(tmp_path / part, [[FLAT], [FLAT]])
        save(tmp_path / part / "_annotations.coco.json", export)
    cases = read("coco", tmp_path)
    parts = {"train": "train", "valid": "val", "test": "test"}
    assert {(case.id, case.part) for case in cases} == {(f"{name}_{i}", part) for name, part in parts.items() for i in range(2)}
    picture(tmp_path / "other/9.png")
    assert [each.id for each in passed_over("coco", tmp_path, cases)] == ["other/9.png"]


def test_an_export_for_each_part_is_the_split_but_no_file_for_one_image(tmp_path: Path) -> None:
    export = coco(tmp_path, [[FLAT]] * 6)
    for part, first in (("train2017", 0), ("val2017", 2), ("test2017", 4)):
        images, drawn = ([each for each in export[name] if first <= each["id"] < first + 2] for name in ("images", "annotations"))
        save(tmp_path / f"annotations/instances_{part}.json", {**export, "images": images, "annotations": drawn})
    assert [case.part for case in read("coco", tmp_path)] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    for name in ("train_1", "val_2", "test_3"):
        picture(tmp_path / f"single/{name}.png")
        save(tmp_path / f"single/{name}.json", labelme(f"{name}.png", [{"points": POLYGON}]))
    assert {case.part for case in read("labelme", tmp_path / "single")} == {None}


def test_labelme_shapes_are_those_of_its_script(tmp_path: Path) -> None:
    corners = [[4, 4], [14, 9]]
    patch = ring()[4:16, 10:25]
    shapes: dict[str, dict[str, Any]] = {
        "polygon": {"points": POLYGON, "shape_type": "polygon"}, "old": {"points": POLYGON},
        "rectangle": {"points": corners, "shape_type": "rectangle"}, "back": {"points": corners[::-1], "shape_type": "rectangle"},
        "circle": {"points": [[12, 9], [15, 13]], "shape_type": "circle"},
        "mask": {"points": [[10, 4], [24, 15]], "shape_type": "mask", "mask": base64_png(patch)}}
    for name, shape in shapes.items():
        picture(tmp_path / f"{name}.png")
        save(tmp_path / f"{name}.json", labelme(f"{name}.png", [shape]))
    picture(tmp_path / "unseen.png")
    picture(tmp_path / "old_json/label_viz.png")
    save(tmp_path / "empty.json", labelme("empty.png", []))
    picture(tmp_path / "empty.png")
    read_masks = masks("labelme", tmp_path)
    assert same(read_masks["polygon"], outlined())
    assert same(read_masks["old"], outlined())
    box = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(box).rectangle((4, 4, 14, 9), fill=1, outline=1)
    assert same(read_masks["rectangle"], np.array(box))
    assert same(read_masks["back"], np.array(box))
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    assert same(read_masks["circle"], np.hypot(columns - 12, rows - 9) <= 5)
    assert same(read_masks["mask"], ring())
    assert read_masks["unseen"] is None
    assert not read_masks["empty"].any()
    cases = read("labelme", tmp_path)
    assert [each.id for each in passed_over("labelme", tmp_path, cases)] == ["old_json/label_viz.png"]


def test_labelme_images_may_lie_in_the_file_or_elsewhere(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    shape = {"points": POLYGON, "shape_type": "polygon"}
    save(tmp_path / "labels/a.json", labelme("/home/someone/a.png", [shape], imageData=base64_png(pixels)))
    save(tmp_path / "labels/b.json", labelme("..\\images\\b.png", [shape]))
    picture(tmp_path / "images/b.png")
    embedded, beside = sorted(read("labelme", tmp_path), key=lambda case: case.id[-1])
    assert np.array_equal(decode(embedded).image, pixels)
    assert same(decode(embedded).mask, outlined())
    assert beside.file == tmp_path / "images/b.png"
    assert same(decode(beside).mask, outlined())


def test_a_file_whose_categories_arent_named_is_told_once(tmp_path: Path) -> None:
    for name, label in (("a", "polyp"), ("bb", "ruler")):
        picture(tmp_path / f"{name}.png")
        save(tmp_path / f"{name}.json", labelme(f"{name}.png", [{"points": POLYGON, "label": label}]))
    told = passed_over("labelme", tmp_path, read("labelme", tmp_path, ("polyp",)))
    assert [(each.id, each.what) for each in told] == [("bb", "annotation")]


def test_labelme_never_lays_shapes_on_another_picture_than_the_one_within(tmp_path: Path) -> None:
    """As where a picture was given the name of another: labelme itself shows the one within."""
    for name in ("a", "bb", "ccc"):
        picture(tmp_path / f"{name}.png")
    for name, within in (("a", "a"), ("bb", "bb")):
        inside = base64.b64encode((tmp_path / f"{within}.png").read_bytes()).decode()
        save(tmp_path / f"{name}.json", labelme(f"{name}.png", [{"points": POLYGON}], imageData=inside))
    saved_anew = np.asarray(Image.open(tmp_path / "ccc.png"))
    save(tmp_path / "ccc.json", labelme("ccc.png", [{"points": POLYGON}], imageData=base64_png(saved_anew)))
    assert len(read("labelme", tmp_path)) == 3
    for name, within in (("a", "bb"), ("bb", "a")):
        inside = base64.b64encode((tmp_path / f"{within}.png").read_bytes()).decode()
        save(tmp_path / f"{name}.json", labelme(f"{name}.png", [{"points": POLYGON}], imageData=inside))
    with pytest.raises(MeddiffError, match=r"a\.json: the image within must be a\.png.* another picture; likewise bb\.json"):
        read("labelme", tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labelme_draws_on_the_turned_image(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = SIZE if orientation < 5 else SIZE[::-1]
    Image.fromarray(np.zeros((*stored, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    save(tmp_path / "a.json", labelme("a.jpg", [{"points": POLYGON, "shape_type": "polygon"}]))
    case = decode(read("labelme", tmp_path)[0])
    assert case.image.shape[:2] == SIZE
    assert same(case.mask, outlined())


def test_cvat_polygons_and_masks_whose_ends_count(tmp_path: Path) -> None:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in POLYGON)
    single = np.zeros(SIZE, np.bool_)
    single[19, 29] = True
    save(tmp_path / "annotations.xml", cvat([
        ("p1/a.png", f'<polygon label="lesion" points="{points}" occluded="0" z_order="0"></polygon><tag label="seen"></tag>'),
        ("p1/b.png", cvat_mask(ring())), ("p2/a.png", cvat_mask(single)), ("p2/c.png", ""),
        ("p2/d.png", '<box label="lesion" xtl="1" ytl="1" xbr="9" ybr="9"></box>'),
        ("p2/e.png", '<ellipse label="lesion" cx="12" cy="9" rx="8" ry="4" rotation="0"></ellipse>')]))
    for name in ("p1/a", "p1/b", "p2/a", "p2/c", "p2/d", "p2/e"):
        picture(tmp_path / f"images/{name}.png")
    read_masks = masks("cvat", tmp_path)
    assert same(read_masks["p1_a"], outlined())
    assert same(read_masks["p1_b"], ring())
    assert same(read_masks["p2_a"], single)
    assert not read_masks["p2_c"].any()
    assert read_masks["p2_d"] is None
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    assert same(read_masks["p2_e"], ((columns - 12) / 8) ** 2 + ((rows - 9) / 4) ** 2 <= 1)


def published(runs: list[int]) -> Bools:
    """Label Studio's run lengths, decoded bit by bit as its converter describes them."""
    bits = iter("".join(f"{byte:08b}" for byte in runs))

    def take(n: int) -> int:
        return int("".join(next(bits) for _ in range(n)), 2)

    total, word = take(32), take(5) + 1
    sizes, out = [take(4) + 1 for _ in range(4)], list[int]()
    while len(out) < total:
        series, length = take(1), take(sizes[take(2)]) + 1
        out += [take(word)] * length if series else [take(word) for _ in range(length)]
    return np.array(out[:total]).reshape(*SIZE, 4)[:, :, 3] > 0


def test_label_studio_brush_polygon_and_ellipse(tmp_path: Path) -> None:
    spots = np.random.default_rng(1).random(SIZE) < 0.3
    for name, inside in (("ring", ring()), ("spots", spots)):
        assert np.array_equal(published(brush(inside)), inside), name
    ellipse = {"x": 40.0, "y": 50.0, "radiusX": 20.0, "radiusY": 25.0, "rotation": 0}
    results = {
        "ring": [region("brush", {"format": "rle", "rle": brush(ring())})], "faint": [region("brush", {"rle": brush(spots, 3)})],
        "polygon": [region("polygon", {"points": PERCENT, "closed": True})], "ellipse": [region("ellipse", ellipse)],
        "box": [region("rectangle", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0})],
        "nothing": [{"id": "c", "type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": ["normal"]}}]}
    tasks = [task(i, f"/data/upload/1/0a1b2c3d-{name}.png", drawn) for i, (name, drawn) in enumerate(results.items())]
    tasks += [task(7, "/data/local-files/?d=set%201/skipped.png", None), task(8, "s3://bucket/x/two.png", results["ring"])]
    first = tasks[-1]["annotations"][0]
    tasks[-1]["annotations"] += [{**first, "was_cancelled": True}, {**first, "result": results["polygon"], "ground_truth": True}]
    save(tmp_path / "project.json", tasks)
    for name in (*results, "skipped", "two"):
        picture(tmp_path / f"images/{name}.png")
    read_masks = masks("label_studio", tmp_path)
    assert same(read_masks["ring"], ring())
    assert same(read_masks["faint"], spots)
    assert same(read_masks["polygon"], outlined())
    assert same(read_masks["two"], outlined()), "the ground truth counts"
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    assert same(read_masks["ellipse"], ((columns - 12) / 6) ** 2 + ((rows - 10) / 5) ** 2 <= 1)
    assert read_masks["box"] is None
    assert read_masks["skipped"] is None
    assert not read_masks["nothing"].any()


def test_label_studio_labels_may_stand_beside_the_region(tmp_path: Path) -> None:
    drawn = [{**region("brush", {"rle": brush(ring())}), "type": "brush", "value": {"format": "rle", "rle": brush(ring())}},
             {"id": "r", "type": "labels", "value": {"labels": ["polyp"]}, "from_name": "l", "to_name": "image"}]
    save(tmp_path / "project.json", [task(1, "a.png", drawn)])
    picture(tmp_path / "a.png")
    assert read("label_studio", tmp_path)[0].categories == ("polyp",)
    assert same(masks("label_studio", tmp_path)["a"], ring())


def test_yolo_polygons_names_and_parts(tmp_path: Path) -> None:
    save(tmp_path / "data.yaml", "train: ../train/images\nnc: 2\nnames: ['polyp', 'adenoma']\n")
    for part in ("train", "valid", "test"):
        lines = {"a": yolo_line(0, POLYGON), "b": yolo_line(1, POLYGON) + "\n", "empty": "", "box": "0 0.5 0.5 0.1 0.1"}
        for name, text in lines.items():
            picture(tmp_path / f"{part}/images/{name}.jpg")
            save(tmp_path / f"{part}/labels/{name}.txt", text)
        picture(tmp_path / f"{part}/images/bare.jpg")
    read_masks = masks("yolo", tmp_path, ("adenoma", "polyp"))
    assert same(read_masks["train_a"], outlined(), 2)
    assert same(read_masks["test_b"], outlined(), 1)
    assert not read_masks["train_empty"].any()
    assert read_masks["train_box"] is read_masks["valid_bare"] is None
    assert {case.part for case in read("yolo", tmp_path)} == {"train", "val", "test"}


def test_via_regions_of_both_versions(tmp_path: Path) -> None:
    polygon = {"name": "polygon", "all_points_x": [x for x, _ in POLYGON], "all_points_y": [y for _, y in POLYGON]}
    images = {"a.png123": {"filename": "a.png", "size": 123, "regions": [{"shape_attributes": polygon,
                                                                          "region_attributes": {"type": "polyp"}}]},
              "b.png9": {"filename": "b.png", "size": 9, "file_attributes": {}, "regions": {
                  "0": {"shape_attributes": {"name": "circle", "cx": 12, "cy": 9, "r": 5.0}, "region_attributes": {}}}},
              "c.png9": {"filename": "c.png", "regions": []},
              "d.png9": {"filename": "d.png", "regions": [
                  {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {}}]}}
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    for content in (images, {"_via_settings": {}, "_via_img_metadata": images}):
        save(tmp_path / "via.json", content)
        read_masks = masks("via", tmp_path)
        assert same(read_masks["a"], outlined())
        assert read_masks["b"].sum() == 81
        assert not read_masks["c"].any()
        assert read_masks["d"] is None


# ---- what is refused

def of_coco(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        export = coco(root, [[FLAT], [FLAT]])
        change(export)
        save(root / "coco.json", export)
    return make


def drawn(segmentation: object) -> Callable[[Path], None]:
    return of_coco(lambda export: export["annotations"][0].update(segmentation=segmentation))


def of_labelme(*shapes: dict[str, Any], **changes: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / "a.png")
        save(root / "a.json", labelme("a.png", shapes, **changes))
    return make


def of_cvat(shapes: str, name: str = "a.png") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / "a.png")
        save(root / "annotations.xml", cvat([(name, shapes)]))
    return make


def of_studio(*results: dict[str, Any], **changes: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / "a.png")
        save(root / "project.json", [task(1, "/data/a.png", results, **changes)])
    return make


def of_studio_min(root: Path) -> None:
    """Label Studio's short form, which tells no task from its annotations."""
    picture(root / "a.png")
    shape = {"points": PERCENT, "polygonlabels": ["lesion"], "original_width": SIZE[1], "original_height": SIZE[0]}
    save(root / "project.json", [{"id": 1, "image": "/data/a.png", "tag": [shape]}])


def of_yolo(text: str, names: str = "names: [polyp]", image: str = "a") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / f"images/{image}.png")
        save(root / "labels/a.txt", text)
        save(root / "data.yaml", names)
    return make


def cut(make: Callable[[Path], None], name: str, length: int = -20) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        make(root)
        save(root / name, (root / name).read_text()[:length])
    return spoil


def also(make: Callable[[Path], None], name: str, text: str = "") -> Callable[[Path], None]:
    """A further file, the same as coco.json where no text is given."""
    def further(root: Path) -> None:
        make(root)
        save(root / name, text or (root / "coco.json").read_text())
    return further


def of_via(filename: str, *regions: dict[str, Any]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        picture(root / "a.png")
        save(root / "via.json", {"a": {"filename": filename, "regions": [{"shape_attributes": shape} for shape in regions]}})
    return make


def nested(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def twice(root: Path) -> None:
        make(root)
        for folder in ("p1", "p2"):
            picture(root / folder / "0.png")
        (root / "images/0.png").unlink()
    return twice


MASK = '<mask label="lesion" rle="{}" left="{}" top="1" width="3" height="2"></mask>'
BRUSH = brush(ring())
BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotations></annotations>'
FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("coco", cut(drawn([FLAT]), "coco.json"), r"coco.json: the file must be as COCO writes it \(JSON: Invalid JSON: EOF"),
    ("coco", drawn([[1, 1, 5, 5]]), r"coco.json: annotation 0: a polygon needs three points"),
    ("coco", drawn([[1, 1, 5, 5, 6]]), r"annotation 0: a polygon must be pairs of x and y, this one has 5 numbers"),
    ("coco", drawn([[1, 1, 5, 5, 6, float("nan")]]), r"annotations.0.segmentation.*finite number"),
    ("coco", drawn([[1, 1, 5, 5, 6, "7a"]]), r"annotations.0.segmentation.*valid number"),
    ("coco", drawn({"size": [20, 30], "counts": [5, 6]}),
     "annotation 0: run lengths must cover 30×20 = 600 pixels, these cover 11"),
    ("coco", drawn({"size": [20, 30], "counts": [5, -6, 601]}), "annotations.0.segmentation"),
    ("coco", drawn({"size": [10, 60], "counts": [300, 300]}),
     "coco.json: image 0 .*run lengths of 60×10 pixels don't fit on the image of"),
    ("coco", drawn({**compressed(ring()), "counts": compressed(ring())["counts"][:-3]}),
     "annotation 0: .*(cut short|must cover)"),
    ("coco", drawn({"size": [20, 30], "counts": "zzz\n"}), "annotation 0: compressed run lengths must be"),
    ("coco", drawn([[100, 100, 120, 100, 110, 120]]), "image 0 .*a shape lies outside on the image of 30×20"),
    ("coco", of_coco(lambda export: export.update(annotations=[
        {"image_id": "0", "file_name": "0.png", "segments_info": [{"id": 1, "category_id": 1, "area": 20}]}])),
     "coco.json: the file: annotations must be instances.*these are panoptic"),
    ("coco", of_coco(lambda export: export["annotations"][0].pop("category_id")), "its category None must be in"),
    ("coco", of_coco(lambda it: it["annotations"][1].update(category_id=7)),
     "annotation 1: .*its category 7 must be in the file"),
    ("coco", of_coco(lambda it: it["annotations"][1].update(image_id=7)), "annotation 1: its image 7"),
    ("coco", of_coco(lambda it: it["annotations"][1].update(id=0)), "an id must come once, 0 comes twice in `annotations`"),
    ("coco", of_coco(lambda it: it["images"][1].update(id=0)), "0 comes twice in `images`"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="0.png")),
     r"coco.json: image 1 \(0.png\): an image must come once"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="gone.png")), "names the image `gone.png`, which isn't there"),
    ("coco", of_coco(lambda it: [each.update(file_name=f"gone{i}.png") for i, each in enumerate(it["images"])]),
     "image 0: .*likewise coco.json: image 1"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="../secret.png")), "must stay in the dataset's folder"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="images/../../../etc/1.png")),
     "must stay in the dataset's folder"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="/etc/1.png")), "a path must lead from the dataset's folder"),
    ("coco", of_coco(lambda it: it["images"][1].update(file_name="C:\\1.png")), "a path must lead from the dataset's folder"),
    ("coco", of_coco(lambda it: it["images"][0].update(width=31)),
     r"image 0 \(0.png\): the export says 31×20 pixels, the image has 30×20"),
    ("coco", nested(drawn([FLAT])), "`0.png` may be .*p1/0.png or .*p2/0.png"),
    ("coco", also(drawn([FLAT]), "copy.json"), "an image must come once, it is also coco.json"),
    ("labelme", cut(of_labelme({"points": POLYGON}), "a.json"), "a.json: the file must be as labelme writes it"),
    ("labelme", of_labelme({"points": POLYGON[:2], "shape_type": "polygon"}),
     r"a.json: shape 0 \(lesion\): a polygon needs three"),
    ("labelme", of_labelme({"points": POLYGON, "shape_type": "circle"}), "a circle needs two points, this one has 3"),
    ("labelme", of_labelme({"points": [[1, 1], [1, 1]], "shape_type": "circle"}), "radii above 0"),
    ("labelme", of_labelme({"points": POLYGON}, imageHeight=21),
     "a.json: its image: the export says 30×21 pixels, the image has 30×20"),
    ("labelme", of_labelme({"points": POLYGON}, imagePath="b.png"), "names the image `b.png`, which isn't there"),
    ("labelme", of_labelme({"points": POLYGON}, imagePath="b.png", imageData="%%"), "a.json: .*an image must be in Base64"),
    ("labelme", of_labelme({"points": POLYGON}, imagePath="b.png", imageData="QUJD"),
     "a.json: an image must be there and decode"),
    ("labelme", of_labelme({"points": [[1, 1], [3, 3]], "shape_type": "mask", "mask": "QUJD"}),
     "a mask must be a picture in Base64"),
    ("labelme", of_labelme({"points": [[1, 1], [3, 3]], "shape_type": "mask", "mask": base64_png(np.ones((2, 2), np.uint8))}),
     "a mask of 2×2 pixels must reach from one corner to the other"),
    ("labelme", of_labelme({"points": [[float("nan"), 1], [3, 3], [4, 5]]}), "shapes.0.points.*finite"),
    ("cvat", cut(of_cvat(""), "annotations.xml"), "annotations.xml: the file must be XML as CVAT writes it"),
    ("cvat", of_cvat('<polygon label="lesion" points="1,1;5,5"></polygon>'), r"image 0 \(a.png\): a polygon needs three points"),
    ("cvat", of_cvat('<polygon label="lesion" points="1,1;5,nan;6,7"></polygon>'), "finite"),
    ("cvat", of_cvat('<polygon label="lesion" points="1,1;5;6,7"></polygon>'), "pairs of x and y"),
    ("cvat", of_cvat(MASK.format("2, 3", 1)), "run lengths must cover 3×2 = 6 pixels, these cover 5"),
    ("cvat", of_cvat(MASK.format("2, 4", 28)), r"a mask of 3×2 pixels at \(28, 1\) doesn't fit on the image of 30×20"),
    ("cvat", of_cvat(MASK.format("2, x", 1)), "invalid literal"),
    ("cvat", of_cvat(MASK.format("2, 4", "1.5")), "`left` must be a whole number, not 1.5"),
    ("cvat", of_cvat("", "../a.png"), "must stay in the dataset's folder"),
    ("cvat", of_cvat("", "b.png"), "names the image `b.png`, which isn't there"),
    ("cvat", also(of_cvat(""), "annotations.xml", BOMB), "declares a document type"),
    ("cvat", also(of_cvat(""), "annotations.xml", "<annotations><track></track></annotations>"),
     "tracks of a video aren't read. Export the task as CVAT for images"),
    ("label_studio", cut(of_studio(region("brush", {"rle": BRUSH})), "project.json"),
     "as Label Studio .JSON, not JSON-MIN. writes it"),
    ("label_studio", of_studio_min, "as Label Studio .JSON, not JSON-MIN. writes it .0.data: Field required"),
    ("label_studio", of_studio(region("brush", {"rle": BRUSH[:-8]})), "task 1: run lengths are cut short on the image"),
    ("label_studio", of_studio(region("brush", {"rle": BRUSH}, original_width=31)), "must cover four channels of 31×20"),
    ("label_studio", of_studio(region("brush", {"rle": [300]})), "task 1: Input should be less than or equal to 255"),
    ("label_studio", of_studio(region("brush", {})), "task 1: Input should be a valid list"),
    ("label_studio", of_studio(region("polygon", {"points": PERCENT[:2]})), "three points"),
    ("label_studio", of_studio(region("polygon", {"points": PERCENT}, image_rotation=90)),
     "turned by 90 degrees in Label Studio"),
    ("label_studio", of_studio(region("polygon", {"points": PERCENT}), data={"a": "a.png", "b": "b.png"}),
     "a task has one image"),
    ("label_studio", of_studio(region("polygon", {"points": PERCENT}), data={"image": "b.png"}), "`b.png`, which isn't there"),
    ("label_studio", of_studio(region("polygon", {"points": PERCENT}), annotations=[{"result": []}, {"result": []}]),
     "task 1: one annotation must count, the task has 2"),
    ("yolo", of_yolo("0 0.1 0.1 0.2 0.2 0.3"),
     "labels/a.txt: line 1: a polygon must be pairs of x and y, this one has 5 numbers"),
    ("yolo", of_yolo("0 0.1 0.1 0.2 nan 0.3 0.3"), "line 1: a polygon's corners must be finite"),
    ("yolo", of_yolo("0 10 10 20 20 10 20"), "line 1: numbers must be shares of the image's sides"),
    ("yolo", of_yolo(yolo_line(0, POLYGON) + "\n" + yolo_line(3, POLYGON)),
     "line 2: a category must be an index of `names`.*, 3 isn't"),
    ("yolo", of_yolo(yolo_line(0, POLYGON) + "\nhello"), "line 2: a category must be an index"),
    ("yolo", of_yolo(yolo_line(0, POLYGON), image="b"), "labels/a.txt: its image isn't there"),
    ("yolo", also(of_yolo(yolo_line(0, POLYGON)), "other.yml", "names: {0: cyst}"),
     "other.yml: one file must name the categories"),
    ("yolo", of_yolo(yolo_line(0, POLYGON), names="names: [[a, b]]"), "data.yaml: .*a name must be text"),
    ("yolo", of_yolo(yolo_line(0, POLYGON), names="names: 3"), "data.yaml: the file must be YAML with `names`"),
    ("via", of_via("a.png", {"name": "polygon", "all_points_x": [1, 2, 3]}), "image a.png: a polygon lacks 'all_points_y'"),
    ("via", of_via("a.png", {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}), "image a.png: .*shorter"),
    ("via", of_via("a.png", {"name": "circle", "cx": 3, "cy": 3, "r": float("nan")}), "via.json: .*finite"),
    ("via", of_via("../a.png"), "must stay in the dataset's folder"),
]


@pytest.mark.parametrize(("tool", "make", "message"), FAULTS, ids=[f"{i}_{tool}" for i, (tool, _, _) in enumerate(FAULTS)])
def test_a_fault_is_one_line_that_says_where(tool: str, make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    assert recognise(tmp_path) == tool, "what is recognised says what is wrong with it"
    with pytest.raises(MeddiffError, match=message) as caught:
        list(map(decode, read(tool, tmp_path)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("tool", ["coco", "labelme", "cvat", "label_studio", "yolo", "via"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_export_that_is_cut_or_changed_ends_in_a_case_or_a_line(tool: str, data: st.DataObject) -> None:
    stroke, circle = region("brush", {"rle": BRUSH}), {"name": "circle", "cx": 3, "cy": 3, "r": 2}
    files = {"coco": ("coco.json", drawn([FLAT])), "labelme": ("a.json", of_labelme({"points": POLYGON})),
             "cvat": ("annotations.xml", of_cvat(cvat_mask(ring()))), "label_studio": ("project.json", of_studio(stroke)),
             "yolo": ("labels/a.txt", of_yolo(yolo_line(0, POLYGON))), "via": ("via.json", of_via("a.png", circle))}
    with tempfile.TemporaryDirectory() as folder:
        root, (name, make) = Path(folder), files[tool]
        make(root)
        content = (root / name).read_text()
        start = data.draw(st.integers(0, len(content)))
        spoiled = content[:start] + data.draw(st.sampled_from(["", "9", "-", "e5", "null", '"', "{", "[", "é", "\0"])) + \
            content[start + data.draw(st.integers(0, 3)):]
        (root / name).write_text(spoiled, encoding="utf-8")
        outcome = read_or_told(tool, root)
        assert "\n" not in outcome


def read_or_told(tool: str, root: Path) -> str:
    try:
        assert all(decode(case).mask.shape == SIZE for case in read(tool, root))
    except MeddiffError as fault:
        return str(fault)
    return ""


def test_an_export_with_a_mark_of_byte_order_is_read(tmp_path: Path) -> None:
    export = coco(tmp_path, [[FLAT]])
    (tmp_path / "coco.json").write_text("\ufeff" + json.dumps(export), encoding="utf-8")
    assert same(masks("coco", tmp_path)["0"], outlined())
