"""Who was trained on, guessed from painted lesions."""

import numpy as np
import pytest

from meddiff.filtering.membership import infer_members, separation
from meddiff.lesions.shapes import Floats


def lesions(values: Floats) -> dict[str, Floats]:
    return {"lesion": values, "mirrored": -values}


def test_the_area_is_the_chance_that_a_training_lesion_lies_nearer() -> None:
    assert separation(np.array([1.0, 2.0]), np.array([3.0, 4.0])).auc == 1
    assert separation(np.array([1.0, 3.0]), np.array([1.0, 4.0])).auc == 0.625


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    made = [separation(rng.normal(size=40), rng.normal(0.5, 1, size=60)) for _ in range(300)]
    truth = 0.6382  # Phi(0.5 / sqrt(2))
    assert np.mean([found.lower <= truth <= found.upper for found in made]) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("sign", [1, -1])
def test_samples_that_repeat_training_lesions_give_them_away(sign: int) -> None:
    rng = np.random.default_rng(0)
    training, held_back, fresh = (rng.normal(size=(40, 8)) for _ in range(3))
    copied = sign * training + rng.normal(0, 0.01, (40, 8))
    told, silent = (infer_members(lesions(training), lesions(held_back), samples) for samples in (copied, fresh))
    assert told is not None
    assert silent is not None
    assert (told.auc, told.members, told.others) == (1.0, 40, 40)
    assert silent.lower < 0.5 < silent.upper
    assert infer_members(lesions(training), lesions(held_back), fresh[:0]) is None
