"""What goes out to nnU-Net: its format, labels and splits, and no mask of a test case."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from meddiff.cases import Case, write_image, write_mask
from meddiff.cli.app import app
from meddiff.delivery.nnunet import export
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from tests.shards import put_batch, put_masks

ONE, TWO = ["lesion"], ["benign", "malignant"]


def settings(classes: list[str], **segment: object) -> Params:
    return Params.model_validate({"prepare": {"dataset": "folder", "path": "/data/my breast-set", "classes": classes},
                                  "segment": segment})


def write_split(folder: Path, cases: list[Case], classes: int, labelled: int) -> None:
    rows = []
    for i, case in enumerate(cases):
        write_image(folder / "images" / f"{case.id}.png", case.image)
        if i < labelled:
            write_mask(folder / "masks" / f"{case.id}.png", case.mask, classes)
        rows.append({"id": case.id, "group": case.group, "labelled": int(i < labelled)})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)


def project(root: Path, cases, classes: int = 1) -> Layout:
    """4 annotated training cases and 2 without, 3 for validation, 2 for the test; 6 pairs, of which the last two are rejected."""
    layout = Layout(root)

    def made(n: int, seed: int) -> list[Case]:
        return [replace(case, mask=case.mask * np.uint8(1 + i % classes)) for i, case in enumerate(cases(n, seed=seed))]

    write_split(layout.cases("train"), made(6, 1), classes, 4)
    write_split(layout.cases("val"), made(3, 2), classes, 3)
    write_split(layout.cases("test"), made(2, 3), classes, 2)
    pairs = [replace(case, id=f"s{i}") for i, case in enumerate(made(6, 4))]
    rows = [{"id": pair.id, "batch": "b0", "seed": 0, "background": "n", "area": 0.1, "guidance_scale": 1.0, "steps": 3,
             "generator": "abc"} for pair in pairs]
    put_batch(layout.synthetic / "b0", rows, [(pair.image, pair.mask) for pair in pairs], classes)
    put_masks(layout, {pair.id: pair.mask * (np.arange(32) % 2 == 0).astype(np.uint8) for pair in pairs[:4]}, classes)
    pd.DataFrame({"id": [pair.id for pair in pairs], "batch": "b0", "verdict": ["accepted"] * 4 + ["rejected"] * 2}).to_parquet(
        layout.filtered / "decisions.parquet")
    return layout


def labels(folder: Path, id: str) -> np.ndarray:
    with Image.open(folder / "labelsTr" / f"{id}.png") as picture:
        assert picture.mode == "L"
        return np.array(picture)


def described(folder: Path) -> tuple[dict, dict]:
    (split,) = json.loads((folder / "splits_final.json").read_text())
    return json.loads((folder / "dataset.json").read_text()), split


def test_the_synthetic_arm_is_written_as_nnunet_reads_it(cases, tmp_path):
    layout = project(tmp_path / "project", cases)
    made = export(layout, settings(ONE), tmp_path / "raw")
    assert made.folder == tmp_path / "raw/Dataset501_my_breast_set_synthetic"
    assert (made.real, made.added, made.validation, made.test) == (4, 4, 3, 2)
    about, split = described(made.folder)
    assert about["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert about["labels"] == {"background": 0, "lesion": 1}
    assert (about["numTraining"], about["file_ending"]) == (11, ".png")
    real, pairs, validation = (sorted(case.id for case in found) for found in (
        cases(4, seed=1), [replace(case, id=f"synthetic_s{i}") for i, case in enumerate(cases(4))], cases(3, seed=2)))
    assert sorted(split["train"]) == sorted(real + pairs)
    assert sorted(split["val"]) == validation
    written = {kind.name: sorted(path.stem for path in kind.iterdir()) for kind in made.folder.iterdir() if kind.is_dir()}
    assert set(written) == {"imagesTr", "labelsTr", "imagesTs"}
    assert written["labelsTr"] == sorted(split["train"] + split["val"])
    assert written["imagesTr"] == [f"{id}_0000" for id in written["labelsTr"]]
    assert written["imagesTs"] == [f"{case.id}_0000" for case in cases(2, seed=3)]
    for case in (*cases(4, seed=1), *cases(3, seed=2)):
        assert np.array_equal(labels(made.folder, case.id), case.mask)
        assert np.array_equal(np.array(Image.open(made.folder / "imagesTr" / f"{case.id}_0000.png")), case.image)
    corroded = cases(1, seed=4)[0].mask * (np.arange(32) % 2 == 0)
    assert np.array_equal(labels(made.folder, "synthetic_s0"), corroded)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [made.folder.name]


@pytest.mark.parametrize("arm", ["real", "synthetic", "synthetic_only"])
def test_no_mask_of_a_test_case_goes_out(cases, tmp_path, arm):
    layout = project(tmp_path / "project", cases)
    folder = export(layout, settings(ONE), tmp_path / "raw", arm).folder
    assert not (folder / "labelsTs").exists()
    hidden = {case.mask.tobytes() for case in cases(2, seed=3)}
    for path in (path for path in folder.rglob("*") if path.suffix == ".png" and path.parent.name != "imagesTs"):
        pixels = np.array(Image.open(path))
        assert pixels.tobytes() not in hidden, path
        assert pixels.tobytes() not in {case.image.tobytes() for case in cases(2, seed=3)}, path
    _, split = described(folder)
    assert not {case.id for case in cases(2, seed=3)} & {*split["train"], *split["val"]}
    shutil.rmtree(layout.cases("test") / "masks")  # they aren't even read
    assert export(layout, settings(ONE), tmp_path / "again", arm).test == 2


@pytest.mark.parametrize("classes", [ONE, TWO])
def test_test_labels_go_out_where_they_are_asked_for(cases, tmp_path, classes):
    """As nnU-Net's evaluation takes them: perfect predictions against masks of 0 and 255 would have a Dice of 0."""
    layout = project(tmp_path / "project", cases, len(classes))
    folder = export(layout, settings(classes), tmp_path / "raw", test_labels=True).folder
    assert sorted(path.name for path in (folder / "labelsTs").iterdir()) == [f"{case.id}.png" for case in cases(2, seed=3)]
    for i, case in enumerate(cases(2, seed=3)):
        with Image.open(folder / "labelsTs" / f"{case.id}.png") as picture:
            assert picture.mode == "L"
            assert np.array_equal(picture, case.mask * (1 + i % len(classes)))
    about, split = described(folder)
    assert about["numTraining"] == len(split["train"]) + len(split["val"]) == 11


def test_several_classes_keep_their_indices_and_names(cases, tmp_path):
    folder = export(project(tmp_path / "project", cases, 2), settings(TWO), tmp_path / "raw").folder
    about, split = described(folder)
    assert about["labels"] == {"background": 0, "benign": 1, "malignant": 2}
    found = {int(value) for id in split["train"] + split["val"] for value in np.unique(labels(folder, id))}
    assert found == {0, 1, 2}
    with pytest.raises(MeddiffError, match=r"its mask holds class 3, prepare\.classes names 2"):
        export(project(tmp_path / "three", cases, 3), settings(TWO), tmp_path / "raw3")
    assert not list((tmp_path / "raw3").glob("*"))


@pytest.mark.parametrize(("arm", "real", "pairs"), [("real", 4, 0), ("synthetic_only", 0, 4), ("synthetic_x0.5", 4, 2),
                                                    ("uncorroded", 4, 4), ("unfiltered", 4, 4)])
def test_arms_differ_in_their_training_pairs_alone(cases, tmp_path, arm, real, pairs):
    layout = project(tmp_path / "project", cases)
    made = export(layout, settings(ONE), tmp_path / "raw", arm, 7)
    assert (made.real, made.added, made.validation, made.test) == (real, pairs, 3, 2)
    _, split = described(made.folder)
    assert sum(id.startswith("synthetic_") for id in split["train"]) == pairs
    assert split["val"] == [case.id for case in cases(3, seed=2)]
    assert made.folder.name.startswith("Dataset007_")
    if arm == "uncorroded":
        assert np.array_equal(labels(made.folder, "synthetic_s0"), cases(1, seed=4)[0].mask)


def test_images_without_annotation_go_out_with_the_lesions_found_in_them(cases, tmp_path):
    layout = project(tmp_path / "project", cases)
    with pytest.raises(MeddiffError, match=r"backgrounds/sites: the combined arm needs training images without annotation"):
        export(layout, settings(ONE), tmp_path / "none", "combined")
    found = cases(6, seed=1)[4]
    write_mask(layout.backgrounds / "sites" / f"{found.id}_site.png", found.mask)
    pd.DataFrame({"id": ["n0", f"{found.id}_site"], "source": ["normal", f"site:{found.id}"]}).to_csv(
        layout.backgrounds / "backgrounds.csv", index=False)
    for number, (arm, added) in enumerate({"combined": 5, "self_training": 1}.items(), 8):
        made = export(layout, settings(ONE), tmp_path / "raw", arm, number)
        assert (made.real, made.added) == (4, added)
        assert np.array_equal(labels(made.folder, f"found_{found.id}"), found.mask)


def test_the_ratio_bounds_the_pairs_and_the_choice_repeats(cases, tmp_path):
    layout, params = project(tmp_path / "project", cases), settings(ONE, ratio=0.75)
    first, second = (export(layout, params, tmp_path / name) for name in ("a", "b"))
    assert first.added == 3

    def hashes(folder: Path) -> dict[str, str]:
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")}

    assert hashes(first.folder) == hashes(second.folder)


def test_what_cannot_be_exported_is_named(cases, tmp_path):
    layout, raw = project(tmp_path / "project", cases), tmp_path / "raw"
    folder = raw / "Dataset501_my_breast_set_real"
    folder.mkdir(parents=True)
    export(layout, settings(ONE), raw, "real")  # an empty folder is no harm
    before = sorted(raw.rglob("*"))
    for arm in ("real", "synthetic"):
        with pytest.raises(MeddiffError, match=r"Dataset501_my_breast_set_real: the number 501 is taken"):
            export(layout, settings(ONE), raw, arm)
    assert sorted(raw.rglob("*")) == before
    with pytest.raises(MeddiffError, match=r"arm copy_paste: nnU-Net gets one of real"):
        export(layout, settings(ONE), tmp_path / "new", "copy_paste")
    with pytest.raises(MeddiffError, match=r"`Background` a meaning of its own"):
        export(layout, settings(["Background", "lesion"]), tmp_path / "new")
    with pytest.raises(MeddiffError, match=r"cases\.csv: the place for datasets must be a folder"):
        export(layout, settings(ONE), layout.cases("test") / "cases.csv")
    pd.DataFrame({"id": ["s0"], "batch": "b0", "verdict": "rejected"}).to_parquet(layout.filtered / "decisions.parquet")
    with pytest.raises(MeddiffError, match="the synthetic arm needs at least one accepted pair"):
        export(layout, settings(ONE), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_tells_what_it_wrote_and_what_comes_next(cases, tmp_path, monkeypatch):
    layout = project(tmp_path / "project", cases)
    (layout.root / "params.yaml").write_text("prepare: {dataset: busi}\n")
    monkeypatch.chdir(layout.root)
    done = CliRunner().invoke(app, ["export", "nnunet", str(tmp_path / "raw"), "--arm", "real", "--number", "502"],
                              catch_exceptions=False)
    assert done.exit_code == 0
    assert "Dataset502_busi_real: 4 real and 0 added training pairs, 3 validation cases, 2 test images" in done.output
    assert "nnUNetv2_train 502 2d 0" in done.output
    assert "evaluate" not in done.output
    done = CliRunner().invoke(app, ["export", "nnunet", str(tmp_path / "raw"), "--number", "503", "--test-labels"],
                              catch_exceptions=False)
    assert f"nnUNetv2_evaluate_folder {tmp_path}/raw/Dataset503_busi_synthetic/labelsTs DIR" in done.output


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("classes", [ONE, TWO])
def test_nnunets_own_check_passes(cases, tmp_path, classes):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    folder = export(project(tmp_path / "project", cases, len(classes)), settings(classes), tmp_path / "raw").folder
    integrity.verify_dataset_integrity(str(folder), num_processes=1)
    spoiled = np.full((32, 32), len(classes) + 1, np.uint8)
    Image.fromarray(spoiled).save(next((folder / "labelsTr").iterdir()))
    with pytest.raises(RuntimeError, match="unexpected labels"):
        integrity.verify_dataset_integrity(str(folder), num_processes=1)
