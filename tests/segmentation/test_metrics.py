"""Scores of masks whose answer is known, and the four combinations of empty masks."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy.ndimage import gaussian_filter

from meddiff.errors import MeddiffError
from meddiff.segmentation.metrics import Detection, case_scores, class_dice, detect, dice


def square(top: int, left: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[top:top + side, left:left + side] = True
    return mask


EMPTY, LESION = np.zeros((32, 32), bool), square(8, 8)


def test_lesion_and_lesion():
    scores = case_scores(square(8, 10), LESION, tolerance=1.0)
    assert scores.dice == pytest.approx(2 * 80 / 200)
    assert scores.iou == pytest.approx(80 / 120)
    assert scores.hd95 == pytest.approx(2.0)
    assert 0.3 < scores.nsd < 0.9
    assert case_scores(square(8, 10), LESION, tolerance=2.0).nsd == 1.0
    perfect = case_scores(LESION, LESION, tolerance=1.0)
    assert (perfect.dice, perfect.iou, perfect.hd95, perfect.nsd) == (1, 1, 0, 1)


def test_disjoint_lesions_have_a_distance():
    scores = case_scores(square(0, 0, 4), square(0, 20, 4), tolerance=2.0)
    assert (scores.dice, scores.iou, scores.nsd) == (0, 0, 0)
    assert scores.hd95 == pytest.approx(20, abs=1)


def test_empty_and_empty_is_undefined():
    scores = case_scores(EMPTY, EMPTY, tolerance=2.0)
    assert all(math.isnan(v) for v in (scores.dice, scores.iou, scores.hd95, scores.nsd))


@pytest.mark.parametrize(("prediction", "reference"), [(LESION, EMPTY), (EMPTY, LESION)])
def test_one_empty_mask_scores_zero_and_has_no_distance(prediction, reference):
    scores = case_scores(prediction, reference, tolerance=2.0)
    assert (scores.dice, scores.iou, scores.nsd) == (0, 0, 0)
    assert math.isnan(scores.hd95)


def test_a_missing_prediction_is_an_error():
    with pytest.raises(MeddiffError, match=r"case_7.*not none"):
        case_scores(None, LESION, 2.0, "case_7")
    with pytest.raises(MeddiffError, match="case_8"):
        case_scores(np.zeros((16, 16), bool), LESION, 2.0, "case_8")


def test_dice_alone_follows_the_same_conventions():
    assert math.isnan(dice(EMPTY, EMPTY))
    assert dice(LESION, EMPTY) == dice(EMPTY, LESION) == 0
    assert dice(LESION.astype(np.uint8), LESION) == 1


def test_dice_over_classes_leaves_out_what_both_lack():
    first, second = square(2, 2).astype(np.uint8), square(18, 18).astype(np.uint8)
    reference = first + 2 * second
    assert class_dice(reference, reference, 3) == 1
    assert class_dice(first, reference, 3) == pytest.approx(0.5)             # class 2 is missed, class 3 in neither
    assert class_dice(first + 3 * second, reference, 3) == pytest.approx(1 / 3)   # and class 3 invented
    assert class_dice(2 * first + second, reference, 2) == 0                     # right place, wrong class
    assert math.isnan(class_dice(EMPTY, EMPTY, 2))
    assert class_dice(first, 2 * first, 1) == 1                                  # one class: any lesion


def test_bars_around_the_frame_change_no_score():
    """A lesion that the frame's edge cuts has a surface there, with and without bars beside it."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        frame = np.zeros((2, 20, 32), bool)
        for mask in frame:
            top, left = rng.integers(0, 12), rng.integers(0, 20)
            mask[top:top + 12, left:left + 14] = True
        padded = np.pad(frame, ((0, 0), (6, 6), (0, 0)))
        assert case_scores(*padded, tolerance=2.0) == case_scores(*frame, tolerance=2.0)


@pytest.mark.parametrize(("prediction", "reference", "counts"), [
    (EMPTY, EMPTY, (0, 0, 0)),
    (LESION, EMPTY, (0, 0, 1)),
    (EMPTY, LESION, (1, 0, 0)),
    (LESION, LESION, (1, 1, 0)),
    (square(8, 8) | square(20, 20), square(8, 8) | square(20, 20), (2, 2, 0)),
    (square(0, 0) | square(20, 20), LESION, (1, 0, 2)),                 # 4 of 196 pixels in common, and a far one
    (square(8, 16), LESION, (1, 1, 0)),                                 # 20 of 180: IoU 0.11
    (square(9, 16), LESION, (1, 0, 1)),                                 # 18 of 182: IoU 0.099
    (square(2, 2, 26), square(4, 4) | square(16, 16), (2, 2, 0)),       # one find may cover two lesions
    (square(8, 8, 5) | square(13, 13, 5), LESION, (1, 1, 0)),           # two that touch at a corner are one
    (square(8, 8, 3) | square(14, 14, 4), LESION, (1, 1, 1)),           # 9 of 100: too little of it
])
def test_lesions_are_counted_by_their_overlap(prediction, reference, counts):
    assert detect(prediction, reference) == Detection(*counts)


def test_a_single_pixel_is_a_find():
    speck = EMPTY.copy()
    speck[3, 3] = True
    assert detect(speck, EMPTY) == Detection(0, 0, 1)


def test_scores_are_monais():
    """Its public metrics spend most of their time cropping; what they compute is called here without them."""
    rng = np.random.default_rng(0)
    for number in range(24):
        side = int(rng.choice([24, 33]))
        fields = [gaussian_filter(rng.normal(size=(side, side)), rng.uniform(0.5, 4)) for _ in range(2)]
        predicted, wanted = (field > np.quantile(field, rng.uniform(0.3, 0.98)) for field in fields)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            p, r = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, wanted))
            expected = (float(compute_iou(p, r)), float(compute_hausdorff_distance(p, r, include_background=True, percentile=95)),
                        float(compute_surface_dice(p, r, [2.0], include_background=True)))
        scores = case_scores(predicted, wanted, 2.0)
        assert (scores.iou, scores.hd95, scores.nsd) == expected, number
