"""What is told of masks: areas, lesions that a size loses, and colours."""

import numpy as np
import pytest

from meddiff.cases import Case, Pixels
from meddiff.datasets.adapters import fit_square
from meddiff.datasets.plausibility import MaskMeasures, count_lesions, measure, outline_sheet, refuse_colours, tell_masks
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams

SETTINGS = PrepareParams(size=32)


def measured(mask: Pixels, size: int = 32) -> MaskMeasures:
    fitted = fit_square(np.zeros((*mask.shape, 3), np.uint8), mask, size, "pad")
    return measure(mask, fitted.mask, fitted.frame)


def box(*sides: tuple[int, int, int, int], shape: tuple[int, int] = (128, 256), label: int = 1) -> Pixels:
    mask = np.zeros(shape, np.uint8)
    for top, left, height, width in sides:
        mask[top:top + height, left:left + width] = label
    return mask


def test_lesions_are_counted_by_what_the_size_leaves_of_them() -> None:
    mask = box((0, 0, 64, 64), (100, 17, 2, 2), (100, 201, 8, 4))
    mask[10:20, 10:20] = 2      # a class within another one is a lesion of its own
    found = measured(mask)
    assert found.share == (64 * 64 + 4 + 32) / (128 * 256)
    assert sorted(found.needed.tolist()) == [256 / 64, 256 / 10, 256 / 4, 256 / 2]
    assert found.lost == 1 + (measured(box((100, 201, 8, 4))).area == 0)
    assert count_lesions([found, measured(mask * 0)]) == {"lesions": 4, "lesions_lost": found.lost}
    for size in (128, 256):
        assert measured(mask, size).lost == 0


def test_the_advised_size_loses_none_of_those_that_it_names() -> None:
    rng = np.random.default_rng(0)
    masks = {str(i): box((0, 0, 100, 100), *((int(rng.integers(110, 120)), int(left), 5, 5)
                                             for left in rng.choice(25, 4, False) * 10)) for i in range(12)}
    lines = tell_masks({id: measured(mask) for id, mask in masks.items()}, [], SETTINGS)
    assert "of 60 lesions" in lines[-1]
    assert "`prepare.size: 64` keeps 100% of them" in lines[-1]
    assert not sum(measured(mask, 64).lost for mask in masks.values())
    specks = {"a": measured(box((0, 0, 1, 1), (9, 9, 1, 1), shape=(3000, 3000)))}
    assert "no size up to 1024 keeps 95% of them" in tell_masks(specks, [], SETTINGS)[-1]


@pytest.mark.parametrize(("masks", "empty", "first", "warnings"), [
    ([box((0, 0, 64, 64))] * 3, [], "masks cover 12.5% of the frame (median; 12.50% to 12.5%); 0 of 3 (0%) are empty", []),
    ([box((0, 0, 64, 64))] * 3, ["x"], "1 of 4 (25%) are empty", ["empty: 1 mask (x); their images count as not annotated"]),
    ([box((0, 0, 128, 250))] + [box((0, 0, 64, 64))] * 3, [], "to 97.7%)", ["1 mask (m0) cover more than 90% of the frame"]),
    ([box((0, 0, 128, 140))] * 3 + [box((0, 0, 64, 64))], [], "masks", ["3 of 4 masks cover more than half of the frame; black"]),
    ([box((0, 0, 16, 8))] * 6, [], "masks", ["6 masks (m0, m1, m2, m3, …) hold 4 pixels at most at this size"]),
])
def test_what_can_hardly_be_right_is_told(masks: list[Pixels], empty: list[str], first: str, warnings: list[str]) -> None:
    lines = tell_masks({f"m{i}": measured(mask) for i, mask in enumerate(masks)}, empty, SETTINGS)
    assert first in lines[0]
    assert len(lines) == 1 + len(warnings)
    assert all(line.startswith(f"warning: {words}") for line, words in zip(lines[1:], warnings, strict=True))


def test_of_empty_masks_alone_nothing_is_measured() -> None:
    assert tell_masks({}, ["x"], SETTINGS) == []


def test_one_class_shows_one_colour() -> None:
    refuse_colours({"a": ["white"], "b": ["white"], "c": []})
    with pytest.raises(MeddiffError, match="not 2: 2 in 1, such as b; white in 2, such as a, c"):
        refuse_colours({"a": ["white"], "b": ["2"], "c": ["white"]})


def test_the_sheet_shows_the_smallest_middle_and_largest() -> None:
    masks = {f"m{i:02d}": box((0, 0, 32 + i, 64), shape=(128, 128)) for i in range(60)}
    shown: list[str] = []

    def read(id: str) -> Case:
        shown.append(id)
        return Case(id, np.zeros((32, 32, 3), np.uint8), fit_square(np.zeros((128, 128, 3), np.uint8), masks[id], 32, "pad").mask)

    sheet = outline_sheet({id: measured(mask) for id, mask in masks.items()}, read)
    assert sheet.size == (6 * 32, 4 * 32)
    assert shown == [f"m{i:02d}" for i in (*range(8), *range(26, 34), *range(52, 60))]
