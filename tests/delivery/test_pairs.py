"""The plain folder of accepted pairs, as other programs read it."""

import base64
import hashlib
import io
import json
from io import BytesIO
from pathlib import Path

import cv2
import highdicom
import jsonschema
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from typer.testing import CliRunner

from meddiff import segmentation
from meddiff.cases import image_png, read_mask
from meddiff.cli.app import app
from meddiff.datasets import adapters
from meddiff.delivery.pair_formats import FORMATS
from meddiff.delivery.pairs import export_pairs
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import final_mask
from meddiff.params import Params
from tests.shards import change, images_of, put_masks

IDS = ["s01", "s02", "s11", "s12"]


def grays(file: Path) -> np.ndarray:
    """A mask as OpenCV reads it unchanged: of a palette these would be colours."""
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)


def test_accepted_pairs_go_out_with_their_final_masks(layout: Layout, tmp_path: Path) -> None:
    steps: list[int] = []
    assert export_pairs(layout, Params(), tmp_path / "out", report=lambda done, total, values: steps.append(done)) == 4
    assert steps == [1, 2, 3, 4]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "croissant.json", "images", "masks", "samples.csv"]
    for kind in ("images", "masks"):
        assert sorted(path.stem for path in (out / kind).iterdir()) == IDS
    for id in IDS:
        final = read_mask(final_mask(layout.filtered, id))
        assert np.array_equal(grays(out / "masks" / f"{id}.png"), final * 255)
        assert (out / f"images/{id}.png").read_bytes() == images_of(layout)[id]
    table = pd.read_csv(out / "samples.csv", keep_default_na=False)
    assert table["id"].tolist() == IDS
    assert set(table["verdict"]) == {"accepted"}
    assert "| 255 | lesion |" in (out / "README.md").read_text()
    assert [case.id for case in adapters.read("folder", out)] == IDS


def test_labels_are_indices_for_one_class_and_for_several(layout: Layout, tmp_path: Path) -> None:
    export_pairs(layout, Params(), tmp_path / "one", labels=True)
    assert np.unique(grays(tmp_path / "one/masks/s01.png")).tolist() == [0, 1]
    assert "| 1 | lesion |" in (tmp_path / "one/README.md").read_text()
    two_classes = np.tri(32, dtype=np.uint8) + np.eye(32, dtype=np.uint8)
    put_masks(layout, dict.fromkeys(IDS, two_classes), 2)
    two = Params.model_validate({"prepare": {"classes": ["benign", "malignant"]}})
    export_pairs(layout, two, tmp_path / "two")
    assert np.array_equal(grays(tmp_path / "two/masks/s01.png"), np.tri(32) + np.eye(32))
    assert "| 1 | benign |\n| 2 | malignant |" in (tmp_path / "two/README.md").read_text()


def test_what_cannot_be_exported_is_named(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    for place in (tmp_path / "full", tmp_path / "full/a"):
        with pytest.raises(MeddiffError, match="must be new or empty"):
            export_pairs(layout, Params(), place)
    decisions = pd.read_parquet(layout.filtered / "decisions.parquet")
    decisions.assign(verdict="rejected").to_parquet(layout.filtered / "decisions.parquet")
    with pytest.raises(MeddiffError, match="there must be an accepted pair"):
        export_pairs(layout, Params(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(MeddiffError, match="dvc repro generate"):
        export_pairs(Layout(tmp_path / "new"), Params(), tmp_path / "none")


def test_the_command_says_what_it_wrote(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.params.write_text("prepare: {dataset: busi}\n")
    monkeypatch.chdir(layout.root)
    done = CliRunner().invoke(app, ["export", "folder", str(tmp_path / "out")], catch_exceptions=False)
    assert f"4 accepted pairs in {tmp_path / 'out'}: images/, masks/, samples.csv" in done.output


# ---- formats, each read by its own reader

TWO = Params.model_validate({"prepare": {"size": 32, "classes": ["benign", "malignant"]}})


def masks(layout: Layout) -> dict[str, np.ndarray]:
    """Masks that are hard to draw, in the place of the accepted pairs' final ones: by id, of 0 to 2."""
    y, x = np.mgrid[:32, :32]
    ring = ((y - 16) ** 2 + (x - 12) ** 2 < 90) & ((y - 16) ** 2 + (x - 12) ** 2 > 20)
    specks = np.zeros((32, 32), bool)
    specks[3, 4] = specks[4, 5] = specks[10, 10:20] = specks[20:25, 30:] = True
    hard = {"s01": ring + 2 * specks, "s02": ((y - 9) ** 2 / 60 + (x - 20) ** 2 / 30 < 1) * 2,
            "s11": np.random.default_rng(3).integers(0, 3, (32, 32)), "s12": np.zeros((32, 32))}
    found = {id: np.clip(mask, 0, 2).astype(np.uint8) for id, mask in hard.items()}
    put_masks(layout, found, 2)
    return found


def exported(layout: Layout, out: Path, kind: str) -> Path:
    assert export_pairs(layout, TWO, out, kind=kind) == 4
    for id in IDS:
        assert (out / f"images/{id}.png").read_bytes() == images_of(layout)[id]
    return out


def test_coco_gives_pycocotools_the_same_masks(layout: Layout, tmp_path: Path) -> None:
    expected, out = masks(layout), exported(layout, tmp_path / "out", "coco")
    coco = COCO(out / "annotations.json")
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == ["benign", "malignant"]
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == [f"images/{id}.png" for id in IDS]
    assert all(image["synthetic"] for image in images)
    for image, id in zip(images, IDS, strict=True):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for entry in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            part = coco.annToMask(entry).astype(bool)
            assert not mask[part].any()
            mask[part] = entry["category_id"]
            left, top, width, height = entry["bbox"]
            assert part.sum() == part[top:top + height, left:left + width].sum() == entry["area"]
        assert np.array_equal(mask, expected[id])


LABELME = {  # as labelme 5 documents it
    "type": "object", "required": ["version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"],
    "additionalProperties": False, "properties": {
        "version": {"type": "string"}, "flags": {"type": "object"}, "imagePath": {"type": "string"},
        "imageData": {"type": ["string", "null"]}, "imageHeight": {"type": "integer"}, "imageWidth": {"type": "integer"},
        "shapes": {"type": "array", "items": {
            "type": "object", "required": ["label", "points", "shape_type"], "additionalProperties": False, "properties": {
                "label": {"type": "string"}, "points": {"type": "array", "minItems": 2, "items": {
                    "type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}},
                "group_id": {"type": ["integer", "null"]}, "shape_type": {"enum": ["polygon", "mask"]},
                "flags": {"type": "object"}, "description": {"type": "string"}, "mask": {"type": ["string", "null"]}}}}}}


def test_labelme_fills_its_shapes_to_the_same_masks(layout: Layout, tmp_path: Path) -> None:
    """By its documented rule: a polygon with its line, or a mask between two corners that belong to it."""
    expected, out = masks(layout), exported(layout, tmp_path / "out", "labelme")
    kinds = set()
    for id in IDS:
        content = json.loads((out / f"images/{id}.json").read_text())
        jsonschema.validate(content, LABELME)
        assert content["flags"] == {"synthetic": True}
        assert (out / "images" / content["imagePath"]).is_file()
        mask = np.zeros((content["imageHeight"], content["imageWidth"]), np.uint8)
        for shape in content["shapes"]:
            kinds.add(shape["shape_type"])
            points, label = [tuple(point) for point in shape["points"]], ["benign", "malignant"].index(shape["label"]) + 1
            if shape["shape_type"] == "polygon":
                assert len(points) > 2
                drawn = Image.new("L", mask.shape[::-1])
                ImageDraw.Draw(drawn).polygon(points, outline=1, fill=1)
                mask[np.asarray(drawn) > 0] = label
            else:
                (left, top), (right, bottom) = points
                cut = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
                mask[top:bottom + 1, left:right + 1][cut > 0] = label
        assert np.array_equal(mask, expected[id]), id
    assert kinds == {"polygon", "mask"}
    assert {shape["shape_type"] for shape in json.loads((out / "images/s02.json").read_text())["shapes"]} == {"polygon"}


def test_monai_reads_its_datalist(layout: Layout, tmp_path: Path) -> None:
    expected, out = masks(layout), exported(layout, tmp_path / "out", "monai")
    items = segmentation.monai.data.load_decathlon_datalist(out / "dataset.json", True, "training")
    assert [Path(item["image"]) for item in items] == [out / f"images/{id}.png" for id in IDS]
    assert all(item["synthetic"] is True for item in items)
    for item, id in zip(items, IDS, strict=True):
        assert np.array_equal(grays(Path(item["label"])), expected[id])
    assert json.loads((out / "dataset.json").read_text())["labels"] == {"0": "background", "1": "benign", "2": "malignant"}


def test_hugging_face_reads_its_folder(layout: Layout, tmp_path: Path) -> None:
    """By its documented rule: a line an image, `file_name` and `mask_file_name` relative to the file of lines."""
    expected, out = masks(layout), exported(layout, tmp_path / "out", "imagefolder")
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"images/{id}.png" for id in IDS]
    assert all(row["synthetic"] is True for row in rows)
    assert [row["classes"] for row in rows] == [["benign", "malignant"], ["malignant"], ["benign", "malignant"], []]
    for row in rows:
        assert np.array_equal(grays(out / row["mask_file_name"]), expected[row["id"]])


@pytest.mark.parametrize("kind", ["folder", *FORMATS])
def test_croissant_says_that_they_are_synthetic(layout: Layout, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    export_pairs(layout, Params(), out, kind=kind)
    content = json.loads((out / "croissant.json").read_text())
    assert content["rai:hasSyntheticData"] is True
    assert content["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    table, *sets = content["distribution"]
    assert table["sha256"] == hashlib.sha256((out / "samples.csv").read_bytes()).hexdigest()
    assert all(list(out.glob(each["includes"])) for each in sets)
    assert {each["name"] for each in sets} == {"images", kind}


def test_mlcroissant_reads_the_records(layout: Layout, tmp_path: Path) -> None:
    reader = pytest.importorskip("mlcroissant", reason="the reference reader isn't a dependency")
    export_pairs(layout, Params(), tmp_path / "out")
    assert [row["samples/id"].decode() for row in reader.Dataset(tmp_path / "out/croissant.json").records("samples")] == IDS


def test_labels_are_for_formats_with_mask_files(layout: Layout, tmp_path: Path) -> None:
    export_pairs(layout, Params(), tmp_path / "out", labels=True, kind="imagefolder")
    assert set(np.unique(grays(tmp_path / "out/masks/s01.png"))) == {0, 1}
    with pytest.raises(MeddiffError, match="--labels: the format coco has its own values"):
        export_pairs(layout, Params(), tmp_path / "coco", labels=True, kind="coco")


# ---- the clinic's formats: out, and in again by the formats' own readers and by ours

def originals(layout: Layout) -> dict[str, np.ndarray]:
    return {id: np.array(Image.open(BytesIO(images_of(layout)[id]))) for id in IDS}


def grayed(layout: Layout) -> None:
    """Two of the images have equal channels, as ultrasound does."""
    for id in ("s01", "s11"):
        gray = np.array(Image.open(BytesIO(images_of(layout)[id])).convert("L").convert("RGB"))
        change(layout.synthetic / f"b000{id[1]}/batch.parquet", id, image=image_png(gray))


def in_again(dataset: str, out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image and mask by the name of the file, as `prepare` reads them."""
    cases = adapters.read(dataset, out, TWO.prepare.classes)
    assert {case.file.name.partition(".")[0] for case in cases if case.file} == set(IDS)
    read = {case.file.name.partition(".")[0]: adapters.decode(case) for case in cases if case.file}
    return {id: (original.image, original.mask) for id, original in read.items()}


def test_dicom_comes_back_pixel_for_pixel(layout: Layout, tmp_path: Path) -> None:
    grayed(layout)
    (layout.backgrounds / "images").mkdir(parents=True)
    (layout.backgrounds / "backgrounds.csv").write_text("id,source,group,method,sha256\nn1,removed:c1,Roentgen Qzx,texture,x\n")
    expected, images = masks(layout), originals(layout)
    out = tmp_path / "out"
    assert export_pairs(layout, TWO, out, kind="dicom", uid_root="1.2.840.99999.7") == 4
    uids = set()
    for id in IDS:
        made, seg = pydicom.dcmread(out / f"images/{id}.dcm"), highdicom.seg.segread(out / f"masks/{id}.dcm")
        image = made.pixel_array
        assert np.array_equal(image if image.ndim == 3 else np.repeat(image[..., None], 3, 2), images[id])
        assert (made.PhotometricInterpretation == "MONOCHROME2") == (id in ("s01", "s11"))
        assert np.array_equal(seg.get_pixels_by_source_instance([made.SOPInstanceUID])[0],
                              np.stack([expected[id] == 1, expected[id] == 2], -1))
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["benign", "malignant"]
        assert (made.SyntheticData, seg.SyntheticData, made.ConversionType) == ("YES", "YES", "SYN")
        assert list(made.ImageType) == ["DERIVED", "SECONDARY"]
        purposes = [item.PurposeOfReferenceCodeSequence[0].CodeMeaning for item in made.ContributingEquipmentSequence]
        assert "Synthesizing Equipment" in purposes
        assert made.PatientID == seg.PatientID == "SYNTHETIC-0001"  # all were painted into one patient's images
        assert (made.StudyInstanceUID, seg.SeriesDescription) == (seg.StudyInstanceUID, "meddiff: synthetic mask")
        own = {made.SOPInstanceUID, made.SeriesInstanceUID, made.StudyInstanceUID, seg.SOPInstanceUID, seg.SeriesInstanceUID}
        assert all(uid.startswith("1.2.840.99999.7.") and uid.is_valid for uid in own)
        uids |= own
        assert "Roentgen" not in str(made) + str(seg)
        assert "Qzx" not in str(made) + str(seg)  # letters: the digits of new UIDs are drawn by chance
    assert len(uids) == 4 + 4 + 4 + 2  # instances, series of segmentations, and the images' study and series
    for id, (image, mask) in in_again("dicom", out).items():
        assert np.array_equal(image, images[id])
        assert np.array_equal(mask, expected[id])
    assert {case.group for case in adapters.read("dicom", out, TWO.prepare.classes)} != {""}
    assert adapters.recognise(out) == "dicom"


@pytest.mark.parametrize(("root", "kind", "message"), [
    ("1.2.x", "dicom", "must be a UID root"), ("1..2", "dicom", "must be a UID root"), ("1.2", "coco", "coco has no UIDs")])
def test_a_wrong_uid_root_is_refused(layout: Layout, tmp_path: Path, root: str, kind: str, message: str) -> None:
    with pytest.raises(MeddiffError, match=message):
        export_pairs(layout, TWO, tmp_path / "out", kind=kind, uid_root=root)
    assert not (tmp_path / "out").exists()


def test_nifti_comes_back_voxel_for_voxel(layout: Layout, tmp_path: Path) -> None:
    grayed(layout)
    expected, images, out = masks(layout), originals(layout), tmp_path / "out"
    assert export_pairs(layout, TWO, out, kind="nifti") == 4
    for id in IDS:
        image, mask = nibabel.load(out / f"images/{id}.nii.gz"), nibabel.load(out / f"masks/{id}.nii.gz")
        assert np.array_equal(np.asarray(mask.dataobj), expected[id].T[..., None])
        assert mask.get_data_dtype() == np.uint8
        values, gray = np.asarray(image.dataobj)[..., 0].T, id in ("s01", "s11")
        assert np.array_equal(values if gray else np.stack([values[channel] for channel in "RGB"], -1),
                              images[id][..., 0] if gray else images[id])
        for each in (image, mask):
            assert np.allclose(each.affine, np.diag([-1, -1, 1, 1]))
            assert nibabel.aff2axcodes(each.affine) == ("L", "P", "S")
            assert each.header.get_xyzt_units()[0] == "mm"
            assert b"synthetic" in each.header["descrip"].item()
    for id, (image, mask) in in_again("volumes", out).items():
        assert np.array_equal(image, images[id])
        assert np.array_equal(mask, expected[id])
    assert adapters.recognise(out) == "volumes"
