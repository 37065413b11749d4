"""Copies that are turned, mirrored or cropped are found; what is alike in general isn't."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

from meddiff.cases import Pixels
from meddiff.datasets.registration import picture, registered_pairs


def skins(n: int, seed: int = 0, side: int = 64) -> list[Pixels]:
    """Smooth texture with a dark disc in the middle, as lesions are alike."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    rng = np.random.default_rng(seed)
    blob = 60 * np.clip((side / 4 - np.hypot(y, x)) / 4, 0, 1)
    return [np.repeat(np.clip(150 - blob + gaussian_filter(rng.normal(0, 60, (side, side)), side / 40), 0, 255)[..., None], 3, 2)
            .astype(np.uint8) for _ in range(n)]


def cropped(image: Pixels, left: int, top: int) -> Pixels:
    """So many pixels cut off, and resized to the whole."""
    part = np.ascontiguousarray(image[top:, left:])
    return np.asarray(Image.fromarray(part).resize(image.shape[1::-1], Image.Resampling.BILINEAR))


def dimmed(image: Pixels) -> Pixels:
    return (image * 0.85 + 5).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("change", [
    lambda image: rotate(image, 4, reshape=False, order=1),
    lambda image: rotate(image, -45, reshape=False, order=1, mode="nearest"),
    lambda image: rotate(image[:, ::-1], 17, reshape=False, order=1, mode="reflect"), lambda image: image[::-1],
    lambda image: cropped(image, len(image) // 20, 0), lambda image: cropped(image, 0, len(image) * 15 // 100),
    lambda image: cropped(image[:, ::-1], len(image) // 8, len(image) // 8),
    lambda image: cropped(rotate(image, 10, reshape=False, order=1), len(image) // 16, 0),
])
def test_a_changed_copy_is_found_either_way_round(change: Callable[[Pixels], Pixels], side: int) -> None:
    images = skins(6, side=side)
    copy = picture(dimmed(change(images[2])))
    pictures = np.stack([*map(picture, images), copy])
    assert registered_pairs(pictures, 0.75).tolist() == [[2, 6]]
    assert registered_pairs(pictures, 0.75, 6).tolist() == [[2, 6]]
    assert registered_pairs(pictures[::-1], 0.75).tolist() == [[0, 4]]
    assert registered_pairs(pictures[[2, 6]], 0.75).tolist() == [[0, 1]]   # two alone


def test_pairs_on_one_side_are_left_out() -> None:
    skin, other = skins(2)
    pictures = np.stack([picture(image) for image in (skin, skin[::-1], other, skin[:, ::-1])])
    assert registered_pairs(pictures, 0.75).tolist() == [[0, 1], [0, 3], [1, 3]]
    assert registered_pairs(pictures, 0.75, 2).tolist() == [[0, 3], [1, 3]]
    assert registered_pairs(pictures, 0.75, 4).tolist() == registered_pairs(pictures, 0.75, 0).tolist() == []


def test_what_images_have_in_common_makes_no_copy() -> None:
    """A lesion in the middle, and the edge of a round sticker that turning and cropping would lay upon each other."""
    y, x = np.mgrid[:64, :64]
    stickers = [np.where((np.hypot(y - 30 - 3 * i, x - 64 + 2 * i) < 18)[..., None], 90, image).astype(np.uint8)
                for i, image in enumerate(skins(5, 3))]
    assert registered_pairs(np.stack([picture(image) for image in (*skins(200), *stickers)]), 0.7).tolist() == []
    assert registered_pairs(np.zeros((3, 64, 64), np.uint8), 0.5).tolist() == []
