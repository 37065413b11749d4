"""Predictions of pictures of any size: masks that lie on their files, a table, and calls that go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from meddiff.cases import Case, read_image, read_mask, write_image, write_mask
from meddiff.datasets.adapters import RawCase, decode, fit_square, unfit_square
from meddiff.datasets.decoding import Decoded, as_stored, turned
from meddiff.delivery import predicting
from meddiff.delivery.predicting import Predicted, predict_files
from meddiff.delivery.predictor import Prediction, predict_images
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params, SegmentParams
from meddiff.segmentation.ensemble import Ensemble, Recipe, disagreement
from meddiff.segmentation.metrics import dice
from meddiff.segmentation.segmenter import train_segmenter
from tests.conftest import make_cases

SIZE, SHAPES = 32, [(32, 32), (77, 131), (201, 55), (60, 100)]
HERE = Params.model_validate({"compute": {"threads": 1, "device": "cpu"}})


def large(case: Case, height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """A case's image and mask, enlarged."""
    assert case.mask is not None
    image = Image.fromarray(case.image).resize((width, height), Image.Resampling.BICUBIC)
    return image, np.asarray(Image.fromarray(case.mask).resize((width, height), Image.Resampling.NEAREST))


def train(folder: Path, classes: tuple[str, ...] = ("lesion",), seeds: tuple[int, ...] = (0, 1), fit: str = "pad") -> Path:
    folder.mkdir(parents=True)
    cases = []
    for case, (height, width) in zip(make_cases(24), SHAPES * 6, strict=True):
        image, mask = large(case, height, width)
        fitted = fit_square(np.asarray(image), mask, SIZE, fit)
        cases.append(Case(case.id, fitted.image, fitted.mask))
    if len(classes) > 1:
        cases = [Case(c.id, c.image, c.mask * np.uint8(1 + i % 2)) for i, c in enumerate(cases) if c.mask is not None]
    for seed in seeds:
        train_segmenter(cases, [], SegmentParams(steps=60), seed, classes=len(classes)).save(folder / str(seed))
    Recipe("real", classes, SIZE, fit).write(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("models") / "real")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("models") / "real", ("benign", "malignant"), (0,))


def predict(model: Path, path: Path, out: Path, **more: Any) -> Predicted:
    return predict_files(Layout(path), HERE, str(model), path, out, **more)


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "predictions.csv", keep_default_na=False, na_values={"area_mm2": [""], "uncertainty": [""]})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Odd sizes, a nested folder, gray with 16 bits, a turned photograph, two of one stem, no picture, a broken one."""
    folder, cases = tmp_path / "pictures", make_cases(6, seed=5)
    (folder / "deep/er").mkdir(parents=True)
    large(cases[0], 77, 131)[0].save(folder / "wide.png")
    large(cases[1], 201, 55)[0].save(folder / "deep/er/tall.bmp")
    gray = np.asarray(large(cases[2], 90, 90)[0])[:, :, 0]
    Image.fromarray(gray.astype(np.uint16) * 16 + 100).save(folder / "deep/gray.tif")
    turned_photo(large(cases[3], 60, 100)[0], 6).save(folder / "photo.jpg", quality=95, exif=exif(6))
    large(cases[4], 40, 40)[0].save(folder / "twin.png")
    large(cases[5], 40, 40)[0].save(folder / "twin.webp", lossless=True)
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.png").write_bytes(b"not to be seen")
    return folder


def turned_photo(image: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores of what is seen as `image`."""
    return Image.fromarray(np.ascontiguousarray(as_stored(np.asarray(image), orientation)))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_masks_lie_on_their_files_whatever_these_are(model: Path, pictures: Path, tmp_path: Path) -> None:
    out, cases = tmp_path / "out", make_cases(6, seed=5)
    made = predict(model, pictures, out)
    assert (made.done, made.kept, [path.name for path in made.passed]) == (6, 0, ["notes.txt"])
    (fault,) = made.faults
    assert "broken.png: an image must be there and decode" in str(fault)
    masks = {"wide": (77, 131), "deep/er/tall": (201, 55), "deep/gray": (90, 90), "photo": (100, 60), "twin.png": (40, 40),
             "twin.webp": (40, 40)}
    assert {str(path.relative_to(out / "masks")) for path in (out / "masks").rglob("*.png")} == {f"{name}.png" for name in masks}
    for name, shape in masks.items():
        assert read_mask(out / f"masks/{name}.png").shape == shape
        assert (out / f"overlays/{name}.png").is_file()
    for i, (name, shape) in enumerate((("wide", (77, 131)), ("deep/er/tall", (201, 55)), ("deep/gray", (90, 90)))):
        assert dice(read_mask(out / f"masks/{name}.png"), large(cases[i], *shape)[1]) > 0.6, name
    stored = as_stored(large(cases[3], 60, 100)[1], 6)
    assert stored.shape == (100, 60)
    assert dice(read_mask(out / "masks/photo.png"), stored) > 0.6
    assert read_image(out / "overlays/photo.png").shape == (60, 100, 3), "as it is seen"
    rows = table(out).set_index("file")
    assert set(rows.index) == {"wide.png", "deep/er/tall.bmp", "deep/gray.tif", "photo.jpg", "twin.png", "twin.webp"}
    mask = read_mask(out / "masks/wide.png")
    assert rows.loc["wide.png", "area_px"] == mask.sum()
    assert rows.loc["wide.png", "share"] == pytest.approx(mask.mean(), abs=1e-6)
    assert rows["area_mm2"].isna().all()
    assert (rows["class"] == "lesion").all()
    assert rows["probability"].between(0.5, 1).all()
    assert rows["uncertainty"].between(0, 1).all()
    assert "seconds" not in rows


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_and_its_mask_are_turned_alike(orientation: int, model: Path, tmp_path: Path) -> None:
    """Files as a program reads them that heeds EXIF, and as one that doesn't; and back as a dataset."""
    image, truth = large(make_cases(1, seed=5)[0], 61, 97)
    file = tmp_path / "in/x.png"
    file.parent.mkdir()
    turned_photo(image, orientation).save(file, exif=exif(orientation))
    predict(model, file, tmp_path / "out")
    (plain := tmp_path / "plain").mkdir()
    image.save(plain / "x.png")
    predict(model, plain / "x.png", tmp_path / "seen")
    as_seen, mask = read_mask(tmp_path / "seen/masks/x.png"), tmp_path / "out/masks/x.png"
    assert dice(as_seen, truth) > 0.6
    assert np.array_equal(turned(read_mask(mask), orientation), as_seen)
    again = decode(RawCase("x", file, (mask,)))
    assert np.array_equal(again.image, np.asarray(image))
    assert np.array_equal(again.mask, as_seen)


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (77, 131), (20, 9)])
def test_the_square_fit_is_undone(fit: str, height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.repeat((255 * (y + x) / 2)[:, :, None], 3, axis=2).astype(np.uint8)
    fitted = fit_square(image, np.zeros((height, width), np.uint8), 32, fit)
    back = unfit_square(fitted.image[None, :, :, 0].astype(np.float32), fitted.frame, height, width)
    assert back.shape == (1, height, width)
    assert np.abs(back[0] - image[:, :, 0]).mean() < 4
    if (height, width) == (32, 32):
        assert np.array_equal(back[0], image[:, :, 0])


def test_a_second_call_goes_on(model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(model, pictures, whole)

    def kill(done: int, total: int, values: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(model, pictures, out, report=kill)
    with (out / "predictions.csv").open("a") as stream:
        stream.write("half a li")
    begun = len(table(out)) - 1
    seen, run = [], predict_images
    monkeypatch.setattr(predicting, "predict_images", lambda ensemble, cases, *rest: seen.append(
        [case.id for case in cases]) or run(ensemble, cases, *rest))
    made = predict(model, pictures, out)
    assert (made.done, made.kept, len(made.faults)) == (6 - begun, begun, 1)
    assert 0 < begun < 6
    assert len(seen[0]) == 7 - begun
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    shutil.copy(pictures / "wide.png", pictures / "broken.png")
    shutil.copy(pictures / "twin.png", pictures / "wide.png")
    (out / "masks/twin.webp.png").unlink()
    made = predict(model, pictures, out)
    assert (made.done, made.kept, made.faults) == (3, 4, ())
    assert seen[1] == ["broken", "twin.webp", "wide"]
    assert (out / "masks/wide.png").read_bytes() == (out / "masks/twin.png.png").read_bytes()
    assert len(table(out)) == 7


def test_nothing_is_overwritten_elsewhere(model: Path, several: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(MeddiffError, match="new or empty"):
        predict(model, pictures, tmp_path / "mine")
    with pytest.raises(MeddiffError, match="new or empty"):
        predict(model, pictures, pictures / "wide.png")
    predict(model, pictures / "wide.png", pictures / "out")
    for given, word in (((several, pictures / "wide.png"), "another model"), ((model, pictures / "twin.png"), "another path")):
        with pytest.raises(MeddiffError, match=word):
            predict(*given, pictures / "out")
    with pytest.raises(MeddiffError, match="another flips"):
        predict(model, pictures / "wide.png", pictures / "out", flips=True)
    assert predict(model, pictures, tmp_path / "all").done == 6, "predictions that lie below aren't predicted"


def test_outputs_inside_of_the_folder_are_no_inputs(model: Path, pictures: Path) -> None:
    assert predict(model, pictures, pictures / "out").done == 6
    assert predict(model, pictures, pictures / "out").done == 0


@pytest.mark.parametrize(("path", "words"), [("nowhere", "a picture or a folder of pictures must be there"),
                                             ("empty", "there must be a picture")])
def test_no_picture_is_told(path: str, words: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MeddiffError, match=words):
        predict(model, tmp_path / path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_arm_is_told(model: Path, pictures: Path, tmp_path: Path) -> None:
    for folder, words in ((model.parent, "Name one of its arms: real"), (pictures, "such as models/segmenters/ARM")):
        with pytest.raises(MeddiffError, match=words):
            predict(folder, pictures, tmp_path / "out")
    other = shutil.copytree(model, tmp_path / "real")
    (other / "1/model.safetensors").write_bytes(b"")
    with pytest.raises(MeddiffError, match="real/1: a trained segmenter must be there"):
        predict(other, pictures, tmp_path / "out")
    about = json.loads((other / "ensemble.json").read_text())
    (other / "ensemble.json").write_text(json.dumps(about | {"more": 1}))
    with pytest.raises(MeddiffError, match=r"ensemble\.json"):
        predict(other, pictures, tmp_path / "out")


def test_several_classes_are_indices_and_rows(several: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(several, pictures, out, flips=True)
    rows = table(out)
    assert (rows.groupby("file")["class"].apply(list).map(tuple) == ("benign", "malignant")).all()
    assert rows["uncertainty"].isna().all(), "a single seed can't disagree"
    mask = read_mask(out / "masks/wide.png")
    with Image.open(out / "masks/wide.png") as picture:
        assert picture.mode == "P"
    assert mask.any()
    assert rows[rows["file"] == "wide.png"]["area_px"].tolist() == [(mask == 1).sum(), (mask == 2).sum()]


class Slice:
    """An image that is no picture file."""

    source = Path("scan.dcm")

    def image(self) -> Decoded:
        return Decoded(np.repeat(make_cases(1, 48)[0].image[:, :30], 2, axis=0), spacing=(0.5, 0.2))


def test_other_sources_have_their_spacing(model: Path) -> None:
    ((_, made),) = predict_images(Ensemble.load(model), [RawCase("scan", Slice(), ())])
    assert isinstance(made, Prediction)
    assert made.mask.shape == (96, 30)
    (result,) = made.classes
    assert made.mask.any()
    assert result.area_mm2 == pytest.approx(0.1 * made.mask.sum())


def test_an_ensemble_is_the_mean_of_its_members(model: Path) -> None:
    ensemble, images = Ensemble.load(model), np.stack([case.image for case in make_cases(3, seed=7)])
    said, shown = ensemble.judge(images)
    assert shown.all(), "without bounds"
    assert said.shape == (2, 3, 1, SIZE, SIZE)
    for member, own in zip(ensemble.members, said, strict=True):
        assert np.array_equal(own, member.probabilities(images))
    assert np.array_equal(ensemble.segment(images), said.mean(axis=0)[:, 0] > 0.5)
    flipped = ensemble.judge(images[:, :, ::-1], flips=True)[0][..., ::-1]
    assert np.allclose(flipped, ensemble.judge(images, flips=True)[0], atol=1e-6)
    assert not np.allclose(flipped, said, atol=1e-6)


@pytest.mark.parametrize(("against", "shown"), [(0, True), (1, True), (2, False)])
def test_most_members_decide_whether_an_image_shows_a_lesion(against: int, shown: bool, model: Path, pictures: Path,
                                                             tmp_path: Path) -> None:
    """Of two members; an even split shows it."""
    other = shutil.copytree(model, tmp_path / "real")
    for seed in range(against):
        config = json.loads((other / f"{seed}/config.json").read_text())
        (other / f"{seed}/config.json").write_text(json.dumps(config | {"bounds": {"area": 0.99, "probability": 0.0}}))
    ensemble, images = Ensemble.load(other), np.stack([case.image for case in make_cases(3, seed=7)])
    findings = ensemble.findings(images)
    assert findings.masks.any((1, 2)).all()
    assert (findings.shown == shown).all()
    assert ensemble.segment(images).any() == shown
    predict(other, pictures / "wide.png", tmp_path / "out", flips=bool(against))
    assert read_mask(tmp_path / "out/masks/wide.png").any() == shown
    assert table(tmp_path / "out")["probability"][0] > 0.5


def test_disagreement_of_masks() -> None:
    one, other, none = np.eye(4, dtype=np.uint8), np.eye(4, dtype=np.uint8)[::-1], np.zeros((4, 4), np.uint8)
    assert disagreement([one, one], 1) == 0
    assert disagreement([one, other], 1) == 1
    assert disagreement([none, none], 1) == 0
    assert disagreement([one, one, none], 1) == pytest.approx(2 / 3)
    assert np.isnan(disagreement([one], 1))


def test_a_prepared_image_gives_the_mask_of_its_square(model: Path, tmp_path: Path) -> None:
    cases = make_cases(5, seed=9)
    for case in cases:
        write_image(tmp_path / f"in/{case.id}.png", case.image)
    predict(model, tmp_path / "in", tmp_path / "out")
    masks = Ensemble.load(model).segment(np.stack([case.image for case in cases]))
    for case, mask in zip(cases, masks, strict=True):
        assert np.array_equal(read_mask(tmp_path / f"out/masks/{case.id}.png"), mask)


def test_a_mask_keeps_its_orientation(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        write_mask(tmp_path / "m.png", np.eye(3, 4, dtype=np.uint8), orientation=orientation)
        with Image.open(tmp_path / "m.png") as picture:
            assert picture.getexif().get(0x0112, 1) == orientation
