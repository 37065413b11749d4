import numpy as np
import pytest
from numpy.typing import NDArray

from meddiff.lesions import shapes
from meddiff.lesions.shapes import FINE, SIDE, Shape

GRID = 32


def ellipse(size: int, cy: float, cx: float, major: float, minor: float, angle: float) -> NDArray[np.bool_]:
    """The longer axis at `angle` from y to x."""
    y, x = np.mgrid[:size, :size] + 0.5
    u = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
    v = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
    return (u / major) ** 2 + (v / minor) ** 2 < 1


def iou(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(np.logical_and(a, b).sum() / np.logical_or(a, b).sum())


def test_pose_measures_size_place_and_elongation() -> None:
    pose = shapes.pose_of(ellipse(200, 80, 120, 60, 30, 0.5))
    assert np.exp(pose[0]) == pytest.approx(np.sqrt(np.pi * 60 * 30) / 200, rel=0.01)
    assert pose[1:3] == pytest.approx([0.4, 0.6], abs=0.003)
    e = np.log(2) / 2
    assert pose[3:] == pytest.approx([e * np.cos(1.0), e * np.sin(1.0)], abs=0.01)
    assert np.linalg.det(shapes.stretch(pose[3:])) == pytest.approx(1)


def test_every_ellipse_is_the_disc_in_canonical_pose() -> None:
    for mask in (ellipse(96, 30, 40, 9, 9, 0), ellipse(96, 60, 50, 40, 16, 0.8), ellipse(96, 60, 50, 30, 12, -1.2)):
        sdf = shapes.coarse(shapes.canonical_fine(mask, GRID))
        assert iou(sdf > 0, shapes.disc(GRID) > 0) > 0.93
        assert np.abs(sdf - shapes.disc(GRID)).max() < 0.25
        assert (sdf.min(), (sdf > 0).mean()) == pytest.approx((-1, SIDE**2), abs=0.02)


def test_drawing_a_shape_with_its_own_pose_gives_the_lesion_back() -> None:
    mask = ellipse(128, 60, 70, 40, 18, 0.6) | ellipse(128, 80, 60, 20, 15, 0)
    mask[60, 70] = False  # a hole, which is filled
    mask[2, 2] = True  # a second part, which is left out
    shape = Shape.of(shapes.canonical_fine(mask, GRID))
    assert iou(shape.draw(shapes.pose_of(mask), 128), shapes.largest(mask)) > 0.95
    enlarged = shape.draw(shapes.pose_of(mask), 256)
    assert iou(enlarged[::2, ::2], shapes.largest(mask)) > 0.93
    assert shape.cut(shapes.pose_of(mask), np.ones((128, 128), bool)) == 0


def test_cut_is_the_share_outside_of_frame_and_field() -> None:
    shape = Shape.of(shapes.canonical_fine(ellipse(64, 32, 32, 16, 16, 0), GRID))
    half = np.array([np.log(0.3), 0.0, 0.5, 0, 0])
    field = np.ones((64, 64), bool)
    assert shape.cut(half, field) == pytest.approx(0.5, abs=0.03)
    field[:, :32] = False
    assert shape.cut(half, field) == pytest.approx(0.75, abs=0.03)
    assert shape.draw(half, 128).mean() == pytest.approx(0.5 * 0.3**2, rel=0.05)


def test_elastic_change_is_repeatable_and_moderate() -> None:
    flat = shapes.finer(shapes.disc(GRID))
    moved = shapes.finer(shapes.disc(GRID), shapes.elastic(GRID, np.random.default_rng(1)))
    assert np.array_equal(moved, shapes.finer(shapes.disc(GRID), shapes.elastic(GRID, np.random.default_rng(1))))
    assert 0.02 < 1 - iou(moved > 0, flat > 0) < 0.35


def test_roughness_is_added_up_to_what_is_wanted() -> None:
    smooth = shapes.finer(shapes.disc(GRID))
    y, x = np.mgrid[:128, :128] - 64
    ragged = np.hypot(y, x) < 40 * (1 + 0.06 * np.cos(18 * np.arctan2(y, x)))
    wanted = shapes.roughness(shapes.canonical_fine(ragged, GRID))
    assert wanted > 3 * shapes.roughness(smooth)
    rough = shapes.roughened(smooth, wanted, np.random.default_rng(0))
    assert shapes.roughness(rough) == pytest.approx(wanted, rel=0.35)
    assert np.array_equal(shapes.roughened(smooth, 0.0, np.random.default_rng(0)), smooth), "never smoother than it is"


def test_coarse_map_is_the_mean_of_the_fine_one() -> None:
    fine = np.random.default_rng(0).normal(size=(4 * FINE, 4 * FINE))
    assert shapes.coarse(fine)[1, 2] == pytest.approx(fine[FINE:2 * FINE, 2 * FINE:3 * FINE].mean())


def test_largest_part_has_no_holes_and_may_be_nothing() -> None:
    mask = np.zeros((16, 16), bool)
    assert not shapes.largest(mask).any()
    mask[2:9, 2:9] = True
    mask[5, 5] = mask[13, 13] = False
    mask[12, 12] = True
    assert shapes.largest(mask).sum() == 49


def test_one_pixel_is_a_lesion() -> None:
    mask = np.zeros((32, 32), bool)
    mask[5, 7] = True
    assert shapes.pose_of(mask) == pytest.approx([np.log(1 / 32), 5.5 / 32, 7.5 / 32, 0, 0])
    assert np.isfinite(shapes.canonical_fine(mask, 16)).all()
    assert (shapes.canonical_fine(mask, 16) > 0).any()


def test_parts_have_a_class_each_and_specks_are_left_out() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[2:12, 2:12] = 1
    mask[12:15, 12:15] = 1  # touches by a corner
    mask[5, 5] = 0  # a hole
    mask[20:30, 20:24] = 2
    mask[30, 2] = 2  # a speck
    found = shapes.parts(mask)
    assert [(part.label, int(part.where.sum())) for part in found] == [(1, 109), (2, 40)]
    assert shapes.parts(np.zeros((8, 8), np.uint8)) == []
    single = np.zeros((32, 32), np.uint8)
    single[4, 4] = 1
    assert len(shapes.parts(single)) == 1, "the largest is never a speck"


def test_a_lesion_cut_off_by_the_frame_is_known() -> None:
    assert shapes.cut_off(ellipse(64, 2, 30, 12, 12, 0))
    assert not shapes.cut_off(ellipse(64, 30, 30, 12, 12, 0))
