"""Text that is drawn on images is seen, in any colour and size of image; images without text aren't flagged."""

import numpy as np
import pytest
from burned_text import written

from meddiff.datasets.burned_text import shows_text
from meddiff.datasets.demo import make_phantoms

PHANTOMS = [case.image for case in make_phantoms(6, True, 192, "ultrasound", 5)]


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 255, 0)])
def test_text_is_seen(colour: tuple[int, int, int]) -> None:
    seen = [shows_text(written(image, height, colour, np.random.default_rng(i)))
            for height in (16, 24) for i, image in enumerate(PHANTOMS)]
    assert sum(seen) >= 0.8 * len(seen)


def test_images_without_text_arent_flagged() -> None:
    assert not [i for i, image in enumerate(PHANTOMS) if shows_text(image)]
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    for image in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8), noise, noise[:1, :1]):
        assert not shows_text(image)


def test_large_images_are_shrunk_first() -> None:
    large = np.full((1600, 2400, 3), 90, np.uint8)
    assert not shows_text(large)
    assert shows_text(written(large, 60, (255, 255, 255), np.random.default_rng(0)))
