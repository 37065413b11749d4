"""What is filled becomes texture of the image, the rest stays, and no seam shows."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from meddiff.backgrounds.fill import clone, fill_with_texture
from meddiff.datasets.demo import make_phantoms
from meddiff.segmentation.inspector import near_lesions


def texture(size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    gray = 130 + 60 * gaussian_filter(rng.standard_normal((size, size)), 1.5) + 20 * np.linspace(0, 1, size)[:, None]
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def fill(image: np.ndarray, mask: np.ndarray, frame: np.ndarray | None = None) -> np.ndarray | None:
    """Fill a lesion with its halo."""
    frame = np.ones(mask.shape, dtype=bool) if frame is None else frame
    return fill_with_texture(image, near_lesions(mask) & frame, frame)


def disc(size: int, radius: float, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.uint8)


@pytest.mark.parametrize("size", [48, 64, 256])
@pytest.mark.parametrize("radius", [0.08, 0.25])
def test_lesion_becomes_texture_and_the_rest_is_untouched(size: int, radius: float) -> None:
    clean, mask = texture(size), disc(size, radius)
    image = np.where(mask[:, :, None] > 0, np.uint8(15), clean)
    result = fill(image, mask)
    assert result is not None
    far = ~binary_dilation(mask, iterations=size // 8)
    assert np.array_equal(result[far], image[far])
    inside = mask > 0
    assert abs(result[inside].mean() - clean[inside].mean()) < 15
    assert result[inside].std() > 0.6 * clean[inside].std()       # texture, not a blur


def test_no_seam_at_the_border() -> None:
    clean, mask = texture(64), disc(64, 0.2)
    result = fill(np.where(mask[:, :, None] > 0, np.uint8(15), clean), mask)
    assert result is not None
    steps = np.abs(np.diff(result[:, :, 0].astype(int), axis=1))
    hole = binary_dilation(mask, iterations=3)
    edge = np.diff(hole.astype(int), axis=1) != 0
    assert steps[edge].mean() < 1.6 * steps[:, :12].mean()


def test_what_is_taken_has_no_lesion() -> None:
    for case in make_phantoms(12, True, 64, "dermoscopy", 0):
        assert case.mask is not None
        result = fill(case.image, case.mask)
        if result is not None:
            inside = case.mask > 0
            outside = ~binary_dilation(inside, iterations=8)
            before = case.image[outside].mean() - case.image[inside].mean()
            assert case.image[outside].mean() - result[inside].mean() < 0.6 * before + 12


def test_a_colour_patch_is_not_copied_into_the_skin() -> None:
    rng = np.random.default_rng(0)
    image = np.clip(np.array([210, 160, 140]) + rng.normal(0, 4, (64, 64, 3)), 0, 255).astype(np.uint8)
    image[disc(64, 0.3, (0.5, 1.0)) > 0] = (20, 120, 230)
    mask = disc(64, 0.13, (0.5, 0.3))
    image[mask > 0] = (90, 50, 40)
    result = fill(image, mask)
    assert result is not None
    inside = result[mask > 0].astype(int)
    assert np.abs(inside - [210, 160, 140]).max() < 45


def test_bars_of_padding_are_neither_taken_nor_changed() -> None:
    frame = np.zeros((64, 64), dtype=bool)
    frame[14:50] = True
    image = np.where(frame[:, :, None], texture(64), np.uint8(0))
    mask = disc(64, 0.12, (0.35, 0.5)) * frame
    image[mask > 0] = 15
    result = fill(image, mask, frame)
    assert result is not None
    assert not result[~frame].any()
    assert result[mask > 0].min() > 60


def test_lesion_at_the_border_and_several_lesions() -> None:
    mask = disc(64, 0.1, (0.0, 0.3)) | disc(64, 0.08, (0.7, 0.8))
    clean = texture(64)
    result = fill(np.where(mask[:, :, None] > 0, np.uint8(10), clean), mask)
    assert result is not None
    assert result[mask > 0].mean() > 90


def test_no_lesion_changes_nothing_and_calls_agree() -> None:
    clean, mask = texture(64), disc(64, 0.2)
    assert np.array_equal(fill(clean, np.zeros_like(mask)), clean)  # type: ignore[arg-type]
    assert np.array_equal(fill(clean, mask), fill(clean, mask))  # type: ignore[arg-type]


def test_nowhere_to_take_from_gives_none() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[4::16, 4::16] = 1          # the widened spots leave too little room for rings
    frame = binary_dilation(mask, iterations=4)
    assert fill(texture(64), mask, frame) is None


def test_content_is_joined_by_its_gradients() -> None:
    clean, hole = texture(64), disc(64, 0.25) > 0
    other = np.clip(texture(64, 1).astype(int) - 60, 0, 255).astype(np.uint8)
    content = np.where(binary_dilation(hole)[:, :, None], other, clean)
    result = clone(clean, content, hole, np.ones_like(hole))
    assert np.array_equal(result[~hole], clean[~hole])
    assert abs(result[hole].mean() - clean[hole].mean()) < 15          # the content's level is not taken over, ...
    inner = disc(64, 0.15) > 0
    assert np.corrcoef(result[inner, 0], content[inner, 0])[0, 1] > 0.8  # ... its texture is
    assert np.array_equal(clone(clean, clean, hole, np.ones_like(hole)), clean)
