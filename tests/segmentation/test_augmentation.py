"""Augmentation keeps image and mask together and repeats itself by its seed."""

from dataclasses import replace

import pytest
import torch

from meddiff.segmentation.augmentation import AUGMENTATIONS, CLASSIC, STRONG, Ranges, augment, augment_strongly, augment_within
from meddiff.segmentation.segmenter import to_input


def batch(cases, n=6, size=64):
    import numpy as np

    made = cases(n, size)
    return to_input(np.stack([c.image for c in made])), torch.from_numpy(np.stack([c.mask for c in made]))[:, None].float()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_dark_lesion_stays_under_its_mask(cases):
    images, masks = batch(cases, 12)
    changed, moved = augment(images, masks, seeded(0))
    assert changed.shape == images.shape
    assert moved.shape == masks.shape
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert changed.min() >= -1
    assert changed.max() <= 1
    gray = changed.mean(1, keepdim=True)
    for image, mask, before in zip(gray, moved, masks, strict=True):
        assert not torch.equal(mask, before)
        inside, outside = image[mask > 0], image[mask == 0]
        threshold = (inside.mean() + outside.mean()) / 2
        assert (inside < threshold).float().mean() > 0.9  # misplaced masks would mix both gray levels
        assert (outside > threshold).float().mean() > 0.9


@pytest.mark.parametrize("augment", [augment, augment_strongly])
def test_the_seed_repeats_and_changes_it(cases, augment):
    images, masks = batch(cases)
    first, again, other = (augment(images, masks, seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("augment", [augment, augment_strongly])
def test_a_sample_does_not_depend_on_its_neighbours(cases, augment):
    images, masks = batch(cases)
    whole = augment(images, masks, seeded(3))[0]
    swapped = augment(torch.cat([images[:5], images[:1]]), torch.cat([masks[:5], masks[:1]]), seeded(3))[0]
    assert torch.equal(whole[:5], swapped[:5])
    assert not torch.equal(whole[5], swapped[5])


@pytest.mark.parametrize("augment", [augment, augment_strongly])
def test_upside_down_only_where_allowed(augment):
    """Bright top, dark bottom: rotation by 35 degrees cannot turn it over, a vertical flip does."""
    images = torch.linspace(0.8, -0.8, 64).view(1, 1, 64, 1).expand(64, 3, 64, 64).contiguous()
    masks = torch.zeros(64, 1, 64, 64)

    def upright(vertical: bool) -> float:
        changed = augment(images, masks, seeded(4), vertical)[0]
        return float((changed[:, :, :32].mean((1, 2, 3)) > changed[:, :, 32:].mean((1, 2, 3))).float().mean())

    assert upright(False) == 1.0
    assert 0.3 < upright(True) < 0.7


def test_left_and_right_are_both_seen():
    images = torch.linspace(0.8, -0.8, 64).view(1, 1, 1, 64).expand(64, 3, 64, 64).contiguous()
    changed = augment(images, torch.zeros(64, 1, 64, 64), seeded(5))[0]
    assert 0.3 < float((changed[..., :32].mean((1, 2, 3)) > changed[..., 32:].mean((1, 2, 3))).float().mean()) < 0.7


@pytest.mark.parametrize("augment", [augment, augment_strongly])
def test_class_indices_stay_whole(cases, augment):
    images, masks = batch(cases, 12)
    masks[:, :, 32:] *= 3
    assert set(augment(images, masks, seeded(6))[1].unique().tolist()) == {0.0, 1.0, 3.0}


def test_the_strong_one_moves_the_lesion_with_its_mask(cases):
    """A white lesion on black tells by itself where it went; holes and noise change few pixels."""
    _, masks = batch(cases, 24)
    images = masks.expand(-1, 3, -1, -1) * 1.6 - 0.8
    changed, moved = augment_strongly(images, masks, seeded(7))
    assert changed.shape == images.shape
    assert moved.shape == masks.shape
    assert changed.min() >= -1
    assert changed.max() <= 1
    level = (changed.flatten(1).amin(1) + changed.flatten(1).amax(1)).view(-1, 1, 1, 1) / 2
    wrong = ((changed.mean(1, keepdim=True) > level) != (moved > 0)).float().mean((1, 2, 3))
    assert wrong.max() < 0.12
    assert wrong.median() < 0.05
    assert (moved != masks).float().mean((1, 2, 3)).median() > 2 * wrong.median()


def test_the_strong_one_is_stronger(cases):
    images, masks = batch(cases, 24)

    def distance(augment) -> float:
        return float((augment(images, masks, seeded(8), False)[0] - images).abs().mean())

    changes = [distance(each) for each in AUGMENTATIONS["strong"]]
    assert changes == sorted(changes), "the choice is between rising strengths, from the usual one on"
    assert (changes[0], changes[-1]) == (distance(augment), distance(augment_strongly))
    assert changes[-1] > 1.2 * changes[0]
    assert all(getattr(STRONG, name) > value for name, value in vars(CLASSIC).items())


NOTHING = Ranges(angle=0, scale=0, shift=0, gamma=0, contrast=0, brightness=0, noise=0, blurred=0)  # but for mirroring


def test_the_elastic_change_bends_half_of_the_images():
    images = torch.linspace(-0.9, 0.9, 64).view(1, 1, 64, 1).expand(48, 3, 64, 64).contiguous()  # straight lines across
    masks = (images[:, :1] > 0).float()
    changed, moved = augment_within(images, masks, seeded(9), False, replace(NOTHING, elastic=STRONG.elastic))
    bent = (changed - images).abs().amax((1, 2, 3)) > 1e-4
    assert 0.3 < bent.float().mean() < 0.7
    assert torch.equal(bent, (moved != masks).flatten(1).any(1))
    sure = changed[:, :1].abs() > 0.06                              # nearest and linear sampling differ by a pixel
    assert torch.equal((changed[:, :1] > 0).float()[sure], moved[sure])


def test_holes_hide_the_image_and_not_the_mask(cases):
    images, masks = batch(cases, 48)
    plain, expected = augment_within(images, masks, seeded(9), False, NOTHING)
    changed, moved = augment_within(images, masks, seeded(9), False, replace(NOTHING, holes=STRONG.holes))
    assert torch.equal(moved, expected)
    hidden = (changed != plain).any(1).float().mean((1, 2))
    assert 0.3 < (hidden > 0).float().mean() < 0.7
    assert 0.02 < hidden.max() < 0.09
    patch = changed[hidden.argmax()][:, (changed != plain).any(1)[hidden.argmax()]]
    assert (patch == patch[:, :1]).all()


def test_gray_stays_gray_and_colours_shift(cases):
    images, masks = batch(cases, 12)
    gray = augment_strongly(images, masks, seeded(10))[0]
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])
    tinted = images * torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
    balance = (augment_strongly(tinted, masks, seeded(10))[0] + 1).mean((2, 3))
    assert (balance[:, 0] / balance[:, 2]).std() > 0.05
