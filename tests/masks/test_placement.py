"""Poses like the training lesions', and several lesions drawn into one field without touching."""

import numpy as np
import pytest
from scipy import ndimage

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.lesions import shapes
from meddiff.lesions.fields import imaged_field
from meddiff.lesions.shapes import Bits, Shape
from meddiff.masks.placement import CUT, LEAST_PIXELS, Lesions, MaskLevels, learn_lesions, place
from tests.lesions.test_shapes import ellipse

WHOLE = np.ones((64, 64), bool)
ROUND = Shape.of(shapes.finer(shapes.disc(32)))
STILL = MaskLevels(pose=False, placement=False)


def lesions(poses: list[list[float]], image: list[int] | None = None, label: list[int] | None = None) -> Lesions:
    n = len(poses)
    return Lesions(np.array(image or range(n)), np.array(label or [1] * n), np.array(poses))


def test_learnt_poses_are_relative_to_the_imaged_field() -> None:
    mask: Pixels = ellipse(64, 40, 48, 6, 6, 0).astype(np.uint8)
    mask[50:53, 34:37] = 2
    right: Bits = np.broadcast_to(np.arange(64) >= 32, (64, 64))
    learnt, wheres = learn_lesions([mask, mask], [WHOLE, right])
    assert learnt.image.tolist() == [0, 0, 1, 1]
    assert learnt.label.tolist() == [1, 2, 1, 2]
    assert learnt.poses[0, 1:3] == pytest.approx([40 / 64, 48 / 64], abs=0.01)
    assert learnt.poses[2, 1:3] == pytest.approx([40 / 64, 0.5], abs=0.02)
    assert learnt.poses[0, 0] == learnt.poses[2, 0], "the size is a share of the frame"
    assert [int(where.sum()) for where in wheres[:2]] == [(mask == 1).sum(), 9]
    drawn = place([ROUND], [2], learnt, STILL, right, 0)
    assert shapes.pose_of(drawn > 0)[1:3] == pytest.approx([40 / 64, 48 / 64], abs=0.02), "and placed by it again"


def test_conditions_are_class_and_tercile_of_size() -> None:
    sizes = np.random.default_rng(0).permutation(24)
    learnt = lesions([[-2 + 0.01 * s, 0.5, 0.5, 0, 0] for s in sizes], label=[1] * 24)
    assert np.array_equal(learnt.condition, sizes // 8)
    few = lesions([[-2 + 0.01 * s, 0.5, 0.5, 0, 0] for s in range(10)], label=[1] * 3 + [2] * 7)
    assert few.condition.tolist() == [0] * 3 + [3] * 7


def test_one_training_image_lends_all_its_lesions() -> None:
    learnt = lesions([[size, 0.5, 0.5, 0, 0] for size in (-1, -2, -1.5, -3)], image=[0, 0, 4, 7])
    assert {tuple(learnt.lent(seed, True)) for seed in range(40)} == {(0, 1), (2,), (3,)}
    assert {tuple(learnt.lent(seed, False)) for seed in range(5)} == {(2,)}, "the median area"


def test_drawn_poses_keep_mean_spread_and_range() -> None:
    rng = np.random.default_rng(0)
    learnt = lesions((np.array([-1.5, 0.5, 0.5, 0, 0.1]) + rng.normal(0, [0.3, 0.1, 0.05, 0.2, 0.1], (30, 5))).tolist())
    drawn = np.array([learnt.pose(seed % 30, MaskLevels(), seed, 0, 0) for seed in range(1500)])
    spread = learnt.poses.std(axis=0)
    assert (np.abs(drawn.mean(axis=0) - learnt.poses.mean(axis=0)) < 0.12 * spread).all()
    assert drawn.std(axis=0) == pytest.approx(spread, rel=0.15)
    assert (drawn.min(axis=0) >= learnt.poses.min(axis=0) - 0.0701).all()
    assert (drawn.max(axis=0) <= learnt.poses.max(axis=0) + 0.0701).all()
    assert np.array_equal(learnt.pose(4, STILL, 1, 0, 0), learnt.poses[4])


def test_a_pose_that_leaves_the_field_is_drawn_again() -> None:
    learnt = lesions([[np.log(0.2), 0.0, 0.5, 0, 0]] * 7 + [[np.log(0.2), 0.5, 0.5, 0, 0]])
    for seed in range(6):
        mask = place([ROUND], [0], learnt, STILL, WHOLE, seed)
        assert shapes.pose_of(mask > 0)[1:3] == pytest.approx([0.5, 0.5], abs=0.02), "the only one that fits"


def test_a_lesion_too_large_for_the_field_is_shrunk() -> None:
    learnt = lesions([[np.log(0.6), 0.5, 0.5, 0, 0]] * 3)
    field = ellipse(64, 32, 32, 16, 16, 0)
    mask = place([ROUND], [0], learnt, MaskLevels(), field, 3)
    assert (mask[~field] > 0).sum() <= (CUT + 0.03) * mask.sum()
    assert mask.sum() > 0.4 * field.sum(), "no more than is needed"


def test_nothing_is_drawn_on_the_bars_of_padding() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48] = np.random.default_rng(0).integers(90, 160, (32, 64, 1))
    field, bars = imaged_field(image), np.ones((64, 64), bool)
    bars[16:48] = False
    rng = np.random.default_rng(1)
    poses = [[np.log(rng.uniform(0.15, 0.3)), rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.9), 0, 0] for _ in range(24)]
    learnt = lesions(poses, image=[i // 2 for i in range(24)], label=[1, 2] * 12)
    touching = 0
    for seed in range(40):
        mask = place([ROUND] * 2, learnt.lent(seed, True), learnt, MaskLevels(), field, seed)
        assert not mask[bars].any()
        for label in np.unique(mask[mask > 0]):
            assert ndimage.label(mask == label, np.ones((3, 3)))[1] == 1
        touching += bool(mask[field & ndimage.binary_dilation(~field)].any())
    assert touching > 5, "some lie at the border, where they are cut"


def test_lesions_that_would_touch_are_left_out() -> None:
    poses = [[np.log(0.3), 0.5, 0.5, 0, 0], [np.log(0.1), 0.5, 0.5, 0, 0], [np.log(0.1), 0.5, 0.85, 0, 0]]
    learnt = lesions(poses, image=[0, 0, 0], label=[1, 2, 3])
    mask = place([ROUND] * 3, [0, 1, 2], learnt, STILL, WHOLE, 0)
    assert set(np.unique(mask)) == {0, 1, 3}


def test_no_room_at_all_is_named() -> None:
    tiny = lesions([[np.log(0.01), 0.5, 0.5, 0, 0]] * 2)
    with pytest.raises(MeddiffError, match=f"{LEAST_PIXELS} pixels"):
        place([ROUND], [0], tiny, STILL, WHOLE, 1)
