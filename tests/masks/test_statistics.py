"""Invented masks are measured against real ones: distributions, likeness, share outside of the imaged field."""

import numpy as np
import pytest

from meddiff.cases import Pixels
from meddiff.lesions import shapes
from meddiff.lesions.shapes import Bits, Shape
from meddiff.masks import statistics as mask_statistics
from tests.lesions.test_shapes import ellipse


def outline(mask: Bits | Pixels) -> Bits:
    return mask_statistics.polar_outline(Shape.of(shapes.canonical_fine(mask > 0, 32)))


def test_statistics_of_a_disc_and_of_several_lesions() -> None:
    disc = ellipse(64, 20.5, 40.5, 12, 12, 0).astype(np.uint8)
    row = mask_statistics.mask_statistics([disc]).iloc[0]
    assert row["compactness"] == pytest.approx(1, abs=0.08)
    assert row["axis_ratio"] == pytest.approx(1, abs=0.02)
    assert (row["centre_y"], row["centre_x"]) == pytest.approx((20 / 64, 40 / 64), abs=0.01)
    assert row["lesions"] == 1
    two = disc.copy()
    two[50:60, 2:12] = 2
    row = mask_statistics.mask_statistics([two], classes=2).iloc[0]
    assert row["lesions"] == 2
    assert row["class_2"] == pytest.approx(100 / (two > 0).sum())
    assert row["class_1"] + row["class_2"] == pytest.approx(1)


def test_comparison_finds_what_differs() -> None:
    rng = np.random.default_rng(0)
    real = [ellipse(64, *rng.uniform(24, 40, 2), *rng.uniform(6, 12, 2), 0).astype(np.uint8) for _ in range(40)]
    same, larger = real[::-1], [np.maximum(mask, ellipse(64, 32, 32, 20, 8, 0)) for mask in real]
    assert mask_statistics.comparison(real, same)["ks_p_value"].min() > 0.99
    table = mask_statistics.comparison(real, larger).set_index("statistic")
    assert table.loc["area", "ks_p_value"] < 0.01
    assert table.loc["area", "invented_mean"] > table.loc["area", "real_mean"]


def test_likeness_sees_through_place_size_turn_and_mirror() -> None:
    def blob(scale: float, turn: float, mirror: bool) -> Bits:
        y, x = (np.mgrid[:128, :128] - 64) / scale
        angle = np.arctan2(-y if mirror else y, x) - turn
        bits: Bits = np.hypot(y, x) < 30 * (1 + 0.25 * np.cos(3 * angle) + 0.12 * np.sin(4 * angle))
        return bits

    moved = np.roll(blob(0.8, 2 * np.pi * 5 / 16, False), (9, -14), (0, 1))
    blobs = (blob(1.2, 0, False), moved, blob(1, np.pi + 0.3, True), ellipse(128, 60, 60, 30, 20, 0))
    others = np.stack([outline(mask) for mask in blobs])
    table = mask_statistics.likeness(outline(blob(1, 0, False))[None], others)
    assert table.shape == (1, 4)
    assert (table[0, :3] > 0.93).all()
    assert table[0, 3] < 0.85
    itself = mask_statistics.likeness(others, others)
    assert itself.diagonal() == pytest.approx(1)
    assert itself == pytest.approx(itself.T)


def test_outside_is_a_share_of_each_lesion() -> None:
    field = np.zeros((8, 8), bool)
    field[:4] = True
    mask = np.zeros((8, 8), np.uint8)
    mask[3:5, 2:4] = 2
    assert mask_statistics.outside([mask, mask * field], [field, field]) == pytest.approx(0.25)
