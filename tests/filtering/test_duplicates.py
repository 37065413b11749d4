"""Near-duplicates are found in order, exactly among few and by the graph among many."""

import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from meddiff.filtering import duplicates
from meddiff.filtering.duplicates import repeats
from meddiff.lesions.appearance import Scalars


def unit(n: int, seed: int, dimensions: int = 20) -> Scalars:
    vectors = np.random.default_rng(seed).normal(size=(n, dimensions))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def singles(vectors: Scalars) -> list[Scalars]:
    return [vector[None] for vector in vectors]


def by_hand(vectors: Scalars, radius: float) -> list[bool]:
    near, found = cdist(vectors, vectors) < radius, list[bool]()
    for i in range(len(vectors)):
        found.append(any(near[i, j] and not found[j] for j in range(i)))
    return found


def test_repeats_are_found_in_order_over_all_blocks() -> None:
    first = unit(300, 0)
    vectors = np.concatenate([first, first[::-1] + 0.001, unit(10, 1)])
    assert repeats(singles(vectors), 0.2).tolist() == [False] * 300 + [True] * 300 + [False] * 10
    assert not repeats(singles(vectors), 0.0).any()
    assert repeats([], 0.2).tolist() == []


@pytest.mark.parametrize("radius", [0.5, 0.7, 0.9])
def test_among_few_the_answer_is_that_of_comparing_each_with_each(radius: float) -> None:
    vectors = unit(700, 2, 8)
    found = repeats(singles(vectors), radius).tolist()
    assert found == by_hand(vectors, radius)
    assert 20 < sum(found) < 690


def test_a_repeat_is_no_reason_for_a_further_one() -> None:
    line = np.array([[0.0, 0.0], [0.15, 0.0], [0.3, 0.0]])
    assert repeats(singles(line), 0.2).tolist() == [False, True, False]


def test_one_lesion_of_several_is_enough_but_not_of_the_same_sample() -> None:
    a, b, c, d = unit(4, 3)[:, None]
    samples = [np.concatenate([a, a + 0.001]), np.concatenate([b, c]), np.empty((0, 20)), np.concatenate([d, c + 0.001]), d]
    assert repeats(samples, 0.2).tolist() == [False, False, False, True, False]


def test_the_graph_finds_what_exhaustion_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = unit(3000, 4)
    planted = fresh[np.random.default_rng(0).integers(0, 3000, 500)] + 0.02 * unit(500, 5)
    vectors = singles(np.concatenate([fresh, planted]))
    exact, threads = repeats(vectors, 0.3), faiss.omp_get_max_threads()
    monkeypatch.setattr(duplicates, "EXACT", 500)
    found = repeats(vectors, 0.3)
    assert exact[3000:].all()
    assert (found != exact).mean() < 0.002
    assert (repeats(vectors, 0.3) == found).all()
    assert faiss.omp_get_max_threads() == threads
