"""Frames of a video are known by their names and looks; other images in a row are not."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from meddiff.datasets.adapters import RawCase
from meddiff.datasets.neighbours import find_neighbours
from meddiff.datasets.preparation import Division, Preparer, divide, prepare_cases
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams

SETTINGS = PrepareParams(size=32, n_labelled=4, duplicate_bits=0)


def scenes(seed: int, frames: int, kept: float) -> Iterator[NDArray[np.uint8]]:
    """`[64, 64, 3]` frames of a smooth random scene, of which each shares a part with the last."""
    rng = np.random.default_rng(seed)
    seen = np.zeros((64, 64))
    for i in range(frames):
        fresh = gaussian_filter(rng.normal(size=(64, 64)), 4)
        seen = kept * seen + np.sqrt(1 - kept**2) * fresh if i else fresh
        yield np.repeat(np.clip(128 + 45 * seen / seen.std(), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def video(n: int, frames: int, kept: float = 0.75) -> list[RawCase]:
    """`n` videos of as many frames."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    return [RawCase(f"rec_{v * frames + f}", image, (mask,)) for v in range(n) for f, image in enumerate(scenes(v, frames, kept))]


def divided(cases: list[RawCase]) -> Division:
    return divide(prepare_cases(cases, Preparer(SETTINGS, 2, lambda *pair: None).work), SETTINGS)


def crossing(division: Division, cases: list[RawCase], frames: int) -> int:
    """Frames of one video that lie next to each other in different parts."""
    part = {id: part for part, ids in division.parts.parts.items() for id in ids}
    return sum(part[a.id] != part[b.id] for i, (a, b) in enumerate(pairwise(cases)) if (i + 1) % frames)


def test_frames_that_follow_each_other_stay_on_one_side() -> None:
    cases = video(10, 9)
    division = divided(cases)
    assert division.neighbours.video
    assert division.neighbours.compared == 89
    assert division.neighbours.alike >= 70
    assert crossing(division, cases, 9) == 0
    assert 3 <= len(set(division.parts.groups.values())) <= 12
    shuffled = [RawCase(f"x_{i}", cases[j].image, cases[j].masks) for i, j in enumerate(np.random.default_rng(0).permutation(90))]
    assert not divided(shuffled).neighbours.video


def test_images_that_only_stand_in_a_row_are_no_video() -> None:
    thumbnails = np.random.default_rng(0).normal(100, 20, (60, 32, 32)).astype(np.float32)
    near = find_neighbours([f"{i}" for i in range(60)], thumbnails)
    assert (near.video, len(near.pairs), near.compared) == (False, 0, 59)
    blank = find_neighbours([f"{i}" for i in range(60)], np.full((60, 32, 32), 9, np.float32))
    assert not blank.video
    assert find_neighbours(["a", "b"], thumbnails[:2]).compared == 0


def test_numbers_in_names_count_as_numbers() -> None:
    frames = video(8, 12)
    thumbnails = np.stack([np.asarray(case.image[::2, ::2, 0], np.float32) for case in frames])
    order = np.random.default_rng(1).permutation(len(frames))
    near = find_neighbours([frames[i].id for i in order], thumbnails[order])
    assert near.video
    places = {(min(order[i], order[j]), max(order[i], order[j])) for i, j in near.pairs}
    assert {(i, i + 1) for i in range(11)} <= places


def test_a_named_patient_counts_more_than_looks_and_one_video_is_refused() -> None:
    cases = video(1, 60)
    with pytest.raises(MeddiffError, match="three groups at least must have a lesion, but the images look like frames of"):
        divided([*cases])
    own = [RawCase(case.id, case.image, case.masks, case.id) for case in cases]
    assert divided(own).neighbours.compared == 0


def test_a_split_that_the_dataset_brings_holds() -> None:
    cases = [RawCase(case.id, case.image, case.masks, part=("train", "val", "test")[i % 3]) for i, case in enumerate(video(6, 8))]
    division = divided(cases)
    assert division.neighbours.video
    given = {case.id: case.part for case in cases}
    assert all(given[id] == part for part, ids in division.parts.parts.items() for id in ids)
    assert sum(map(len, division.parts.parts.values())) + len(division.parts.dropped) == 48
