"""One decision for the whole image: what it goes by, how it is chosen, and where it is kept."""

import json

import numpy as np
import pytest

from meddiff.cases import Case
from meddiff.params import SegmentParams
from meddiff.segmentation.decision import Bounds, choose_bounds, image_probability
from meddiff.segmentation.networks import Architecture
from meddiff.segmentation.segmenter import Segmenter, train_segmenter
from tests.conftest import make_cases

NAN = float("nan")


def test_an_image_is_as_probable_as_its_mirror_image_agrees() -> None:
    sure = np.zeros((4, 8, 8), np.float32)
    sure[:3, 2:4, 2:4] = 0.9
    mirrored = np.stack([sure[0], np.roll(sure[0], 4, axis=1), sure[0] / 2, sure[3]])
    assert image_probability(sure, mirrored) == pytest.approx([1, 0, 0.8, 0])


def test_the_bounds_find_lesion_free_images_and_keep_the_dice() -> None:
    areas, sure = np.array([0.2, 0.2, 0.3, 0.2, 0.2, 0.0]), np.array([0.9, 0.8, 0.2, 0.5, 0.1, 0.3])
    dice = [0.8, 0.7, 0.1, NAN, NAN, NAN]
    decision = choose_bounds(areas, sure, dice, 0.0)
    assert decision == Bounds(0.0, pytest.approx(0.15))     # the case of Dice 0.1 stays, and so one lesion-free image
    assert decision.shown(areas, sure).tolist() == [True, True, True, True, False, False]
    bolder = choose_bounds(areas, sure, dice, 0.05)
    assert bolder.probability == pytest.approx(0.65)
    assert bolder.shown(areas, sure).tolist() == [True, True, False, False, False, False]


def test_small_finds_fall_to_the_area() -> None:
    areas, sure = np.array([0.2, 0.1, 0.01, 0.02]), np.array([0.5, 0.6, 0.9, 0.8])
    assert choose_bounds(areas, sure, [0.8, 0.7, NAN, NAN], 0.0) == Bounds(pytest.approx(0.06), 0.0)


@pytest.mark.parametrize("dice", [[0.5, 0.6], [NAN, NAN]])
def test_cases_of_one_kind_alone_set_no_bounds(dice: list[float]) -> None:
    assert choose_bounds(np.array([0.1, 0.2]), np.array([0.3, 0.9]), dice, 0.5) == Bounds()


def test_no_bounds_where_any_would_cost_too_much() -> None:
    decision = choose_bounds(np.full(4, 0.2), np.array([0.1, 0.2, 0.8, 0.9]), [0.8, 0.9, NAN, NAN], 0.005)
    assert decision == Bounds()
    assert decision.shown(np.full(4, 0.2), np.zeros(4)).all()


@pytest.fixture(scope="module")
def decisive() -> tuple[Segmenter, list[Case]]:
    """Trained on lesions alone, with lesion-free validation cases."""
    validation = [*make_cases(6, seed=1), *make_cases(6, seed=2, lesion=False)]
    params = SegmentParams(steps=40, decision_cost=0.3)
    return train_segmenter(make_cases(12), [], params, 0, validation), validation


def test_a_trained_segmenter_decides_by_validation_cases_within_their_dice(decisive: tuple[Segmenter, list[Case]]) -> None:
    segmenter, validation = decisive
    images = np.stack([case.image for case in validation])
    findings = segmenter.findings(images)
    assert np.array_equal(segmenter.segment(images), findings.decided)
    assert not findings.decided[~findings.shown].any()
    assert np.array_equal(findings.decided[findings.shown], findings.masks[findings.shown])
    plain = train_segmenter(make_cases(12), [], SegmentParams(steps=40), 0, validation[:6])
    assert plain.bounds == Bounds()
    assert np.array_equal(plain.segment(images), findings.masks)    # the weights are chosen by cases with a lesion alone
    assert plain.validation_dice - 0.3 <= segmenter.validation_dice <= plain.validation_dice + 1e-9
    silent, before = ((masks[6:] == 0).all((1, 2)).sum() for masks in (findings.decided, findings.masks))
    assert silent >= before


def test_the_decision_is_kept_beside_the_weights(decisive: tuple[Segmenter, list[Case]], tmp_path) -> None:
    segmenter, validation = decisive
    segmenter.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["bounds"] == {
        "area": segmenter.bounds.area, "probability": segmenter.bounds.probability}
    loaded, images = Segmenter.load(tmp_path), np.stack([case.image for case in validation])
    assert loaded.bounds == segmenter.bounds
    assert np.array_equal(loaded.segment(images), segmenter.segment(images))


@pytest.mark.parametrize("classes", [1, 2])
def test_probabilities_are_those_of_lesion_or_classes(classes: int) -> None:
    architecture = Architecture("unet", 8, classes)
    segmenter, images = Segmenter(architecture.build().eval(), architecture), np.stack([case.image for case in make_cases(3)])
    values = segmenter.probabilities(images, batch_size=2)
    assert values.shape == (3, 1 if classes == 1 else 3, 32, 32)
    assert values.dtype == np.float32
    assert np.allclose(segmenter.predict(images), values[:, 0] if classes == 1 else 1 - values[:, 0], atol=1e-6)
    if classes > 1:
        assert np.allclose(values.sum(1), 1, atol=1e-5)
        assert np.array_equal(segmenter.segment(images), values.argmax(1))
