"""Folders that hold files of several kinds: what the page says to do with them is run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from meddiff.datasets.adapters import decode, read, recognise
from meddiff.errors import MeddiffError
from tests.datasets.clinical import image, stack

PAGE = Path(__file__).parents[2] / "docs/how-to/prepare-a-dataset.md"
RECIPES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text().partition("## Kinds beside each other")[2], re.M | re.S)
H, W = 20, 27
GRAY = np.random.default_rng(0).integers(0, 256, (3, H, W), np.uint8)
M = np.zeros((H, W), np.uint8)
M[3:9, 4:15] = 1


def test_the_recipe_makes_pictures_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mixed = tmp_path / "mixed"
    for kind in ("images", "masks"):
        (mixed / kind).mkdir(parents=True)
    Image.fromarray(GRAY[0]).save(mixed / "images/a.png")
    image(mixed / "images/b.dcm", 255 - GRAY[1], PhotometricInterpretation="MONOCHROME1")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(GRAY[2]), str(mixed / "images/c.nii.gz"))
    for name in "ab":
        Image.fromarray(M * np.uint8(255)).save(mixed / f"masks/{name}.png")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(M), str(mixed / "masks/c.nii.gz"))
    with pytest.raises(MeddiffError, match="kinds-beside-each-other has a recipe"):
        recognise(mixed)
    exec(RECIPES[0], {})
    assert recognise(tmp_path / "pictures") == "folder"
    cases = read("folder", tmp_path / "pictures")
    assert [case.id for case in cases] == ["a", "b", "c"]
    for case, levels in zip(map(decode, cases), GRAY, strict=True):
        assert (case.image == levels[:, :, None]).all()
        assert (case.mask == M).all()


def test_the_recipe_makes_a_volume_of_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(1).integers(0, 3000, (5, H, W)).astype(np.int16)
    for folder in ("series", "images", "masks"):
        (tmp_path / folder).mkdir()
    stack(tmp_path / "series", levels)
    exec(RECIPES[1], {})
    drawn = np.zeros(levels.shape, np.uint8)
    drawn[2] = M
    mask = SimpleITK.GetImageFromArray(drawn)
    mask.CopyInformation(SimpleITK.ReadImage("images/a.nii.gz"))
    SimpleITK.WriteImage(mask, "masks/a.nii.gz")
    (tmp_path / "dataset").mkdir()
    for folder in ("images", "masks"):
        (tmp_path / folder).rename(tmp_path / f"dataset/{folder}")
    (case,) = (case for case in read("volumes", tmp_path / "dataset") if case.masks)
    whole = decode(case)
    assert whole.steps == pytest.approx((0.5, 0.7))
    assert (whole.mask == M).all()
    assert np.corrcoef(whole.image[:, :, 0].ravel(), levels[2].ravel())[0, 1] > 0.999
