"""Erosion by a radius or by a share of the lesion, and the share that border profiles ask for."""

import math

import numpy as np
import pytest
from scipy import ndimage

from meddiff.cases import Pixels
from meddiff.filtering.corrosion import BINS, GREATEST_SHARE, border_profiles, choose_corrosion, corrode, mean_profile, steepest
from tests.conftest import make_cases

SIZE = 64
Pairs = list[tuple[Pixels, Pixels]]


def disc(radius: float, size: int = SIZE) -> Pixels:
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return (np.hypot(y, x) < radius).astype(np.uint8)


def painted(n: int, inside: float, seed: int = 0, colour: tuple[int, int, int] = (-60, -60, -60)) -> Pairs:
    """Discs whose change of colour lies `inside` inscribed radii within their masks' border, smoothed as a real border is."""
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        radius = rng.uniform(10, 20)
        soft = ndimage.gaussian_filter(disc(radius * (1 - inside)).astype(float), 1.5)[:, :, None]
        image = 150 + soft * np.array(colour) + rng.normal(0, 8, (SIZE, SIZE, 1))
        made.append((np.clip(image, 0, 255).astype(np.uint8), disc(radius)))
    return made


def large_disc(radius: float, size: int = 129) -> Pixels:
    y, x = np.mgrid[:size, :size] - size // 2
    return (np.hypot(y, x) <= radius).astype(np.uint8)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.5, 6.25])
def test_a_disc_shrinks_by_the_radius(radius: float) -> None:
    shrunk, wanted = corrode(large_disc(30), radius), large_disc(30 - radius)
    assert (shrunk <= large_disc(30)).all()
    assert abs(int(shrunk.sum()) - int(wanted.sum())) < 0.35 * 2 * np.pi * 30  # less than 0.35 px all around
    assert np.abs(shrunk.astype(int) - wanted).sum() < 0.6 * 2 * np.pi * 30


@pytest.mark.parametrize(("radius", "rows"), [(0.0, 40), (0.4, 40), (0.6, 38), (1.0, 38), (1.4, 38), (2.0, 36)])
def test_a_straight_edge_retreats_by_the_rounded_radius(radius: float, rows: int) -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[20:60] = 1
    assert corrode(mask, radius).sum(axis=0).tolist() == [rows] * 80  # and the frame is no edge


def test_no_part_of_a_lesion_vanishes() -> None:
    mask = large_disc(20)
    mask[2:5, 2:5] = mask[100, 100] = mask[110, 4:30] = 1
    for radius in (1.0, 4.0, 16.0):
        shrunk = corrode(mask, radius)
        before, after = (ndimage.label(m, np.ones((3, 3))) for m in (mask, shrunk))
        assert set(np.unique(before[0][shrunk > 0])) == set(range(1, before[1] + 1))
        assert shrunk.sum() <= mask.sum()
        assert after[1] >= before[1]
    assert corrode(mask, 16.0)[64, 64] == 1


def test_masks_without_a_border_stay() -> None:
    for mask in (np.ones((16, 16), np.uint8), np.zeros((16, 16), np.uint8)):
        assert (corrode(mask, 3.0) == mask).all()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_a_share_erodes_by_as_much_of_the_inscribed_radius(share: float) -> None:
    for radius in (12, 24):
        shrunk, wanted = corrode(disc(radius), share=share), disc(radius * (1 - share))
        assert np.abs(shrunk.astype(int) - wanted).sum() < 0.6 * 2 * np.pi * radius
    assert (corrode(disc(20), 2.0, 0.1) == corrode(disc(20), 2.0 + 0.1 * 19.5)).mean() > 0.99


def test_each_lesion_has_its_own_radius_and_its_class() -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4:44, 4:44], mask[50:58, 50:58] = 1, 2
    kept = corrode(mask, share=0.3)
    assert set(np.unique(kept)) == {0, 1, 2}
    assert ((kept == mask) | (kept == 0)).all()
    assert (kept == 1).any(axis=0).sum() == 40 - 2 * 6
    assert (kept == 2).any(axis=0).sum() == 8 - 2 * 1
    inner = disc(24)
    inner[disc(10) > 0] = 2
    assert (corrode(inner, 3.0) == 2).sum() == (inner == 2).sum()  # the border between two classes is none


def test_classes_that_touch_retreat_together() -> None:
    """A strip of another class, from the lesion's border to its middle, has the lesion's radius, not that of its own width."""
    whole = disc(20)
    strip = whole.copy()
    strip[30:34, :34][whole[30:34, :34] > 0] = 2
    for share in (0.2, 0.4):
        kept, wanted = (np.flatnonzero(corrode(mask, share=share)[31])[0] for mask in (strip, whole))
        assert abs(kept - wanted) <= 1
        assert wanted - np.flatnonzero(whole[31])[0] >= 3, "its own half width is 2, of which nothing so deep is a share"


def test_no_share_goes_beyond_half_the_lesion_and_none_changes_nothing() -> None:
    mask = disc(15)
    mask[2:4, 2:4] = 1
    assert (corrode(mask, share=0.0) == mask).all()
    assert (corrode(mask, share=0.9) == corrode(mask, share=GREATEST_SHARE)).all()
    assert ndimage.label(corrode(mask, share=0.9), np.ones((3, 3)))[1] == 2


@pytest.mark.parametrize("inside", [0.0, 0.1, 0.2])
def test_the_steepest_change_is_found_between_pixels(inside: float) -> None:
    found = steepest(mean_profile(border_profiles(painted(30, inside))))
    assert found == pytest.approx(inside, abs=0.03)


@pytest.mark.parametrize("colour", [(60, 60, 60), (60, -50, 0), (0, 0, -40)])
def test_lesions_may_be_brighter_or_of_another_colour(colour: tuple[int, int, int]) -> None:
    profile = mean_profile(border_profiles(painted(20, 0.1, colour=colour)))
    assert steepest(profile) == pytest.approx(0.1, abs=0.03)
    assert profile[-8:].mean() - profile[:8].mean() == pytest.approx(np.linalg.norm(colour), rel=0.1)


@pytest.mark.parametrize(("real", "found"), [(0.0, 0.15), (0.1, 0.25), (0.05, 0.05)])
def test_the_choice_brings_painted_lesions_to_where_real_ones_end(real: float, found: float) -> None:
    lesions, samples = border_profiles(painted(40, real)), painted(60, found, seed=1)
    choice = choose_corrosion(lesions, border_profiles(samples))
    assert choice.share == pytest.approx((found - real) / (1 - real), abs=0.04)
    assert choice.low <= choice.wanted <= choice.high
    after = [(image, corrode(mask, share=choice.share)) for image, mask in samples]
    assert abs(choose_corrosion(lesions, border_profiles(after)).wanted) < 0.04


def test_masks_that_are_too_tight_already_stay() -> None:
    choice = choose_corrosion(border_profiles(painted(40, 0.2)), border_profiles(painted(40, 0.0, seed=1)))
    assert choice.share == 0
    assert choice.wanted < -0.1
    assert choice.high < 0


def test_with_few_lesions_nothing_is_measured_or_eroded() -> None:
    choice = choose_corrosion(border_profiles(painted(40, 0.0)), border_profiles(painted(5, 0.3)))
    assert (choice.share, choice.n_real, choice.n_painted) == (0.0, 40, 5)
    assert math.isnan(choice.wanted)
    assert choice.numbers() == {"share": 0.0, "n_real": 40.0, "n_painted": 5.0}
    assert choose_corrosion(border_profiles([]), border_profiles([])).profiles["painted"].isna().all()


def test_profiles_leave_out_what_has_no_border_and_count_each_lesion() -> None:
    image = make_cases(1, SIZE)[0].image
    full, none, dot = np.ones((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), np.uint8), disc(1.5)
    two = np.zeros((SIZE, SIZE), np.uint8)
    two[5:25, 5:25], two[40:60, 40:60] = 1, 2
    assert border_profiles([(image, full), (image, none), (image, dot)]).shape == (0, BINS)
    assert border_profiles([(image, two)]).shape == (2, BINS)


def test_the_choice_repeats_itself() -> None:
    some, others = border_profiles(painted(12, 0.0)), border_profiles(painted(12, 0.1, seed=1))
    assert choose_corrosion(some, others, 3).numbers() == choose_corrosion(some, others, 3).numbers()
    assert choose_corrosion(some, others, 3).numbers() != choose_corrosion(some, others, 4).numbers()
