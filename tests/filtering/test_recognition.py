"""Copies are recognised however they were changed, and other lesions are not taken for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from meddiff.cases import Case
from meddiff.filtering.recognition import learn_recogniser, see_lesions
from meddiff.filtering.similarity import RealLesions, measure_real
from meddiff.lesions.appearance import split_lesions
from tests.pasting import blob_cases, pasted, stack


@pytest.fixture(scope="module")
def training() -> list[Case]:
    return blob_cases(24, seed=1)


@pytest.fixture(scope="module")
def real(training: list[Case]) -> RealLesions:
    return measure_real(training)


def turned(case: Case, degrees: float) -> Case:
    assert case.mask is not None
    return replace(case, image=ndimage.rotate(case.image, degrees, reshape=False, order=1, mode="nearest"),
                   mask=ndimage.rotate(case.mask, degrees, reshape=False, order=0))


def tighter(case: Case) -> Case:
    assert case.mask is not None
    mask, rows = case.mask.copy(), np.flatnonzero(case.mask.any(axis=1))
    mask[rows[0]:rows[0] + max(1, len(rows) // 10)] = 0
    return replace(case, mask=mask)


@pytest.mark.parametrize("change", [
    lambda case: case,
    lambda case: replace(case, image=case.image[:, ::-1], mask=case.mask[:, ::-1]),
    lambda case: turned(case, 90), lambda case: turned(case, 180), lambda case: turned(case, 33),
    lambda case: replace(case, image=np.clip(0.75 * case.image + 20, 0, 255).astype(np.uint8)),
    tighter,
], ids=["as it is", "mirrored", "by 90°", "by 180°", "by 33°", "recoloured", "cropped"])
def test_a_changed_copy_is_recognised(change: Callable[[Case], Case], training: list[Case], real: RealLesions) -> None:
    found = real.compare(*stack([pasted(change(case)) for case in training]))
    assert (found.greatest > 0.995).mean() > 0.8
    assert np.mean([name == case.id for name, case in zip(found.nearest, training, strict=True)]) > 0.9


def test_other_lesions_are_no_copies(real: RealLesions) -> None:
    found = real.compare(*stack([pasted(case) for case in blob_cases(60, seed=7)]))
    assert (found.greatest > 0.995).mean() <= 0.05
    assert 0.3 < np.median(found.greatest) < 0.7


def test_the_order_of_lesions_changes_nothing(training: list[Case], real: RealLesions) -> None:
    images, masks = stack([pasted(case, shift=3) for case in training])
    one, other = real.compare(images, masks), real.compare(images[::-1], masks[::-1])
    assert one.nearest == other.nearest[::-1]
    assert one.strangeness == pytest.approx(other.strangeness[::-1], abs=1e-4)


def test_two_lesions_are_enough(training: list[Case]) -> None:
    few = measure_real(training[:2])
    assert np.isfinite(few.own_copies).all()
    found = few.compare(*stack([pasted(case) for case in training[:2]]))
    assert np.isfinite(found.strangeness).all()
    assert found.nearest == [case.id for case in training[:2]]


def test_a_lesion_of_one_level_and_of_one_pixel_has_a_score(training: list[Case]) -> None:
    masks = np.stack([case.mask for case in training if case.mask is not None])
    images = np.stack([case.image for case in training])
    images[0], masks[1] = 90, 0
    masks[1, 5, 5] = 1
    seen = see_lesions(images, split_lesions(masks), known=True)
    assert np.isfinite(learn_recogniser(seen, ~np.eye(len(seen), dtype=bool)).own).all()
