"""Intervals cover what they should, on simulated scores with known truth."""

import numpy as np
import pytest

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import gain_interval, mean_interval, nearer_p


def simulated(rng: np.random.Generator, effect: float, seeds: int = 3, cases: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Dice-like scores of two arms: shared case difficulty, seed luck of each arm, case-wise effects, noise."""
    difficulty = rng.normal(0.7, 0.15, cases)
    luck = rng.normal(0, 0.005, (2, seeds, 1))
    real = difficulty + luck[0] + rng.normal(0, 0.05, (seeds, cases))
    other = difficulty + effect + luck[1] + rng.normal(0, 0.05, cases) + rng.normal(0, 0.05, (seeds, cases))
    return real, other


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_the_true_gain_is_covered_in_about_95_percent(effect):
    rng = np.random.default_rng(1)
    intervals = [gain_interval(*simulated(rng, effect), resamples=400, seed=i) for i in range(400)]
    covered = np.mean([i.lower <= effect <= i.upper for i in intervals])
    assert 0.92 <= covered <= 0.995
    wide = np.mean([i.upper - i.lower for i in intervals])
    assert 0.02 < wide < 0.08


def test_pairing_removes_the_difficulty_of_cases():
    real, other = simulated(np.random.default_rng(2), 0.0, cases=200)
    gain, alone = gain_interval(real, other), mean_interval(real)
    assert gain.upper - gain.lower < 0.8 * (alone.upper - alone.lower)


def test_seed_luck_widens_the_interval():
    values = np.random.default_rng(3).normal(0, 0.01, (3, 100))
    lucky = values + np.array([[-0.1], [0.0], [0.1]])
    assert mean_interval(lucky).upper > 5 * mean_interval(values).upper


def test_cases_of_one_patient_are_drawn_together():
    rng = np.random.default_rng(4)
    patients = np.repeat(rng.normal(0, 1, 10), 10)  # ten equal images a patient carry no more than one
    values, groups = np.tile(patients, (3, 1)), [f"p{i // 10}" for i in range(100)]
    grouped, ungrouped = mean_interval(values, groups), mean_interval(values)
    assert grouped.upper - grouped.lower == pytest.approx(np.sqrt(10) * (ungrouped.upper - ungrouped.lower), rel=0.15)
    assert grouped.mean == pytest.approx(ungrouped.mean)


def test_a_large_effect_is_decided_and_the_seed_repeats_it():
    real, other = simulated(np.random.default_rng(5), 0.1)
    gain = gain_interval(real, other, seed=7)
    assert gain.decided
    assert gain.lower > 0
    assert (gain.cases, gain.seeds) == (40, 3)
    assert gain == gain_interval(real, other, seed=7)
    assert gain != gain_interval(real, other, seed=8)
    assert gain.lower < gain_interval(real, other, seed=7, confidence=0.5).lower


def test_undefined_scores_are_left_out():
    values = np.array([[0.5, np.nan, 0.7], [0.5, np.nan, np.nan]])
    interval = mean_interval(values)
    assert interval.mean == pytest.approx((0.5 + 0.5 + 0.7) / 3)
    assert interval.cases == 2
    nothing = mean_interval(np.full((2, 3), np.nan))
    assert np.isnan(nothing.mean)
    assert np.isnan(nothing.lower)
    assert nothing.cases == 0
    assert not nothing.decided


@pytest.mark.parametrize("call", [
    lambda: mean_interval(np.empty((3, 0))),
    lambda: mean_interval(np.zeros((3, 4)), groups=["a"]),
    lambda: gain_interval(np.zeros((3, 4)), np.zeros((2, 4))),
])
def test_misfits_are_named(call):
    with pytest.raises(MeddiffError, match="bootstrap"):
        call()


def test_real_lesions_are_seldom_taken_for_copies() -> None:
    """Samples of the held-back lesions' own distribution, against distances of both to one training set."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        held_back, samples = rng.random(20), rng.random(60)
        refused += nearer_p(int((samples < held_back.min()).sum()), 60, 20) < 0.05
    assert 0.02 < refused / 2000 < 0.055
    assert nearer_p(0, 60, 20) == 1
    assert nearer_p(1, 60, 20) == pytest.approx(60 / 80)
    assert nearer_p(60, 60, 20) < 1e-12
