"""Lesions are told apart, and their features see the lesion and nothing else."""

import numpy as np
import torch
from scipy import ndimage

from meddiff.cases import Pixels
from meddiff.lesions import shapes
from meddiff.lesions.appearance import crop, erode, joint_features, lesion_features, split_lesions
from tests.pasting import blob_cases, pasted, stack


def scene() -> Pixels:
    mask = np.zeros((64, 64), np.uint8)
    mask[4:24, 4:24] = 1
    mask[24, 24] = 1     # touches by its corner
    mask[40:60, 4:14] = 1
    mask[40:60, 14:30] = 2  # touches another class
    mask[2, 60:63] = 2   # a speck
    return mask


def test_lesions_are_the_connected_parts_of_a_class_without_specks() -> None:
    parts = split_lesions(np.stack([scene(), np.zeros_like(scene()), (scene() > 0).astype(np.uint8)]))
    assert parts.owners.tolist() == [0, 0, 0, 2, 2]
    assert parts.classes.tolist() == [1, 1, 2, 1, 1]
    assert parts.masks.sum(axis=(1, 2)).tolist() == [401, 200, 320, 401, 520]
    assert set(np.unique(parts.masks)) == {0, 1}


def test_a_speck_is_one_for_features_where_it_is_one_for_shapes() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[4:44, 4:44] = 1
    mask[6:42, 6:42] = 0        # a ring of 304 pixels around an area of 1600
    mask[50:56, 50:58] = 2      # 48: a twentieth of the ring, not of what it encloses
    parts = split_lesions(mask[None])
    assert parts.classes.tolist() == [part.label for part in shapes.parts(mask)] == [1]
    assert parts.masks[0].sum() == 304, "the hole isn't lesion"
    mask[50:60, 50:60] = 2
    assert sorted(split_lesions(mask[None]).classes.tolist()) == sorted(part.label for part in shapes.parts(mask)) == [1, 2]


def test_no_lesion_gives_no_parts() -> None:
    parts = split_lesions(np.zeros((2, 32, 32), np.uint8))
    assert parts.masks.shape == (0, 32, 32)
    assert len(parts.owners) == len(parts.classes) == 0


def test_features_do_not_see_the_background() -> None:
    first, second = blob_cases(2, seed=2)
    (look, here), (there_look, there), (_, other) = (lesion_features(*stack([one])) for one in (
        pasted(first), pasted(first, background=4), pasted(second)))
    assert np.linalg.norm(here - there) < 0.1 * np.linalg.norm(here - other)
    assert np.abs(look - there_look).max() < 0.2


def test_features_do_not_depend_on_the_company() -> None:
    images, masks = stack([pasted(case) for case in blob_cases(24, seed=2) * 3])
    for many, one in zip(lesion_features(images, masks), lesion_features(images[70:71], masks[70:71]), strict=True):
        np.testing.assert_allclose(many[70], one[0], atol=1e-4)


def test_statistics_of_whole_images_see_the_background() -> None:
    images, masks = stack([pasted(blob_cases(1, seed=2)[0], background=i) for i in (0, 4)])
    lesion, whole = joint_features(images, masks), joint_features(images, None)
    assert lesion.shape == whole.shape == (2, 266)
    assert np.linalg.norm(whole[0, 9:] - whole[1, 9:]) > 3 * np.linalg.norm(lesion[0, 9:] - lesion[1, 9:])


def test_erosion_is_that_of_scipy_and_ends_at_no_frame() -> None:
    masks = np.stack([case.mask for case in blob_cases(3, seed=2) if case.mask is not None] + [np.ones((64, 64), np.uint8)])
    for radius in (1, 2, 4, 7):
        wanted = np.stack([ndimage.minimum_filter(mask, 2 * radius + 1, mode="constant", cval=255) for mask in masks])
        assert (erode(masks, radius) == wanted).all()
        assert erode(masks, radius)[-1].all()


def test_a_crop_is_the_bounding_square() -> None:
    inside = torch.zeros(1, 1, 32, 32)
    inside[0, 0, 8:16, 4:20] = 1
    values = torch.arange(32.0).expand(1, 1, 32, 32)  # the column
    square = crop(values, inside, 16)
    np.testing.assert_allclose(square[0, 0].numpy(), np.arange(4, 20)[None].repeat(16, 0), atol=1e-4)
    rows = crop(values.transpose(2, 3), inside, 16)[0, 0, :, 0].numpy()
    np.testing.assert_allclose(rows, np.arange(4, 20), atol=1e-4)  # centred: four rows above and below
