"""Lesions go by the first method that passes the inspector; what fails is dropped with its reason."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from meddiff.backgrounds import removal as module
from meddiff.backgrounds.removal import Removal, hole, remove_lesions
from meddiff.cases import Case, Frame, Pixels
from meddiff.diffusion.inpainting import to_tensor
from meddiff.painting.painter import Painter
from meddiff.params import BackgroundsParams, SegmentParams
from meddiff.segmentation.inspector import train_inspector
from meddiff.segmentation.segmenter import Segmenter
from tests.conftest import make_cases
from tests.pipelines import embedded


@pytest.fixture(scope="module")
def inspector() -> Segmenter:
    return train_inspector(make_cases(16), SegmentParams(steps=60), 0)


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter.of(embedded(torch.stack([to_tensor(case.image) for case in make_cases(8)])), [])


def no_painter() -> Painter:
    raise AssertionError("the foundation isn't needed")


def last(removals: Sequence[Removal]) -> dict[str, Removal]:
    return {removal.case: removal for removal in removals}


def outside_is_the_same(case: Case, image: Pixels | None) -> bool:
    return image is not None and bool(np.array_equal(image[~hole(case)], case.image[~hole(case)]))


def test_texture_removes_lesions_and_the_inspector_agrees(inspector: Segmenter) -> None:
    cases = make_cases(10, seed=5)
    removals = remove_lesions(cases, BackgroundsParams(fill=("texture",)), inspector, no_painter)
    assert [removal.case for removal in removals] == [case.id for case in cases]
    kept = [(case, removal) for case, removal in zip(cases, removals, strict=True) if not removal.reason]
    assert len(kept) >= 6
    for case, removal in kept:
        assert removal.method == "texture"
        assert removal.after <= 0.1 * removal.before
        assert outside_is_the_same(case, removal.image)
        assert removal.image is not None
        assert removal.image[case.mask > 0].mean() > case.image[case.mask > 0].mean() + 40  # type: ignore[operator]


def test_a_fill_that_still_shows_a_lesion_is_dropped_unless_nothing_is_checked(
    inspector: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fill_with_texture", lambda image, hole, frame: image.copy())
    cases = make_cases(4, seed=5)
    settings = BackgroundsParams(fill=("texture",))
    removals = remove_lesions(cases, settings, inspector, no_painter)
    assert {removal.reason for removal in removals} == {"lesion found"}
    assert all(removal.after == removal.before > 0.5 for removal in removals)
    unchecked = remove_lesions(cases, settings.model_copy(update={"residue": 1.0}), inspector, no_painter)
    assert {removal.reason for removal in unchecked} == {""}


def test_the_foundation_fills_what_texture_cannot(
    inspector: Segmenter, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, fill = make_cases(4, seed=5), module.fill_with_texture

    def some(image: Pixels, hole: Any, frame: Any) -> Pixels | None:
        return None if np.array_equal(image, cases[1].image) else fill(image, hole, frame)

    monkeypatch.setattr(module, "fill_with_texture", some)
    done: list[int] = []
    removals = remove_lesions(cases, BackgroundsParams(fill_steps=2, residue=1.0), inspector, lambda: painter,
                              lambda count, total, values: done.append(count))
    assert [(r.case, r.method, r.reason) for r in removals if r.case == cases[1].id] == [
        (cases[1].id, "texture", "no source"), (cases[1].id, "foundation", "")]
    assert [last(removals)[case.id].method for case in cases] == ["texture", "foundation", "texture", "texture"]
    assert outside_is_the_same(cases[1], last(removals)[cases[1].id].image)
    assert done == [3, 4]


def test_a_foundation_fill_depends_on_its_own_case_and_seed_alone(inspector: Segmenter, painter: Painter) -> None:
    cases = make_cases(3, seed=5)
    settings = BackgroundsParams(fill=("foundation",), fill_steps=2, residue=1.0)

    def filled(some: Sequence[Case], seed: int = 0) -> Pixels:
        image = remove_lesions(some, settings.model_copy(update={"seed": seed}), inspector, lambda: painter)[-1].image
        assert image is not None
        return image.astype(np.int16)

    alone = filled(cases[2:])
    assert np.abs(filled(cases) - alone).max() <= 1
    assert np.abs(filled(cases[2:], seed=1) - alone).max() > 1


def test_too_large_a_lesion_is_left_and_the_share_is_of_the_frame(inspector: Segmenter) -> None:
    (case,) = make_cases(1, seed=5)
    mask = np.zeros((32, 32), np.uint8)
    mask[12:20, 8:24] = 1
    settings = BackgroundsParams(fill=("texture",), residue=1.0)
    framed = replace(case, mask=mask, frame=Frame(8, 0, 16, 32))
    (removal,) = remove_lesions([framed], settings, inspector, no_painter)
    assert (removal.method, removal.reason, removal.image) == ("", "too large", None)
    assert np.isnan(removal.before)
    (removal,) = remove_lesions([replace(case, mask=mask)], settings, inspector, no_painter)
    assert removal.reason != "too large"


@pytest.mark.parametrize("method", ["texture", "foundation"])
def test_bars_stay_and_several_lesions_of_several_classes_go(method: Any, inspector: Segmenter, painter: Painter) -> None:
    frame = Frame(4, 0, 24, 32)
    (case,) = make_cases(1, seed=6, lesion=False)
    mask, image = np.zeros((32, 32), np.uint8), case.image.copy()
    mask[4:7, 4:9], mask[20:23, 22:26] = 1, 2
    image[mask > 0] = 40
    image[~frame.mask(32)] = 0
    settings = BackgroundsParams(fill=(method,), fill_steps=2, residue=1.0)
    (removal,) = remove_lesions([replace(case, image=image, mask=mask, frame=frame)], settings, inspector, lambda: painter)
    assert removal.image is not None
    assert not removal.image[~frame.mask(32)].any()
    for label in (1, 2):
        assert (removal.image[mask == label] != 40).any()
        if method == "texture":
            assert removal.image[mask == label].mean() > 120
