"""What came of the backgrounds: numbers, the lines that tell them, and the sheets."""

import numpy as np
import pytest

from meddiff.backgrounds.counts import count_backgrounds, tell_backgrounds
from meddiff.backgrounds.removal import Cleared, Removal, lesions_to_remove, removed_lesions
from meddiff.backgrounds.sheets import make_sheets
from meddiff.backgrounds.sites import ENOUGH_SITES
from meddiff.cases import Case
from meddiff.errors import MeddiffError
from meddiff.params import BackgroundsParams
from tests.conftest import make_cases

CASES = make_cases(3)
SETTLED = {"case_0_000": Removal("case_0_000", "texture", 1.0, 0.25, "", 255 - CASES[0].image),
           "case_0_001": Removal("case_0_001", "foundation", 1.0, 0.9, "lesion found", CASES[1].image),
           "case_0_002": Removal("case_0_002", "", np.nan, np.nan, "too large", None)}


def test_each_kind_is_counted_and_told() -> None:
    counts = count_backgrounds(["normal", "normal", "removed:case_0_000", "site:a"], SETTLED, unlabelled=5, sites=1)
    assert counts == {"backgrounds": 4, "normal": 2, "tried": 3, "removed": 1, "removed_by_texture": 1,
                      "removed_by_foundation": 0, "dropped_too_large": 1, "dropped_no_source": 0, "dropped_lesion_found": 1,
                      "residue_mean": 0.25, "unlabelled": 5, "sites": 1}
    assert tell_backgrounds(counts) == [
        "2 lesion-free images, 1 with the lesion removed",
        f"1 of 5 images without annotation show plainly where the lesion is: fewer than {ENOUGH_SITES}, they aren't used",
        "lesions not removed: 1 (too large), 1 (the inspector still finds a lesion)"]
    assert tell_backgrounds(counts | {"sites": ENOUGH_SITES})[1].endswith("new ones will replace it")
    assert len(tell_backgrounds(count_backgrounds(["normal"], {}, 0, 0))) == 1


def test_without_any_background_it_is_told_what_was_tried() -> None:
    with pytest.raises(MeddiffError, match="no image is lesion-free; each of 3 labelled lesions"):
        count_backgrounds([], SETTLED, 0, 0)


@pytest.mark.parametrize(("sources", "normal", "removes"), [
    ("normal", 0, False), ("removed", 99, True), ("both", 99, True), ("auto", 7, True), ("auto", 8, False)])
def test_lesions_are_removed_where_backgrounds_are_few_or_it_is_asked_for(sources: str, normal: int, removes: bool) -> None:
    settings = BackgroundsParams.model_validate({"sources": sources})
    free = make_cases(1, seed=5, lesion=False)
    assert lesions_to_remove([*CASES, *free], settings, normal) == (CASES if removes else [])


def test_what_passed_is_used_and_shown_beside_what_did_not() -> None:
    (passed,) = removed_lesions(CASES, SETTLED)
    assert (passed.id, passed.method) == ("case_0_000_removed", "texture")
    site = Cleared(Case("u", CASES[0].image, CASES[0].mask), "site", "found", CASES[1].image)
    assert make_sheets(CASES, {}, []) == {}
    sheets = make_sheets(CASES, SETTLED, [site] * 5)
    assert {name: sheet.size for name, sheet in sheets.items()} == {"sites.png": (8 * 32, 2 * 32), "removed.png": (8 * 32, 32)}
    tiles = np.split(np.asarray(sheets["removed.png"]), 8, axis=1)
    assert np.array_equal(tiles[1], 255 - CASES[0].image)
    assert (tiles[3][0] == (255, 0, 0)).all(), "a red bar"
    assert np.array_equal(tiles[3][4:], CASES[1].image[4:])
    assert not tiles[5][4:].any(), "nothing was filled"
    assert (tiles[0] == (255, 255, 0)).all(axis=2).any(), "the outline of the hole"
