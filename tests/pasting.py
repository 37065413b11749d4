"""Phantoms whose lesions can be told apart, and lesions pasted on other backgrounds."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from meddiff.cases import Case, Pixels
from tests.conftest import make_cases

SIZE = 64
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1)).repeat(3, axis=2)


def blob_cases(n: int, seed: int) -> list[Case]:
    """Phantoms whose lesions differ in gray level and coarse structure, as real ones do."""
    cases = []
    for i, case in enumerate(make_cases(n, SIZE, seed)):
        rng = np.random.default_rng([seed, i, 1])
        structure = ndimage.gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 4) * 4 * rng.uniform(8, 16) + rng.uniform(-12, 12)
        assert case.mask is not None
        image = np.clip(case.image + (structure * case.mask)[:, :, None], 0, 255).astype(np.uint8)
        cases.append(replace(case, image=image))
    return cases


def pasted(case: Case, shift: int = 0, gray: float = 0.0, background: int = 0) -> tuple[Pixels, Pixels]:
    """The case's lesion on a lesion-free image, moved, and brighter by `gray`."""
    ground = make_cases(1, SIZE, 900 + background, lesion=False)[0].image.astype(float)
    assert case.mask is not None
    mask, image = np.roll(case.mask, shift, axis=1), np.roll(case.image, shift, axis=1).astype(float) + gray
    soft = ndimage.gaussian_filter(mask.astype(float), 0.5)[:, :, None]
    return np.clip(image * soft + ground * (1 - soft), 0, 255).astype(np.uint8), mask


def stack(pairs: list[tuple[Pixels, Pixels]]) -> tuple[Pixels, Pixels]:
    images, masks = zip(*pairs, strict=True)
    return np.stack(images), np.stack(masks)


def filled(case: Case, content: Pixels) -> tuple[Pixels, Pixels]:
    image, mask = pasted(case)
    return np.where(mask[:, :, None] > 0, content, image).astype(np.uint8), mask
