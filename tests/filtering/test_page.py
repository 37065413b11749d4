"""The quality page tells what became of batches and samples, and outlines several classes in their colours."""

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from meddiff.cases import CLASS_COLOURS, Case
from meddiff.filtering.alike import nearest_alike
from meddiff.filtering.features import Extractor
from meddiff.filtering.page import CORRODED, MASK, Tile, quality_page, tile_picture
from meddiff.params import FilterParams
from tests.markup import Checker

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Great Expectations imports modules that Python 3.11 deprecates
    from meddiff.filtering.checks import BatchVerdict, Finding


def tile() -> Tile:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:28, 8:28], mask[36:56, 30:56] = 1, 2
    corroded = np.zeros((64, 64), np.uint8)
    corroded[12:24, 12:24], corroded[40:52, 34:52] = 1, 2
    return Tile("s1", np.full((64, 64, 3), 90, np.uint8), mask, corroded)


def drawn(classes: int) -> set[tuple[int, ...]]:
    picture = np.array(Image.open(BytesIO(tile_picture(tile(), classes))))
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()} - {(90, 90, 90)}


def test_one_class_has_the_colours_of_the_mask_and_of_corrosion() -> None:
    assert drawn(1) == {MASK, CORRODED}


def test_each_class_has_its_colour_and_a_lighter_one_after_corrosion() -> None:
    lighter = {tuple((level + 255) // 2 for level in colour) for colour in CLASS_COLOURS[:2]}
    assert drawn(2) == {*CLASS_COLOURS[:2], *lighter}


@pytest.mark.parametrize("classes", [("lesion",), ("benign", "mal <b>")])
def test_the_key_names_the_classes(classes: tuple[str, ...]) -> None:
    page = quality_page([], pd.DataFrame([decided("s1")]), FilterParams(), [tile()], "docs", classes)
    assert (f"rgb{CLASS_COLOURS[1]}" in page) == ("mal &lt;b&gt;" in page) == (len(classes) > 1)
    assert (f"rgb{CORRODED}" in page) == (len(classes) == 1)


def decided(id: str, verdict: str = "accepted", reason: str = "", batch: str = "b0") -> dict[str, object]:
    return {"id": id, "batch": batch, "similarity": 0.5, "nearest": "c", "agreement": 0.5, "contrast": 9.0, "verdict": verdict,
            "reason": reason}


def test_names_are_escaped_and_every_element_is_closed() -> None:
    evil = '<script a="b">'
    findings = [Finding("area", f"rule {evil}", False, f"seen {evil}"), Finding("size", "rule", True, "all")]
    verdicts = [BatchVerdict(evil, False, (evil, "area"), {}, tuple(findings))]
    row = decided(evil, "quarantined", f"batch {evil}", evil) | {"nearest": f"near {evil}"}
    page = quality_page(verdicts, pd.DataFrame([row]), FilterParams(), [replace(tile(), id=evil)], evil, (evil, "b"))
    checker = Checker()
    checker.feed(page)
    assert "<script" not in page
    assert checker.open == []
    for words in (f"{evil}, area", f"rule {evil}", f"seen {evil}", f"near {evil}", f"batch {evil}", f"painting: {evil}"):
        assert words in checker.text
    assert [value for value in checker.references if not value.startswith("data:image/png;base64,")] == [evil]


def test_batches_tell_their_samples_and_failures_first() -> None:
    findings = (Finding("size", "Sizes agree", True, "all"), Finding("area", "Masks are small", False, "0.95"))
    verdicts = [BatchVerdict("b0", False, ("area",), {}, findings), BatchVerdict("b1", True, (), {}, findings[:1])]
    rows = [decided("s1"), decided("s2", "rejected", "copy"), decided("s3", batch="b1"), decided("s4", batch="b1")]
    checker = Checker()
    checker.feed(quality_page(verdicts, pd.DataFrame(rows), FilterParams(), [], "docs"))
    text = " ".join(checker.text.split())
    for words in ("3 of 4 synthetic samples accepted", "in 2 batches", "accepted 3 (75.0%)", "copy 1 (25.0%)",
                  "quarantined 0 (0.0%)", "Batches: 1 of 2 passed", "b0 · 1 of 2 accepted · quarantined: area",
                  "b1 · 2 of 2 accepted · passed", "✗Masks are small0.95 ✓Sizes agreeall", "Accepted samples None."):
        assert words in text
    assert sum(value.startswith("data:") for value in checker.references) == 3  # the charts


def test_scores_that_are_missing_or_beyond_their_bounds_draw() -> None:
    rows = [decided("s1") | {"contrast": float("nan"), "agreement": float("nan")}, decided("s2") | {"contrast": 300.0}]
    for table in (rows, rows[:1], []):
        page = quality_page([], pd.DataFrame(table, columns=list(rows[0])), FilterParams(min_contrast=250.0), [], "docs")
        assert page.count("data:image/png;base64,") == 3


def test_the_nearest_case_of_its_own_kind_is_shown() -> None:
    """A gray sample lies beside a gray case even where one in colour is nearer, and one of another class is never shown."""
    rng = np.random.default_rng(0)

    def pair(label: int, colour: bool, inside: int) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((32, 32), np.uint8)
        mask[8:8 + rng.integers(10, 16), 8:8 + rng.integers(10, 16)] = label
        gray = np.clip(np.where(mask, inside, 150)[..., None] + rng.normal(0, 6, (32, 32, 1)), 0, 255)
        return np.uint8(gray * ([1.0, 0.6, 0.5] if colour else [1, 1, 1])), mask

    cases = [Case(f"{'colour' if colour else 'gray'}_{label}_{i}", *pair(label, colour, 60 + 5 * i), group=f"p{label}{colour}{i}")
             for label in (1, 2) for colour in (False, True) for i in range(3)]
    samples = [pair(1, False, 64), pair(2, True, 64), pair(1, True, 64), (samples_image := pair(1, False, 64)[0], np.zeros(
        samples_image.shape[:2], np.uint8))]
    nearest = [case.id[:-2] if case else "" for case in nearest_alike(samples, cases, Extractor("lesion statistics"))]
    assert nearest == ["gray_1", "colour_2", "colour_1", ""]
    shown = replace(tile(), nearest=cases[0])
    page = quality_page([], pd.DataFrame([decided("s1")]), FilterParams(), [shown], "docs", made=("commit abc", "run 7"))
    assert "nearest of its kind: gray_1_0, of all: c (right)" in page
    assert "commit abc · run 7" in page
    assert Image.open(BytesIO(tile_picture(shown, 1))).width > Image.open(BytesIO(tile_picture(tile(), 1))).width
