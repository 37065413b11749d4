"""Augmentation keeps image and mask together and repeats itself by its seed."""

import torch

from meddiff.augmentation import augment
from meddiff.segmentation import to_input


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


def test_the_seed_repeats_and_changes_it(cases):
    images, masks = batch(cases)
    first, again, other = (augment(images, masks, seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_sample_does_not_depend_on_its_neighbours(cases):
    images, masks = batch(cases)
    whole = augment(images, masks, seeded(3))[0]
    swapped = augment(torch.cat([images[:5], images[:1]]), torch.cat([masks[:5], masks[:1]]), seeded(3))[0]
    assert torch.equal(whole[:5], swapped[:5])
    assert not torch.equal(whole[5], swapped[5])


def test_upside_down_only_where_allowed():
    """Bright top, dark bottom: rotation by 20 degrees cannot turn it over, a vertical flip does."""
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


def test_class_indices_stay_whole(cases):
    images, masks = batch(cases, 12)
    masks[:, :, 32:] *= 3
    assert set(augment(images, masks, seeded(6))[1].unique().tolist()) == {0.0, 1.0, 3.0}
