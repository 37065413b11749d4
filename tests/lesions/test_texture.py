import numpy as np
import pytest

from meddiff.lesions.texture import keep_texture, texture_ratios

SIZE = 64


def _disc(radius: float = 14) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return np.hypot(y, x) < radius


def _noisy(deviation: np.ndarray | float, level: np.ndarray | float = 120.0, seed: int = 0) -> np.ndarray:
    """Gray levels with relative noise, so that the logarithm's deviation is `deviation` everywhere."""
    noise = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    gray = (np.broadcast_to(level, (SIZE, SIZE)) + 16) * np.exp(deviation * noise) - 16
    return np.repeat(np.clip(gray, 0, 255)[:, :, None], 3, axis=2)


def _pixels(image: np.ndarray) -> np.ndarray:
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("share", [0.4, 1.0, 2.0])
def test_ratios_measure_the_lesions_share_of_its_rings_texture(share: float) -> None:
    mask = _disc()
    images = [_pixels(_noisy(np.where(mask, share, 1.0) * 0.1, seed=seed)) for seed in range(5)]
    assert texture_ratios(images, [mask.astype(np.uint8)] * 5) == pytest.approx([share] * 2, rel=0.15)


def test_no_ratios_without_a_measurable_lesion() -> None:
    assert texture_ratios([_pixels(_noisy(0.1))], [np.zeros((SIZE, SIZE), np.uint8)]) == []


@pytest.mark.parametrize("level", [30.0, 120.0])
def test_a_smooth_lesion_gets_what_it_lacks(level: float) -> None:
    mask, ground = _disc(), _pixels(_noisy(0.1))
    smooth = np.where(mask[:, :, None], level, ground).astype(np.float32)
    kept = keep_texture(smooth, ground, mask, [0.8, 0.8])
    found = texture_ratios([_pixels(np.clip(kept, 0, 255))], [mask.astype(np.uint8)])
    assert found == pytest.approx([0.8, 0.8], rel=0.35)  # white noise: what fills one band leaks into the other
    assert np.array_equal(kept[~mask], smooth[~mask])
    assert abs(kept[mask].mean() - level) < 2
    half = keep_texture(smooth, ground, mask, [0.8, 0.8], strength=0.5)
    assert 0.4 * kept[mask].std() < half[mask].std() < 0.6 * kept[mask].std()


def test_a_sharp_lesion_is_left_alone() -> None:
    mask, ground = _disc(), _pixels(_noisy(0.1))
    sharp = np.where(mask[:, :, None], _noisy(0.3, seed=1), ground).astype(np.float32)
    assert np.allclose(keep_texture(sharp, ground, mask, [1.0, 1.0]), sharp, atol=1e-3)


def test_no_strength_changes_nothing() -> None:
    mask, ground = _disc(), _pixels(_noisy(0.1))
    smooth = np.where(mask[:, :, None], 60, ground).astype(np.float32)
    assert np.allclose(keep_texture(smooth, ground, mask, [1.0, 1.0], strength=0.0), smooth, atol=1e-3)


def test_a_structure_of_the_background_does_not_shine_through() -> None:
    """A bright line under the mask, ten times the texture, comes back at most as strong as texture may be."""
    mask, ground = _disc(), _noisy(0.02)
    ground[30:32] += 100
    smooth = np.where(mask[:, :, None], 60, ground).astype(np.float32)
    kept = keep_texture(smooth, _pixels(np.clip(ground, 0, 255)), mask, [1.0, 1.0])
    assert np.abs(kept - smooth).max() < 15


def test_colours_stay() -> None:
    mask, ground = _disc(), _pixels(_noisy(0.1))
    lesion = np.where(mask[:, :, None], np.array([140, 90, 60]), ground).astype(np.float32)
    kept = keep_texture(lesion, ground, mask, [1.0, 1.0])[mask] + 16
    assert kept.std(axis=0).min() > 1
    assert np.allclose(kept / kept.sum(axis=1, keepdims=True), np.array([156, 106, 76]) / 338, atol=1e-3)


def test_far_pixels_change_nothing_in_a_larger_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame only the lesion and its surroundings are computed."""
    mask = np.roll(_disc(9), -20, axis=0)
    ground, smooth = _pixels(_noisy(0.1)), _noisy(0.02, seed=2).astype(np.float32)
    kept = keep_texture(smooth, ground, mask, [0.8, 0.8])
    monkeypatch.setattr("meddiff.lesions.texture.REACH", SIZE)
    assert np.array_equal(keep_texture(smooth, ground, mask, [0.8, 0.8]), kept)
