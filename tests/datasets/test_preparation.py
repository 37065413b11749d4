"""Preparing cases in memory: pixels go to a callback, the split and what is told of it come from the rest."""

from dataclasses import replace

import numpy as np
import pytest

from meddiff.cases import Pixels
from meddiff.datasets.accounts import count_cases, tell_cases
from meddiff.datasets.adapters import RawCase
from meddiff.datasets.preparation import Preparer, divide, list_cases, prepare_cases
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams

SETTINGS = PrepareParams(size=32, demo_cases=24, demo_normal=8, n_labelled=99)


def test_phantoms_become_parts_and_lines(tmp_path: object) -> None:
    kept: dict[str, tuple[Pixels, Pixels]] = {}
    done: list[int] = []
    raw = list_cases(tmp_path, SETTINGS)  # type: ignore[arg-type]
    cases = prepare_cases(raw, Preparer(SETTINGS, 2, lambda id, *pair: kept.update({id: pair})).work,
                          lambda n, total, values: done.append(n))
    assert [case.raw.id for case in cases] == [case.id for case in raw]
    assert set(kept) == {case.id for case in raw}
    assert done == list(range(1, 33))
    assert all(image.shape == (32, 32, 3) and mask.shape == (32, 32) for image, mask in kept.values())
    division = divide(cases, SETTINGS)
    train = division.parts.parts["train"]
    assert division.annotated("train") == set(train)
    assert division.annotated("test") == set(division.parts.parts["test"])
    counts = count_cases(cases, division, SETTINGS.classes, {f"{division.parts.parts['test'][0]}.jpg": "0"})
    assert (counts["images"], counts["labelled"], counts["test_in_foundation"]) == (32, len(train), 1)
    lines = tell_cases(cases, counts, SETTINGS)
    assert lines[0].startswith(f"{len(train)} training ({len(train)} labelled), ")
    assert any("photographs that the foundation `embedded`" in line for line in lines)
    assert any(line.startswith(f"`prepare.n_labelled` is 99; there are {len(train)} annotated training cases") for line in lines)


def test_all_faults_are_told_together() -> None:
    good = [RawCase(f"c{i}", np.full((40, 40, 3), i, np.uint8), (np.ones((40, 40), np.uint8),), f"g{i}") for i in range(4)]
    bad = RawCase("bad", good[0].image, (np.ones((9, 9), np.uint8),), "g")
    with pytest.raises(MeddiffError, match=r"bad: a mask has its image's size.*; likewise worse\. Replace the mask"):
        prepare_cases([bad, *good, replace(bad, id="worse")], Preparer(SETTINGS, 2, lambda *pair: None).work)


def test_a_dataset_without_lesions_is_refused() -> None:
    raw = [RawCase(f"c{i}", np.full((40, 40, 3), 9 * i, np.uint8), (np.zeros((40, 40), np.uint8),), f"g{i}") for i in range(4)]
    with pytest.raises(MeddiffError, match="one mask at least must hold a lesion"):
        divide(prepare_cases(raw, Preparer(SETTINGS, 2, lambda *pair: None).work), SETTINGS)
