import math

import numpy as np
import pytest
from scipy import ndimage

from meddiff.lesions.seams import join, real_seams, seam

SIZE = 64


def _ground(seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 1)
    return np.repeat((120 + 30 * noise).astype(np.uint8)[:, :, None], 3, axis=2)


def _disc(radius: float = 14) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return np.hypot(y, x) < radius


def _pasted(ground: np.ndarray, mask: np.ndarray, offset: int, blur: float = 0.0) -> np.ndarray:
    share = ndimage.gaussian_filter(mask.astype(float), blur) if blur else mask.astype(float)
    return (ground + offset * share[:, :, None]).astype(np.uint8)


@pytest.mark.parametrize("rim", [0, 1, 3])
def test_an_untouched_background_has_no_seam(rim: int) -> None:
    assert seam(_ground(), _disc(), _ground(), rim) == 0
    assert abs(seam(_ground(), _disc(), None, rim)) < 0.3


@pytest.mark.parametrize("rim", [0, 1, 3])
def test_a_hard_paste_has_one_that_grows_with_its_offset(rim: int) -> None:
    ground, mask = _ground(), _disc()
    values = [seam(_pasted(ground, mask, offset), mask, ground, rim) for offset in (10, 30, 60)]
    assert 0.3 < values[0] < values[1] < values[2]
    assert values[1] > 3
    assert seam(_pasted(ground, mask, -60), mask, ground, rim) == pytest.approx(values[2], rel=0.1)
    assert seam(_pasted(ground, mask, 60, blur=4), mask, ground, rim) < values[2] / 3


def test_a_seam_at_the_end_of_the_rim_counts() -> None:
    ground, mask = _ground(), _disc()
    wider = ndimage.distance_transform_edt(~mask) <= 2
    assert seam(_pasted(ground, wider, 40), mask, ground, 2) > 3


def test_no_border_no_seam() -> None:
    assert math.isnan(seam(_ground(), np.ones((SIZE, SIZE), np.uint8), _ground(), 1))
    assert real_seams([_ground()], [np.zeros((SIZE, SIZE), np.uint8)]) == []


def test_real_seams_are_sorted() -> None:
    ground, mask = _ground(), _disc()
    found = real_seams([_pasted(ground, mask, offset) for offset in (60, 10, 30)], [mask.astype(np.uint8)] * 3)
    assert len(found) == 3
    assert found == sorted(found)


@pytest.mark.parametrize("rim", [0, 1, 3])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_join_leaves_the_background_beyond_the_rim(rim: int, limit: float | None) -> None:
    ground, mask = _ground(), _disc()
    image = join(np.full((SIZE, SIZE, 3), 30, np.float32), ground, mask, rim, limit)
    beyond = ndimage.distance_transform_edt(~mask) > rim
    assert np.array_equal(image[beyond], ground[beyond])
    assert (image[ndimage.distance_transform_edt(mask) > 8] == 30).all()  # the middle is the painting's


def test_a_border_is_softened_no_more_than_its_limit_asks() -> None:
    ground, mask, painted = _ground(), _disc(), np.full((SIZE, SIZE, 3), 30, np.float32)
    hard = join(painted, ground, mask, 1)
    strength = seam(hard, mask, ground, 1)
    assert (hard[mask] == 30).all()
    assert np.array_equal(join(painted, ground, mask, 1, strength + 0.1), hard)
    softer = join(painted, ground, mask, 1, strength / 2)
    assert seam(softer, mask, ground, 1) <= strength / 2
    softest = join(painted, ground, mask, 1, -10.0)  # not to be had: ends at the widest feather
    assert seam(softest, mask, ground, 1) < strength / 2
    assert (softest[_disc(6)] == 30).all()


def test_a_tiny_lesion_keeps_its_middle() -> None:
    mask = _disc(2.5)
    image = join(np.full((SIZE, SIZE, 3), 30, np.float32), _ground(), mask, 1, 0.0)
    assert image[mask].min() == 30


@pytest.mark.parametrize(("rim", "limit"), [(0, None), (1, 0.3), (3, -10.0)])
def test_far_pixels_change_nothing_in_a_larger_frame(rim: int, limit: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame only the lesion and its surroundings are computed."""
    mask, ground = np.roll(_disc(9), -20, axis=0), _ground()
    painted = _pasted(ground, mask, 60).astype(np.float32)
    joined = join(painted, ground, mask, rim, limit)
    monkeypatch.setattr("meddiff.lesions.seams.window", lambda mask, margin: (slice(None), slice(None)))
    assert np.array_equal(join(painted, ground, mask, rim, limit), joined)
