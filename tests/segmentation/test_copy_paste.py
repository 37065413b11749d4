"""Pasted lesions: only they and their soft border change the background, masks fit them, and the seed decides everything."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from meddiff.cases import Case
from meddiff.errors import MeddiffError
from meddiff.lesions.fields import imaged_field
from meddiff.segmentation.copy_paste import SOFT, copy_paste
from tests.conftest import make_cases
from tests.pasting import blob_cases

SIDE = 64


def grounds(n: int = 3, size: int = SIDE) -> list[np.ndarray]:
    return [case.image for case in make_cases(n, size, seed=9, lesion=False)]


def nearest(image: np.ndarray, backgrounds: list[np.ndarray]) -> np.ndarray:
    return min(backgrounds, key=lambda ground: np.abs(image.astype(int) - ground).sum())


def test_beyond_the_soft_border_the_background_is_there_bit_for_bit():
    backgrounds = grounds()
    for pair in copy_paste(blob_cases(6, 0), backgrounds, 12, 0):
        assert pair.image.dtype == pair.mask.dtype == np.uint8
        ground, distance = nearest(pair.image, backgrounds), ndimage.distance_transform_edt(pair.mask == 0)
        changed = (pair.image != ground).any(axis=2)
        assert not changed[distance > round(SIDE / SOFT)].any()
        assert changed[pair.mask > 0].mean() > 0.9


def test_the_mask_covers_the_dark_lesion():
    """The lesions are darker than anything around them by 80 levels: misplaced masks would mix the two."""
    for pair in copy_paste(make_cases(6, SIDE), grounds(), 12, 1):
        gray = ndimage.gaussian_filter(pair.image[:, :, 0].astype(float), 1)
        inside = ndimage.binary_erosion(pair.mask > 0, iterations=2)
        outside = ~ndimage.binary_dilation(pair.mask > 0, iterations=4)
        assert gray[inside].max() < 115 < gray[outside].min()
        assert pair.mask.any()


def test_lesions_keep_their_contrast_in_darker_surroundings():
    dark = [(ground * 0.6).astype(np.uint8) for ground in grounds()]
    for pair in copy_paste(make_cases(6, SIDE), dark, 8, 0):
        inside = ndimage.binary_erosion(pair.mask > 0, iterations=2)
        assert pair.image[inside].mean() / pair.image[pair.mask == 0].mean() == pytest.approx(70 / 150, abs=0.06)


def test_the_seed_decides_everything_and_more_pairs_go_on_from_fewer():
    cases, backgrounds = blob_cases(5, 0), grounds()
    first, again, more, other = (copy_paste(cases, backgrounds, n, seed) for n, seed in ((6, 3), (6, 3), (9, 3), (6, 4)))
    assert len(more) == 9
    assert len({pair.id for pair in more}) == 9
    for a, b, c in zip(first, again, more, strict=False):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.image, c.image)
        assert np.array_equal(a.mask, c.mask)
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))


def test_all_lesions_take_turns_near_real_places_and_move():
    cases = [replace(case, group=case.id) for case in make_cases(6, SIDE)]
    pairs = copy_paste(cases, grounds(), 12, 0)
    assert sorted(pair.group for pair in pairs) == sorted([case.id for case in cases] * 2)
    centres = np.array([np.argwhere(case.mask).mean(axis=0) for case in cases])
    low, high, by_group = centres.min(axis=0) - 0.1 * SIDE, centres.max(axis=0) + 0.1 * SIDE, {c.id: c for c in cases}
    for pair in pairs:
        centre = np.argwhere(pair.mask).mean(axis=0)
        assert ((low < centre) & (centre < high)).all()
        ratio = (pair.mask > 0).sum() / by_group[pair.group].mask.sum()
        assert 0.55 < ratio < 1.7                                # 0.8² to 1.25²
        assert not np.array_equal(pair.mask, by_group[pair.group].mask)


def test_classes_stay_and_touching_ones_stay_together():
    """A core of class 2 in a shell of class 1, and apart from both a lesion of class 3."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = (np.hypot(y - 24, x - 20) < 12).astype(np.uint8)
    mask[np.hypot(y - 24, x - 20) < 6] = 2
    mask[np.hypot(y - 46, x - 48) < 7] = 3
    image = np.repeat(np.array([150, 90, 50, 20], np.uint8)[mask][:, :, None], 3, axis=2)
    pairs = copy_paste([Case("c", image, mask)], [np.full_like(image, 150)], 6, 0)
    for pair in pairs:
        gray = pair.image[:, :, 0]
        assert set(np.unique(pair.mask).tolist()) == {0, 1, 2, 3}
        for label, level in ((1, 90), (2, 50), (3, 20)):
            core = ndimage.binary_erosion(pair.mask == label, iterations=2)
            assert np.abs(gray[core].astype(int) - level).max() < 12
        assert not (ndimage.binary_dilation(pair.mask == 2) & (pair.mask == 0)).any()
        assert ndimage.label(pair.mask > 0)[1] == 2


def test_nothing_is_painted_outside_of_the_imaged_field():
    backgrounds = grounds()
    for ground in backgrounds:
        ground[:20], ground[-6:], ground[:, :8] = 0, 0, 0
    for pair in copy_paste(make_cases(6, SIDE), backgrounds, 12, 2):
        ground = nearest(pair.image, backgrounds)
        outside = ~imaged_field(ground)
        assert outside[:18].all()
        assert np.array_equal(pair.image[outside], ground[outside])
        assert not pair.mask[outside].any()
        assert pair.mask.any()


def test_upside_down_only_where_allowed():
    """Lesions with a bright upper half: turned by 20 degrees and mirrored it stays the upper one."""
    cases = make_cases(6, SIDE)
    for case in cases:
        rows = np.arange(SIDE)[:, None] < np.argwhere(case.mask)[:, 0].mean()
        case.image[(case.mask > 0) & rows], case.image[(case.mask > 0) & ~rows] = 110, 30

    def upright(upside_down: bool) -> float:
        found = []
        for pair in copy_paste(cases, grounds(), 24, 0, upside_down):
            rows = np.arange(SIDE)[:, None] < np.argwhere(pair.mask)[:, 0].mean()
            inside = pair.mask > 0
            found.append(pair.image[inside & rows].mean() > pair.image[inside & ~rows].mean())
        return float(np.mean(found))

    assert upright(False) == 1
    assert 0.2 < upright(True) < 0.8


def test_a_lesion_that_the_frame_cuts_off_is_no_source_unless_all_are():
    whole, cut = make_cases(2, SIDE)
    half = np.zeros_like(cut.mask)
    half[:14, 20:44] = 1
    cut = replace(cut, mask=half, group="cut")
    assert {pair.group for pair in copy_paste([whole, cut], grounds(), 6, 0)} == {whole.group}
    assert {pair.group for pair in copy_paste([cut], grounds(), 3, 0)} == {"cut"}


def test_what_is_lacking_is_told():
    with pytest.raises(MeddiffError, match="need a lesion-free background"):
        copy_paste(make_cases(2, SIDE), [], 3, 0)
    with pytest.raises(MeddiffError, match="must be an annotated lesion"):
        copy_paste(make_cases(2, SIDE, lesion=False), grounds(), 3, 0)
    everywhere = [replace(case, mask=np.ones_like(case.mask)) for case in make_cases(1, SIDE)]
    slits = grounds(1)
    slits[0][:24], slits[0][-24:] = 0, 0
    with pytest.raises(MeddiffError, match="must fit into the imaged field of the backgrounds, 0 of 1 pairs did"):
        copy_paste(everywhere, slits, 1, 0)
