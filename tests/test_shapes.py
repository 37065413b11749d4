import numpy as np
import pytest

from meddiff.shapes import canonical, elastic, novelty, statistics


def test_canonical_pose_ignores_place_and_size() -> None:
    y, x = np.mgrid[:96, :96]
    small = (((y - 30) / 9) ** 2 + ((x - 40) / 6) ** 2) < 1
    large = (((y - 60) / 27) ** 2 + ((x - 50) / 18) ** 2) < 1
    a, b = canonical(small, 32), canonical(large, 32)
    assert ((a > 0) != (b > 0)).mean() < 0.02
    assert (a > 0).mean() == pytest.approx(0.16, abs=0.02)
    assert a.min() == -1
    assert a.max() <= 1


def test_elastic_change_is_repeatable_and_moderate() -> None:
    y, x = np.mgrid[:32, :32]
    sdf = np.clip((7 - np.hypot(y - 16, x - 16)) / 4, -1, 1)
    moved = elastic(sdf, np.random.default_rng(1))
    assert np.array_equal(moved, elastic(sdf, np.random.default_rng(1)))
    changed = ((moved > 0) != (sdf > 0)).sum() / (sdf > 0).sum()
    assert 0 < changed < 0.4


def test_statistics_and_novelty_of_a_disc() -> None:
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(y - 20, x - 40) < 12).astype(np.uint8)
    row = statistics([disc]).iloc[0]
    assert row["compactness"] == pytest.approx(1, abs=0.08)
    assert (row["centre_y"], row["centre_x"]) == pytest.approx((20 / 64, 40 / 64), abs=0.01)
    assert novelty([disc], [disc]) == pytest.approx([1.0])
    square = np.zeros_like(disc)
    square[10:50, 10:20] = 1
    assert novelty([disc], [square])[0] < 0.7
