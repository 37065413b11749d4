"""What arms learn from beside the real cases, without files: kinds of pairs are lists in memory."""

from dataclasses import dataclass, replace

import pytest

from meddiff.cases import Case
from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.segmentation.pools import Pool, Pools
from tests.conftest import make_cases
from tests.pasting import blob_cases


@dataclass(frozen=True)
class Kept:
    case: Case

    def read(self) -> Case:
        return self.case


REAL = blob_cases(4, 0)
KINDS = {"accepted": make_cases(6, seed=1), "found": make_cases(3, seed=2), "uncorroded": [], "unfiltered": [],
         "unannotated": [replace(case, mask=None) for case in make_cases(5, seed=4)],
         "lesion_free": [replace(case, mask=None) for case in make_cases(3, 64, seed=3, lesion=False)], "cleared": []}


def pools(*arms: str, **settings: object) -> Pools:
    params = SegmentParams.model_validate({"arms": arms, "seeds": [0], **settings})
    return Pools(REAL, params, lambda kind: [Kept(case) for case in KINDS[kind]],
                 lambda kind, arm: MeddiffError(kind, f"{arm} needs pairs", "Make some"))


def ids(pool: Pool) -> list[str]:
    return [pair.id for pair in pool.pairs]


def test_an_arm_gets_its_kinds_and_a_share_for_each() -> None:
    several = pools("real", "synthetic", "combined", "synthetic_only", "synthetic_x0.5", ratio=1.0, share=0.5)
    assert (ids(several.of("real", 0)), several.of("real", 0).wanted, several.of("real", 0).settings.share) == ([], 0, 0.0)
    synthetic, combined = several.of("synthetic", 0), several.of("combined", 0)
    assert len(synthetic.pairs) == synthetic.wanted == 4
    assert set(ids(synthetic)) < {case.id for case in KINDS["accepted"]}
    assert ids(combined) == [*ids(synthetic), *(case.id for case in KINDS["found"])]
    assert combined.wanted == 8
    assert combined.settings.share == pytest.approx(2 / 3)
    assert combined.settings.ratio == 7 / 4
    assert several.of("synthetic_only", 0).settings.share == 1.0
    assert len(several.of("synthetic_x0.5", 0).pairs) == 2


def test_settings_that_do_not_touch_a_segmenter_are_left_out_of_its_own() -> None:
    one = pools("real", "synthetic", "consistency")
    other = pools("real", "consistency", ratio=3.0, share=0.2, seeds=[0, 1], empty_arms="real", teacher_confidence=0.8)
    assert one.of("real", 0).settings == other.of("real", 0).settings
    assert [each.of("consistency", 0).settings.teacher_confidence for each in (one, other)] == [0.95, 0.8]


def test_pools_are_mixed_in_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "cleared", make_cases(3, 64, seed=5))
    mixed = pools("combined_pasted", "combined_all", ratio=1.0, share=0.5)
    assert mixed.of("combined_pasted", 0).settings.share == pytest.approx(2 / 3)
    every = mixed.of("combined_all", 0)
    assert every.settings.share == pytest.approx(3 / 4)
    assert len(every.pairs) == 4 + 3 + 4


def test_lesions_are_pasted_once_as_many_as_the_synthetic_arm_has() -> None:
    pasting = pools("copy_paste", ratio=1.0)
    pasted = pasting.of("copy_paste", 0)
    assert len(pasted.pairs) == pasted.wanted == 4
    assert pasting.of("copy_paste", 0).pairs[0] is pasted.pairs[0]


def test_an_arm_without_pairs_is_refused_or_left_out() -> None:
    with pytest.raises(MeddiffError, match="uncorroded: uncorroded needs pairs"):
        pools("real", "uncorroded")
    lenient = pools("real", "uncorroded", "copy_paste_sites", empty_arms="real")
    assert lenient.of("uncorroded", 0).pairs == []
    assert list(lenient.dropped) == ["copy_paste_sites"]
    with pytest.raises(MeddiffError):
        pools("copy_paste_sites", empty_arms="real")
