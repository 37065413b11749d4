"""The imaged field holds what an image shows, and no black surround."""

import numpy as np
import pytest

from meddiff.cases import Pixels, read_image, read_mask
from meddiff.datasets.demo import make_phantoms
from meddiff.lesions.fields import box, imaged_field
from meddiff.lesions.shapes import Bits
from tests.conftest import SHARED_DATA


def shown(where: Bits, level: int = 120, black: int = 0) -> Pixels:
    """Speckle where something is shown, noisy black elsewhere."""
    rng = np.random.default_rng(0)
    gray = np.where(where, rng.rayleigh(level, where.shape), rng.normal(black, 2, where.shape))
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def iou(a: Bits, b: Bits) -> float:
    return float((a & b).sum() / (a | b).sum())


def sector(size: int) -> Bits:
    y, x = np.mgrid[:size, :size] / size
    return (np.hypot(y + 0.15, x - 0.5) < 1.05) & (np.abs(np.arctan2(x - 0.5, y + 0.15)) < 0.5) & (y > 0.03)


def circle(size: int, radius: float) -> Bits:
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    return np.hypot(y, x) < radius


@pytest.mark.parametrize("size", [64, 128, 300])
def test_sector_lens_and_padded_frame_are_found(size: int) -> None:
    bars = np.zeros((size, size), bool)
    bars[size // 5:-size // 5] = True
    for where in (sector(size), circle(size, 0.45), bars):
        assert iou(imaged_field(shown(where)), where) > 0.93
    vignette = circle(size, 0.5)
    assert iou(imaged_field(shown(vignette, 180, 35)), vignette) > 0.93, "corners that are dark, not black"


def test_a_dark_lesion_its_shadow_and_captions_change_nothing() -> None:
    where = sector(128)
    image = shown(where)
    image[50:128, 55:75] = 3  # a lesion and the shadow behind it, down to the border
    image[4:9, 2:22] = 255  # a caption beside the sector
    assert iou(imaged_field(image), where) > 0.9
    assert not imaged_field(image)[4:9, 2:8].any()


def test_what_is_lit_throughout_or_not_at_all_is_the_whole_frame() -> None:
    whole = np.ones((64, 64), bool)
    assert imaged_field(shown(whole)).all()
    assert imaged_field(shown(~whole)).all()
    assert imaged_field(shown(circle(64, 0.15))).all(), "less than a fifth of the frame is no field"
    assert imaged_field(np.full((64, 64, 3), 30, np.uint8)).all()


@pytest.mark.parametrize("modality", ["ultrasound", "dermoscopy"])
def test_lesions_of_phantoms_lie_inside(modality: str) -> None:
    for case in make_phantoms(24, True, 64, modality, 0):
        assert case.mask is not None
        assert case.mask[imaged_field(case.image)].sum() > 0.9 * case.mask.sum(), case.id


def test_box_is_given_in_shares() -> None:
    field = np.zeros((10, 20), bool)
    field[2:5, 10:20] = True
    assert box(field).tolist() == [[0.2, 0.5], [0.5, 1.0]]


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real datasets aren't here")
@pytest.mark.parametrize("name", ["busi", "isic2017"])
def test_real_lesions_lie_inside(name: str) -> None:
    outside, areas = [], []
    for path in sorted((SHARED_DATA / name / "masks").glob("*.png"))[::9]:
        field = imaged_field(read_image(SHARED_DATA / name / "images" / f"{path.stem}.jpg"))
        mask = read_mask(path) > 0
        outside.append((mask & ~field).sum() / max(1, mask.sum()))
        areas.append(field.mean())
    assert np.mean(outside) < 0.005
    assert np.mean(np.array(outside) > 0.03) < 0.03
    assert min(areas) < 0.8, "black surround is found somewhere"
