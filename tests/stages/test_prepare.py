"""Stage `prepare`: what it writes, that a bad dataset leaves earlier outputs alone, and the real datasets."""

import csv
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import label, zoom

from meddiff.cases import CLASS_COLOURS, Frame, read_image, sha256
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.splits import near_duplicates, thumbnail
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.tables import LEFT_OUT, SIMILAR
from meddiff.params import Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages.prepare import run
from tests.conftest import SHARED_DATA
from tests.datasets import exporting

PARTS = ("train", "val", "test")


class Seen(Unrecorded):
    """Keeps what the stage tells."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.tables: dict[str, pd.DataFrame] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.counts |= values

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None:
        self.tables[name] = frame


def prepare(root: Path, **settings: Any) -> Seen:
    seen = Seen()
    small = {"size": 32, "n_labelled": 8, "demo_cases": 24, "demo_normal": 8}
    run(Layout(root), Params.model_validate({"prepare": small | settings, "compute": {"threads": 2}}), seen)
    return seen


def rows(root: Path, part: str) -> list[dict[str, str]]:
    folder = Layout(root).normal if part == "normal" else Layout(root).cases(part)
    with (folder / ("backgrounds.csv" if part == "normal" else "cases.csv")).open(newline="") as lines:
        return list(csv.DictReader(lines))


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256(path) for path in sorted((root / "data").rglob("*")) if path.is_file()}


def raw_folder(root: Path, n: int = 24, normal: int = 0, size: int = 48) -> Path:
    """A dataset of layout `folder`, from phantoms."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for case in make_phantoms(n, True, size, "mixed", 5):
        assert case.mask is not None
        Image.fromarray(case.image).save(root / f"images/{case.id}.png")
        Image.fromarray(case.mask * 255).save(root / f"masks/{case.id}.png")
    for case in make_phantoms(normal, False, size, "mixed", 5):
        (root / "normal").mkdir(exist_ok=True)
        Image.fromarray(case.image).save(root / f"normal/{case.id}.png")
    return root


def test_demo_gives_every_promised_file(tmp_path: Path) -> None:
    seen = prepare(tmp_path)
    layout = Layout(tmp_path)
    split = json.loads(layout.split.read_text())
    for part in PARTS:
        table = rows(tmp_path, part)
        assert [row["id"] for row in table] == split[part]
        for row in table:
            image, mask = layout.cases(part) / f"images/{row['id']}.png", layout.cases(part) / f"masks/{row['id']}.png"
            assert row["image_sha256"] == sha256(image)
            assert mask.is_file() == (row["labelled"] == "1")
            assert row["mask_sha256"] == (sha256(mask) if mask.is_file() else "")
        assert seen.counts[part] == len(table) == len(seen.tables[part])
    assert sum(row["labelled"] == "1" for row in rows(tmp_path, "train")) == 8 == len(read_cases(layout.cases("train")))
    assert all(row["labelled"] == "1" for part in ("val", "test") for row in rows(tmp_path, part))
    normal = rows(tmp_path, "normal")
    assert len(normal) == 8
    assert {row["source"] for row in normal} == {"normal"}
    assert all(row["sha256"] == sha256(layout.normal / f"images/{row['id']}.png") for row in normal)
    assert not list(layout.work.iterdir())


def test_no_group_and_no_near_duplicate_crosses(tmp_path: Path) -> None:
    prepare(tmp_path, demo_cases=60)
    groups = {part: {row["group"] for row in rows(tmp_path, part)} for part in PARTS}
    assert not groups["train"] & groups["val"]
    assert not (groups["train"] | groups["val"]) & groups["test"]
    ids = [(part, path) for part in PARTS for path in sorted((tmp_path / "data" / part / "images").iterdir())]
    pairs = near_duplicates(np.stack([thumbnail(read_image(path)) for _, path in ids]), 4)
    assert all(ids[i][0] == ids[j][0] for i, j in pairs)


def test_same_settings_same_bytes(tmp_path: Path) -> None:
    prepare(tmp_path / "a")
    prepare(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_what_is_left_out_or_merged_is_listed_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_folder(tmp_path / "raw", normal=4)
    images = sorted((raw / "images").iterdir())
    shutil.copy(images[0], raw / "images/zz_copy.png")
    shutil.copy(raw / f"masks/{images[0].name}", raw / "masks/zz_copy.png")
    dot = np.zeros((400, 400), np.uint8)
    dot[0, 1] = 255   # between the rows that a mask at 32 px is made of
    Image.fromarray(dot).save(raw / "masks/tiny.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)).save(raw / "images/tiny.png")
    (raw / "unlabelled").mkdir()
    (raw / "unlabelled/scan.dcm").write_bytes(b"DICM")
    seen = prepare(tmp_path, dataset="folder", path="raw")
    left = LEFT_OUT.rows(tmp_path / "data")
    assert [(row.id, row.what) for row in left] == [("tiny", "case"), ("unlabelled/scan.dcm", "file")]
    similar = SIMILAR.rows(tmp_path / "data")
    (copy,) = [row for row in similar if (row.first, row.second) == (images[0].stem, "zz_copy")]
    assert (copy.kind, copy.correlation) == ("near-duplicate", 1.0)
    groups = {row["id"]: row["group"] for part in (*PARTS, "normal") for row in rows(tmp_path, part)}
    assert copy.group == groups["zz_copy"] == groups[images[0].stem]
    assert seen.counts["near_duplicate_pairs"] == sum(row.kind == "near-duplicate" for row in similar)
    assert seen.counts["without_patient"] == 30
    told = capsys.readouterr().err
    assert "1 file isn't read (unlabelled/scan.dcm): DICOM is read from a folder of its own, by --dataset dicom" in told
    assert re.search(r"near-duplicates: \d+ pairs \(\d+ images\), merged into groups: \d+; see data/near_duplicates.csv", told)
    assert "WARNING: the patients of 29 images aren't known, each counts as one" in told
    assert {row["patient"] for part in PARTS for row in rows(tmp_path, part)} == {""}


def test_a_turned_and_cropped_copy_is_kept_with_its_image(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    first = sorted((raw / "images").iterdir())[0]
    for kind in ("images", "masks"):
        turned = Image.open(raw / kind / first.name).rotate(25)
        width, height = turned.size
        turned.crop((width // 10, 0, width, height - height // 20)).save(raw / f"{kind}/zz_copy.png")
    prepare(tmp_path, dataset="folder", path="raw", size=64)
    (copy,) = [row for row in SIMILAR.rows(tmp_path / "data") if row.second == "zz_copy"]
    assert (copy.first, copy.kind) == (first.stem, "near-duplicate")
    assert len({row["group"] for part in PARTS for row in rows(tmp_path, part) if row["id"] in (first.stem, "zz_copy")}) == 1


def test_known_patients_are_kept_and_need_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_folder(tmp_path / "raw", normal=4)
    prepare(tmp_path, dataset="folder", path="raw", group_pattern=r"(.+)\d$")
    assert "WARNING" not in capsys.readouterr().err
    table = [row for part in (*PARTS, "normal") for row in rows(tmp_path, part)]
    assert all(row["patient"] == row["id"][:-1] for row in table)
    sides = {}
    for part in PARTS:
        for row in rows(tmp_path, part):
            assert sides.setdefault(row["patient"], part) == part


def test_frames_of_a_video_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture that moves on and flickers, by more than makes near-duplicates."""
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for v in range(8):
        wide = np.random.default_rng(v).normal(size=(12, 30))
        scene, flicker = 128 + 40 * zoom(wide, 8, order=3), np.random.default_rng(v)
        for f in range(12):
            frame = np.clip(scene[:96, 4 * f:4 * f + 96] + flicker.normal(0, 40, (96, 96)), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / f"raw/images/{v * 12 + f:03d}.png")
            mask = np.zeros((96, 96), np.uint8)
            mask[30:60, 30:60] = 255
            Image.fromarray(mask).save(tmp_path / f"raw/masks/{v * 12 + f:03d}.png")
    prepare(tmp_path, dataset="folder", path="raw")
    part = {int(row["id"]): name for name in PARTS for row in rows(tmp_path, name)}
    assert all(part[i] == part[i + 1] for i in range(95) if (i + 1) % 12)
    told = capsys.readouterr().err
    assert "frames of a video, alike and in a row by name" in told
    assert "images resemble the next by name" in told


def test_default_demo_is_as_large_as_promised(tmp_path: Path) -> None:
    seen = Seen()
    run(Layout(tmp_path), Params(), seen)
    assert seen.counts["labelled"] == 10
    assert seen.counts["train"] >= 200 + seen.counts["labelled"]
    assert seen.counts["backgrounds_normal"] >= 30
    assert seen.counts["labelled_groups"] == 10
    assert seen.counts["val_lesion_free"] >= 5
    assert seen.counts["test"] >= 100 + seen.counts["test_lesion_free"]
    assert seen.counts["test_lesion_free"] >= 12


def test_too_many_labelled_takes_all_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = prepare(tmp_path, n_labelled=500)
    assert seen.counts["labelled"] == seen.counts["train"]
    assert "`prepare.n_labelled` is 500" in capsys.readouterr().err


def test_without_lesion_free_images_the_table_is_empty(tmp_path: Path) -> None:
    raw_folder(tmp_path / "raw")
    seen = prepare(tmp_path, dataset="folder", path="raw")
    assert rows(tmp_path, "normal") == []
    assert seen.counts["backgrounds_normal"] == 0


def test_duplicates_of_the_given_test_are_dropped_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_folder(tmp_path / "raw", normal=10)
    ids = sorted(path.stem for path in (raw / "images").iterdir())
    split = {"train": ids[:12], "val": ids[12:18], "test": ids[18:]}
    (raw / "split.json").write_text(json.dumps(split))
    copied = np.clip(read_image(raw / f"images/{ids[20]}.png").astype(int) + 9, 0, 255).astype(np.uint8)
    Image.fromarray(copied).save(raw / f"images/{ids[3]}.png")
    Image.fromarray(copied).save(raw / "normal/copy.png")
    seen = prepare(tmp_path, dataset="folder", path="raw")
    assert seen.counts["left_out_duplicates"] == seen.counts["left_out_lesion_free"] == 1
    made = json.loads(Layout(tmp_path).split.read_text())
    lesion_free = {path.stem for path in (raw / "normal").iterdir()}
    assert {part: [id for id in made[part] if id not in lesion_free] for part in PARTS} == split | {
        "train": [id for id in split["train"] if id != ids[3]]}
    assert "copy" not in made["test"]
    assert "1 cases left out: near-duplicates" in capsys.readouterr().err
    assert "copy" not in {row["id"] for row in rows(tmp_path, "normal")}


def test_empty_masks_say_nothing_and_specks_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_folder(tmp_path / "raw", normal=10)
    empty, speck = sorted(path.stem for path in (raw / "masks").iterdir())[:2]
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(raw / f"masks/{empty}.png")
    pixel = np.zeros((48, 48), np.uint8)
    pixel[4, 4] = 255   # between the pixels that nearest interpolation takes
    Image.fromarray(pixel).save(raw / f"masks/{speck}.png")
    (raw / "groups.json").write_text(json.dumps({path.stem: path.stem for path in (raw / "images").iterdir()}))
    seen = prepare(tmp_path, dataset="folder", path="raw")
    assert (seen.counts["empty_masks"], seen.counts["left_out_vanished"], seen.counts["unannotated"]) == (1, 1, 1)
    assert f"warning: empty: 1 mask ({empty}); their images count as not annotated" in capsys.readouterr().err
    assert [row["labelled"] for row in rows(tmp_path, "train") if row["id"] == empty] == ["0"]
    assert empty not in {row["id"] for row in rows(tmp_path, "normal")}

    seen = prepare(tmp_path, dataset="folder", path="raw", empty_masks="lesion_free")
    assert (seen.counts["empty_masks"], seen.counts["left_out_vanished"], seen.counts["unannotated"]) == (1, 1, 0)
    assert "their images count as lesion-free" in capsys.readouterr().err
    everywhere = {row["id"] for part in PARTS for row in rows(tmp_path, part)}
    assert speck not in everywhere
    assert empty in {row["id"] for part in ("val", "test", "normal") for row in rows(tmp_path, part)}
    assert empty not in {row["id"] for row in rows(tmp_path, "train")}


def test_an_empty_mask_of_a_given_test_part_brings_no_image_into_training(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    ids = sorted(path.stem for path in (raw / "masks").iterdir())
    (raw / "split.json").write_text(json.dumps({"train": ids[:12], "val": ids[12:18], "test": ids[18:]}))
    for id in (ids[0], ids[20]):
        Image.fromarray(np.zeros((48, 48), np.uint8)).save(raw / f"masks/{id}.png")
    prepare(tmp_path, dataset="folder", path="raw")
    assert ids[0] in {row["id"] for row in rows(tmp_path, "train")}
    assert ids[20] not in {row["id"] for part in (*PARTS, "normal") for row in rows(tmp_path, part)}


def test_outlines_are_left_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_folder(tmp_path / "raw", normal=10)
    prepare(tmp_path, dataset="folder", path="raw")
    told = capsys.readouterr().err
    assert "masks cover" in told
    assert f"outlines to look at, by area: {Layout(tmp_path).outlines}" in told
    sheet = read_image(Layout(tmp_path).outlines)
    assert sheet.shape == (4 * 32, 6 * 32, 3)          # 24 masks
    assert all((tile == CLASS_COLOURS[0]).all(axis=2).any() for row in np.split(sheet, 4) for tile in np.split(row, 6, axis=1))


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    ids = sorted(path.stem for path in (raw / "images").iterdir())
    for id in ids[:6]:
        spoil_gray(raw, id)
    spoil_corrupt(raw, ids[9])
    with pytest.raises(MeddiffError) as caught:
        prepare(tmp_path, dataset="folder", path="raw")
    assert str(caught.value).startswith(f"{raw}/masks/{ids[0]}.png: a mask holds only")
    assert f"likewise {ids[1]}.png, {ids[2]}.png, {ids[3]}.png and 2 more. Save it" in str(caught.value)
    assert f"{raw}/images/{ids[9]}.jpg: an image must be there and decode" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_class_has_one_colour(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    for path in sorted((raw / "masks").iterdir())[:2]:
        Image.fromarray((np.array(Image.open(path)) > 0)[:, :, None] * np.array([255, 0, 0], np.uint8)).save(path)
    with pytest.raises(MeddiffError, match=r"prepare\.classes: .*one colour, not 2: #ff0000 in 2, such as .*; white in 22"):
        prepare(tmp_path, dataset="folder", path="raw")


def test_images_without_annotation_are_training_cases_that_no_mask_belongs_to(tmp_path: Path,
                                                                              capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_folder(tmp_path / "raw", normal=10)
    prepare(tmp_path, dataset="folder", path="raw", n_labelled=100)
    before = {part: [row["id"] for row in rows(tmp_path, part)] for part in (*PARTS, "normal")}
    (raw / "unlabelled").mkdir()
    for case in make_phantoms(5, True, 48, "ultrasound", 7):
        Image.fromarray(case.image).save(raw / f"unlabelled/new_{case.id}.png")
    for part in ("val", "test"):
        image = read_image(raw / f"images/{before[part][0]}.png").astype(int)
        Image.fromarray(np.clip(image + 9, 0, 255).astype(np.uint8)).save(raw / f"unlabelled/copy_{part}.png")
    seen = prepare(tmp_path, dataset="folder", path="raw", n_labelled=100)
    table = rows(tmp_path, "train")
    new = [row["id"] for row in table if row["id"] not in before["train"]]
    assert len(new) == 5
    assert all(id.startswith("new_") for id in new)
    assert {part: [row["id"] for row in rows(tmp_path, part)] for part in ("val", "test", "normal")} | {
        "train": [row["id"] for row in table if row["id"] not in new]} == before
    assert all(row["labelled"] == str(int(row["id"] not in new)) for row in table)
    assert not {path.stem for path in (Layout(tmp_path).cases("train") / "masks").iterdir()} & set(new)
    counts = ("unannotated", "left_out_unannotated", "empty_masks", "labelled")
    assert [seen.counts[name] for name in counts] == [5, 2, 0, len(before["train"])]
    told = capsys.readouterr().err
    assert "5 of the training cases have no annotation at all" in told
    assert f"there are {len(before['train'])} annotated training cases" in told


def test_ddti_images_without_annotation_are_no_cases_to_learn_masks_from(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    square = json.dumps([{"points": [{"x": x, "y": y} for x, y in ((8, 8), (20, 8), (20, 20), (8, 20))]}])
    for i, case in enumerate(make_phantoms(14, True, 48, "ultrasound", 0)):
        Image.fromarray(case.image).save(tmp_path / f"raw/{i}_1.jpg", quality=95)
        svg = square if i < 12 else ""
        (tmp_path / f"raw/{i}.xml").write_text(f"<case><mark><image>1</image><svg>{svg}</svg></mark></case>")
    seen = prepare(tmp_path, dataset="ddti", path="raw", n_labelled=20)
    assert (seen.counts["unannotated"], seen.counts["left_out_unannotated"]) == (2, 0)
    assert sum(seen.counts[part] for part in PARTS) == 14
    assert [row["id"] for row in rows(tmp_path, "train") if row["labelled"] == "0" and row["mask_sha256"] == ""] == [
        "ddti_12_1", "ddti_13_1"]


def spoil_gray(raw: Path, name: str) -> None:
    Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)).save(raw / f"masks/{name}.png")


def spoil_size(raw: Path, name: str) -> None:
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(raw / f"masks/{name}.png")


def spoil_corrupt(raw: Path, name: str) -> None:
    picture = Image.open(raw / f"images/{name}.png")
    picture.save(raw / f"images/{name}.jpg")
    (raw / f"images/{name}.png").unlink()
    (raw / f"images/{name}.jpg").write_bytes((raw / f"images/{name}.jpg").read_bytes()[:300])


def spoil_all_empty(raw: Path, name: str) -> None:
    for path in (raw / "masks").iterdir():
        Image.fromarray(np.zeros((48, 48), np.uint8)).save(path)


def spoil_pairing(raw: Path, name: str) -> None:
    (raw / f"images/{name}.png").unlink()


def spoil_groups(raw: Path, name: str) -> None:
    ids = sorted(path.stem for path in (raw / "images").iterdir())
    (raw / "groups.json").write_text(json.dumps(dict.fromkeys(ids, "one")))
    (raw / "split.json").write_text(json.dumps({"train": ids[2:], "val": ids[:1], "test": ids[1:2]}))


@pytest.mark.parametrize(("spoil", "message"), [
    (spoil_gray, r"masks/{}\.png: a mask holds only"), (spoil_size, r"masks/{}\.png: a mask has its image's size"),
    (spoil_corrupt, r"images/{}\.jpg: an image must be there and decode"), (spoil_all_empty, "one mask at least"),
    (spoil_pairing, r"masks/{}\.png: a mask must have its image"), (spoil_groups, r"split\.json: a group must not be parted"),
])
def test_a_bad_dataset_is_named_and_leaves_earlier_outputs(spoil: Any, message: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    before = files(tmp_path)
    raw = raw_folder(tmp_path / "raw")
    name = sorted(path.stem for path in (raw / "images").iterdir())[-1]     # the last one: all others were fine
    spoil(raw, name)
    with pytest.raises(MeddiffError, match=message.format(name)):
        prepare(tmp_path, dataset="folder", path="raw")
    assert files(tmp_path) == before
    assert not list(Layout(tmp_path).work.iterdir())


def test_path_is_relative_to_the_project(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"nowhere: the folder"):
        prepare(tmp_path, dataset="busi", path="nowhere")


def wide_folder(root: Path, n: int = 20, deep: bool = False) -> Path:
    """Gray images of 200 × 120 pixels with up to two lesions of two classes, in one channel of 8 or 16 bits."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for case in make_phantoms(n, True, 200, "ultrasound", 7, 2, 2):
        assert case.mask is not None
        gray = case.image[40:160, :, 0]
        Image.fromarray(gray.astype(np.uint16) * 16 + 100 if deep else gray).save(root / f"images/{case.id}.png")
        Image.fromarray(case.mask[40:160]).save(root / f"masks/{case.id}.png")
    return root


CLASSES = ["benign", "malignant"]


@pytest.mark.parametrize("deep", [False, True])
def test_wide_gray_images_with_lesions_of_two_classes(tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]) -> None:
    wide_folder(tmp_path / "raw", deep=deep)
    seen = prepare(tmp_path, dataset="folder", path="raw", classes=CLASSES, size=64)
    for part in PARTS:
        cases = read_cases(Layout(tmp_path).cases(part))
        for case in cases:
            assert case.frame == Frame(13, 0, 38, 64)               # 64 · 120 / 200 rows
            bars = ~case.frame.mask(64)
            assert case.mask is not None
            assert not case.image[bars].any()
            assert not case.mask[bars].any()
            assert (case.image == case.image[:, :, :1]).all()
            assert case.image.max() > 120
            with Image.open(Layout(tmp_path).cases(part) / f"masks/{case.id}.png") as written:
                assert written.mode == "P"
        found = [set(np.unique(case.mask).tolist()) for case in cases]
        assert {1, 2} <= set().union(*found)
    assert {row["mode"] for row in rows(tmp_path, "train")} == {"I;16" if deep else "L"}
    told = capsys.readouterr().err
    assert "20 images have one channel" in told
    assert ("20 images have more than 8 bits" in told) == deep
    assert sum(seen.counts[f"{part}_{name}"] for part in PARTS for name in CLASSES) == 20
    assert f"malignant: {seen.counts['train_malignant']} train, {seen.counts['labelled_malignant']} labelled" in told


def test_the_demo_has_two_classes_and_several_lesions(tmp_path: Path) -> None:
    seen = prepare(tmp_path, classes=CLASSES, demo_lesions=3, size=64)
    assert seen.counts["labelled_benign"] > 1
    assert seen.counts["labelled_malignant"] > 1
    masks = [case.mask for part in PARTS for case in read_cases(Layout(tmp_path).cases(part))]
    assert max(int(label(mask)[1]) for mask in masks) == 3
    with pytest.raises(MeddiffError, match="one or two classes, not of 3"):
        prepare(tmp_path, classes=[*CLASSES, "other"])


def test_a_class_without_a_labelled_case_is_named(tmp_path: Path) -> None:
    raw_folder(tmp_path / "raw")
    for path in (tmp_path / "raw/masks").iterdir():
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(path)
    with pytest.raises(MeddiffError, match="every class must have a labelled training case, `malignant` has none"):
        prepare(tmp_path, dataset="folder", path="raw", classes=CLASSES)


def test_one_class_is_written_as_before(tmp_path: Path) -> None:
    prepare(tmp_path)
    with Image.open(next((Layout(tmp_path).cases("test") / "masks").iterdir())) as picture:
        assert picture.mode == "L"
        assert set(np.unique(np.array(picture)).tolist()) == {0, 255}


def test_lesion_free_cases_have_an_empty_mask_and_no_relative_elsewhere(tmp_path: Path) -> None:
    raw_folder(tmp_path / "raw", 24, 40)
    seen = prepare(tmp_path, dataset="folder", path="raw", classes=["lesion"])
    free = {part: [case for case in read_cases(Layout(tmp_path).cases(part)) if case.mask is not None and not case.mask.any()]
            for part in ("val", "test")}
    assert all(len(cases) == seen.counts[f"{part}_lesion_free"] > 3 for part, cases in free.items())
    table = {row["id"]: row for part in free for row in rows(tmp_path, part)}
    backgrounds, cases = rows(tmp_path, "normal"), [*free["val"], *free["test"]]
    assert len(cases) + len(backgrounds) + seen.counts["left_out_lesion_free"] == 40
    assert {case.group for case in free["val"]}.isdisjoint(case.group for case in free["test"])
    for case in cases:
        assert table[case.id]["labelled"] == "1"
        assert table[case.id]["mask_sha256"]
        assert table[case.id]["raw_sha256"] == sha256(tmp_path / f"raw/normal/{case.id}.png")
    assert {case.group for case in cases}.isdisjoint(row["group"] for row in backgrounds)
    assert not [case.id for case in read_cases(Layout(tmp_path).cases("train")) if case.mask is None or not case.mask.any()]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "cases", "normal"), [("busi", 646, 130), ("isic2017", 2150, 0)])
def test_real_datasets(name: str, cases: int, normal: int, tmp_path: Path) -> None:
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"the {name} folder isn't here")
    seen = prepare(tmp_path, dataset="folder", path=str(SHARED_DATA / name), size=64, n_labelled=30)
    given = json.loads((SHARED_DATA / name / "split.json").read_text())
    made = json.loads(Layout(tmp_path).split.read_text())
    assert set(given["test"]) <= set(made["test"])
    assert len(made["test"]) == len(given["test"]) + seen.counts["test_lesion_free"]
    held = seen.counts["test_lesion_free"] + seen.counts["val_lesion_free"]
    assert sum(len(ids) for ids in made.values()) + seen.counts["left_out_duplicates"] == cases + held
    share = 0.033 if name == "busi" else 0.02  # BUSI holds turned and cropped copies
    assert seen.counts["left_out_duplicates"] < share * cases
    assert seen.counts["backgrounds_normal"] + seen.counts["left_out_lesion_free"] + held == normal


def twelve(tool: str, root: Path) -> None:
    """An export of twelve images of 32 by 32, each with a rectangle of its own."""
    size = {"imageHeight": 32, "imageWidth": 32}
    shown = {"original_height": 32, "original_width": 32}
    corners = [[(2 + i, 3 + i), (14 + i, 3 + i), (14 + i, 12 + i), (2 + i, 12 + i)] for i in range(12)]
    generator, images = np.random.default_rng(0), root / "images"
    images.mkdir(parents=True)
    for i in range(12):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(images / f"{i}.png")
    flat = [[[value for corner in points for value in corner]] for points in corners]
    columns, rows = ([[corner[axis] for corner in points] for points in corners] for axis in (0, 1))
    written: dict[str, dict[str, object]] = {
        "coco": {"coco.json": {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(12)],
            "categories": [{"id": 4, "name": "polyp"}],
            "annotations": [{"id": i, "image_id": i, "category_id": 4, "segmentation": flat[i]} for i in range(12)]}},
        "labelme": {f"images/{i}.json": exporting.labelme(f"{i}.png", [{"points": corners[i]}], **size) for i in range(12)},
        "yolo": {f"labels/{i}.txt": " ".join(["0", *(str(value / 32) for value in flat[i][0])]) for i in range(12)},
        "cvat": {"annotations.xml": exporting.cvat([
            (f"{i}.png", f'<polygon label="polyp" points="{";".join(f"{x},{y}" for x, y in corners[i])}"></polygon>')
            for i in range(12)]).replace('width="30" height="20"', 'width="32" height="32"')},
        "label_studio": {"project.json": [exporting.task(i, f"{i}.png", [exporting.region("polygon", {
            "points": [[x / 0.32, y / 0.32] for x, y in corners[i]]}, **shown)]) for i in range(12)]},
        "via": {"via.json": {str(i): {"filename": f"{i}.png", "regions": [{"shape_attributes": {
            "name": "polygon", "all_points_x": columns[i], "all_points_y": rows[i]}}]} for i in range(12)}}}
    for name, content in written[tool].items():
        exporting.save(root / name, content)


@pytest.mark.parametrize("tool", ["coco", "labelme", "cvat", "label_studio", "yolo", "via"])
def test_an_export_is_prepared_to_the_same_masks(tool: str, tmp_path: Path) -> None:
    twelve(tool, tmp_path / "raw")
    seen = prepare(tmp_path, dataset=tool, path="raw", n_labelled=12, duplicate_bits=0)
    assert (seen.counts["images"], seen.counts["empty_masks"]) == (12, 0)
    made = {case.id: case.mask for part in PARTS for case in read_cases(Layout(tmp_path).cases(part))}
    assert set(made) == {str(i) for i in range(12)}
    for i in range(12):
        inside = np.zeros((32, 32), np.uint8)
        inside[3 + i:13 + i, 2 + i:15 + i] = 1
        assert np.array_equal(made[str(i)], inside), i
