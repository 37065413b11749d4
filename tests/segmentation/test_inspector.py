"""What the inspector is shown: small images, masks by share, and lesion-free windows."""

from dataclasses import replace

import numpy as np

from meddiff.cases import Case, Frame
from meddiff.params import SegmentParams
from meddiff.segmentation.inspector import (
    imaged_field,
    lesion_free_window,
    near_lesions,
    probability,
    reduced,
    seen,
    train_inspector,
)
from tests.conftest import make_cases


def test_small_masks_keep_the_class_of_the_larger_share() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[10:40, 10:40] = 1
    mask[40:80, 10:40] = 2
    mask[41, 41] = 2
    (case,) = reduced([Case("a", np.zeros((128, 128, 3), np.uint8), mask, frame=Frame(0, 0, 128, 128))])
    assert case.image.shape == (64, 64, 3)
    assert case.frame is None
    assert case.mask is not None
    assert np.array_equal(case.mask, mask[::2, ::2])  # a quarter of a pixel is none
    (finer,) = reduced([replace(case, image=np.zeros((256, 256, 3), np.uint8), mask=np.kron(mask, np.ones((2, 2), np.uint8)))],
                       "encoder_unet")
    assert finer.image.shape == (128, 128, 3)
    assert np.array_equal(finer.mask, mask)  # type: ignore[arg-type]
    (same,) = reduced(make_cases(1, 32))
    assert np.array_equal(same.mask, make_cases(1, 32)[0].mask)  # type: ignore[arg-type]
    assert reduced([replace(case, mask=None)]) == []


def test_the_halo_reaches_beyond_the_lesions_of_all_classes() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10, 10], mask[50, 50] = 1, 2
    near = near_lesions(mask)
    assert near[10, 13]
    assert near[50, 53]
    assert not near[10, 14]
    assert not near_lesions(np.zeros_like(mask)).any()


def test_a_window_shows_no_lesion_and_is_magnified() -> None:
    for case in make_cases(8, 64):
        window = lesion_free_window(case)
        assert window is not None
        assert window.mask is not None
        assert not window.mask.any()
        assert window.image.shape == case.image.shape
        assert window.image.mean() > 140  # the lesion is dark: 70 on 150
        assert window.image.min() > 100


def test_no_window_where_lesions_or_black_leave_no_room() -> None:
    (case,) = make_cases(1, 64)
    mask = np.zeros((64, 64), np.uint8)
    mask[5::11, 5::11] = 1
    assert lesion_free_window(replace(case, mask=mask)) is None
    assert lesion_free_window(replace(case, mask=None)) is None
    image = case.image.copy()
    image[32:] = 0
    assert case.mask is not None
    lesion = np.zeros_like(case.mask)
    lesion[:8] = 1
    assert not imaged_field(image)[40:].any()
    window = lesion_free_window(replace(case, image=image, mask=lesion))
    assert window is not None
    assert window.image.mean() > 100


def test_it_finds_lesions_and_learns_to_find_none() -> None:
    inspector = train_inspector(make_cases(16), SegmentParams(steps=60), 0)
    cases = make_cases(6, seed=3)
    found = probability(np.stack([case.image for case in cases]), inspector)
    assert found.shape == (6, 32, 32)
    masks = np.stack([case.mask for case in cases if case.mask is not None]) > 0
    assert found[masks].mean() > 0.5 > found[~masks].mean()
    free = probability(np.stack([case.image for case in make_cases(6, seed=4, lesion=False)]), inspector)
    assert (free > 0.5).mean() < 0.02
    assert (found > 0.5).mean() > 0.05


def test_predictions_come_at_the_size_of_the_image() -> None:
    large = np.stack([case.image for case in make_cases(2, 128)])
    assert seen(large).shape == (2, 64, 64, 3)
    assert probability(large, train_inspector(make_cases(4, 128), SegmentParams(steps=1), 0, classes=2)).shape == (2, 128, 128)
