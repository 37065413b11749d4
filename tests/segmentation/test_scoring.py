"""Scores of test cases: a row for each case, class, arm and seed."""

from dataclasses import replace

import numpy as np
import pytest

from meddiff.cases import Case, Frame
from meddiff.outputs.tables import CASE_SCORES, VALIDATION_CASES
from meddiff.segmentation.decision import Bounds, Findings
from meddiff.segmentation.networks import WIDTHS, Architecture
from meddiff.segmentation.scoring import predict_cases, reference_of, score_predictions, validate_cases
from meddiff.segmentation.segmenter import Segmenter
from tests.conftest import make_cases


def test_each_case_class_arm_and_seed_has_a_row() -> None:
    cases = make_cases(2)
    empty = replace(cases[1], id="empty", mask=None)
    masks = np.stack([reference_of(case) for case in (*cases, empty)])
    steps: list[int] = []
    every = np.ones(len(masks))
    findings = {("real", 0): Findings(masks, every > 0, every, every), ("real", 1): Findings(masks, every < 0, every, every)}
    table = score_predictions(findings, [*cases, empty], ["small", "large", "empty"], 2.0, ("a", "b"),
                              lambda done, total, values: steps.append(done))
    assert tuple(table) == CASE_SCORES.columns
    assert steps == [1, 2]
    assert len(table) == 3 * 2 * 2
    rows = table.set_index(["case", "class", "seed"])
    assert rows.loc[(cases[0].id, "a", 0), "dice"] == 1
    assert rows.loc[(cases[0].id, "a", 1), "dice"] == 0
    assert rows.loc[(cases[0].id, "a", 1), "dice_undecided"] == 1
    assert np.isnan(rows.loc[(cases[0].id, "b", 0), "dice"])
    assert np.isnan(rows.loc[("empty", "a", 0), "dice"])
    assert rows.loc[(cases[0].id, "a", 0), "lesion_area"] == pytest.approx(float((masks[0] == 1).mean()))
    assert set(table["stratum"]) == {"small", "large", "empty"}


def test_predictions_end_with_the_frame() -> None:
    architecture = Architecture("unet", WIDTHS["unet"], 1, "")
    segmenter = Segmenter(architecture.build().eval(), architecture)
    case = Case("a", np.full((32, 32, 3), 128, np.uint8), None)
    framed = replace(case, frame=Frame(8, 0, 16, 32))
    whole, inside = predict_cases(segmenter, [case, framed]).masks
    assert np.array_equal(inside[8:24], whole[8:24])
    assert not inside[:8].any()
    assert not inside[24:].any()


def test_validation_cases_are_scored_as_delivered() -> None:
    architecture = Architecture("unet", WIDTHS["unet"], 1, "")
    segmenter = Segmenter(architecture.build().eval(), architecture, bounds=Bounds(area=1.0))   # finds nothing
    cases = [*make_cases(2), replace(make_cases(1, seed=3, lesion=False)[0], id="free")]
    table = validate_cases(segmenter, cases, "real", 4)
    assert tuple(table) == VALIDATION_CASES.columns
    assert table["dice"].tolist()[:2] == [0, 0]
    assert np.isnan(table["dice"][2])
    assert table["silent"].tolist() == [1, 1, 1]
    assert set(table["seed"]) == {4}
