"""The quality page outlines several classes in their colours."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from meddiff.cases import CLASS_COLOURS
from meddiff.filtering.page import CORRODED, MASK, Tile, _picture, render
from meddiff.params import FilterParams


def tile() -> Tile:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:28, 8:28], mask[36:56, 30:56] = 1, 2
    corroded = np.zeros((64, 64), np.uint8)
    corroded[12:24, 12:24], corroded[40:52, 34:52] = 1, 2
    return Tile("s1", np.full((64, 64, 3), 90, np.uint8), mask, corroded)


def drawn(classes: int) -> set[tuple[int, ...]]:
    picture = np.array(Image.open(BytesIO(_picture(tile(), classes))))
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()} - {(90, 90, 90)}


def test_one_class_has_the_colours_of_the_mask_and_of_corrosion() -> None:
    assert drawn(1) == {MASK, CORRODED}


def test_each_class_has_its_colour_and_a_lighter_one_after_corrosion() -> None:
    lighter = {tuple((level + 255) // 2 for level in colour) for colour in CLASS_COLOURS[:2]}
    assert drawn(2) == {*CLASS_COLOURS[:2], *lighter}


@pytest.mark.parametrize("classes", [("lesion",), ("benign", "mal <b>")])
def test_the_key_names_the_classes(classes: tuple[str, ...]) -> None:
    row = {"id": "s1", "batch": "b0", "similarity": 0.5, "nearest": "c", "agreement": 0.5, "contrast": 9.0, "verdict": "accepted",
           "reason": ""}
    page = render([], pd.DataFrame([row]), FilterParams(), [tile()], "docs", classes)
    assert (f"rgb{CLASS_COLOURS[1]}" in page) == ("mal &lt;b&gt;" in page) == (len(classes) > 1)
    assert (f"rgb{CORRODED}" in page) == (len(classes) == 1)
