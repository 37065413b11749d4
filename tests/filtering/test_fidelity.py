"""Distances between sets of samples tell collapsed, noisy, copying and good generators apart."""

import json
import math

import numpy as np
import pytest

from meddiff.cases import Pixels
from meddiff.filtering.fidelity import (
    SUBSETS,
    Description,
    assess_fidelity,
    density_coverage,
    describe,
    kid,
    shape_tests,
)
from meddiff.filtering.membership import copies
from meddiff.filtering.similarity import measure_real
from meddiff.lesions.shapes import Floats
from meddiff.masks.statistics import mask_statistics
from tests.conftest import make_cases


def normal(n: int, seed: int, dimensions: int = 6) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, dimensions))


def by_hand(x: Floats, y: Floats) -> float:
    """The unbiased estimate, summed pair by pair."""
    def kernel(a: Floats, b: Floats) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def among(z: Floats) -> float:
        pairs = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    return among(x) + among(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def test_kid_is_the_mean_of_the_unbiased_estimate_over_subsets() -> None:
    real, other = normal(8, 0), normal(12, 1) + 0.5
    rng = np.random.default_rng(3)
    wanted = [by_hand(real[rng.permutation(8)[:4]], other[rng.permutation(12)[:4]]) for _ in range(SUBSETS)]
    found = kid(real, other, seed=3)
    assert (found.mean, found.deviation) == pytest.approx((np.mean(wanted), np.std(wanted)))
    assert (found.subset, found.subsets) == (4, SUBSETS)


def test_kid_is_unbiased_whatever_the_number() -> None:
    few = [kid(normal(16, 2 * s), normal(16, 2 * s + 1)).mean for s in range(40)]
    assert abs(np.mean(few)) < 3 * np.std(few) / math.sqrt(len(few))
    shifted = [kid(normal(n, 0), normal(n, 1) + 0.7).mean for n in (40, 400)]
    assert min(shifted) > 0.5
    assert shifted[0] == pytest.approx(shifted[1], rel=0.5)


def test_real_against_real_is_near_collapse_and_noise_are_far() -> None:
    real, same = normal(200, 0), normal(200, 1)
    collapsed, noise = np.repeat(normal(1, 2), 200, axis=0) + 1e-3 * normal(200, 3), 8 * normal(200, 4)
    alike = density_coverage(real, same)
    assert alike.coverage == pytest.approx(alike.expected_coverage, abs=0.05)
    assert alike.expected_coverage > 0.95
    assert alike.density == pytest.approx(1, abs=0.15)
    assert density_coverage(real, collapsed).coverage < 0.1
    assert density_coverage(real, noise).coverage < 0.1
    assert density_coverage(real, noise).density < 0.1
    assert abs(kid(real, same).mean) < 2 * kid(real, same).deviation
    assert min(kid(real, collapsed).mean, kid(real, noise).mean) > 10 * abs(kid(real, same).mean)


@pytest.mark.parametrize(("n", "m"), [(40, 100), (100, 30)])
def test_expected_coverage_is_that_of_the_same_distribution(n: int, m: int) -> None:
    found = [density_coverage(normal(n, 2 * s), normal(m, 2 * s + 1)) for s in range(30)]
    assert np.mean([one.coverage for one in found]) == pytest.approx(found[0].expected_coverage, abs=0.03)


def test_density_is_high_on_the_modes_where_coverage_is_low() -> None:
    real = np.concatenate([normal(100, 0), normal(100, 1) + 20])
    one_mode = density_coverage(real, 0.3 * normal(200, 2))
    assert one_mode.density > 1.2
    assert one_mode.coverage <= 0.5


def test_copies_are_counted() -> None:
    held_back, copied, others = normal(60, 1)[:, 0], normal(50, 2)[:, 0] - 20, normal(50, 3)[:, 0]
    assert copies(held_back, copied).share == 1
    assert copies(held_back, others).share < 0.1
    further = [copies(normal(9, 2 * s)[:, 0], normal(50, 2 * s + 1)[:, 0]) for s in range(60)]
    assert np.mean([one.share for one in further]) == pytest.approx(further[0].expected_share, abs=0.04)
    half = copies(held_back, np.concatenate([copied, others + 5]))
    assert half.share == pytest.approx(0.5)
    assert half.bound < half.held_back
    assert half.median == pytest.approx(np.median(np.concatenate([copied, others + 5])))


def test_too_few_samples_are_undefined_rather_than_wrong() -> None:
    none = np.empty((0, 6))
    assert math.isnan(kid(normal(10, 0), normal(3, 1)).mean)
    assert math.isnan(kid(normal(10, 0), none).mean)
    assert math.isnan(density_coverage(normal(1, 0), normal(9, 1)).coverage)
    assert math.isnan(density_coverage(normal(9, 0), none).density)
    assert math.isnan(copies(none[:, 0], normal(4, 1)[:, 0]).share)
    assert density_coverage(normal(4, 0), normal(9, 1)).k == 3


def test_shape_tests_tell_sizes_apart() -> None:
    real, same = (mask_statistics([c.mask for c in make_cases(40, seed=s) if c.mask is not None]) for s in (0, 1))
    small = mask_statistics([np.pad(np.ones((3, 3), np.uint8), (i % 9, 28 - i % 9)) for i in range(40)])
    assert all(0 <= test["distance"] < 0.4 for test in shape_tests(real, same).values())
    assert shape_tests(real, small)["area"]["distance"] == 1
    assert shape_tests(real, small)["area"]["p"] < 1e-6


def cells(images: Pixels, masks: Pixels | None) -> Floats:
    """Mean gray of 4 x 4 cells, of the lesion alone where masks are given: a feature space for tests."""
    gray = images.mean(axis=3) if masks is None else images.mean(axis=3) * (masks > 0)
    return np.asarray(gray.reshape(len(gray), 4, 8, 4, 8).mean(axis=(2, 4)).reshape(len(gray), 16))


def pairs(n: int, seed: int) -> list[tuple[Pixels, Pixels]]:
    return [(case.image, case.mask) for case in make_cases(n, seed=seed) if case.mask is not None]


def test_the_assessment_tells_generators_apart_and_is_json() -> None:
    real = measure_real(make_cases(40, seed=0))

    def told(shown: list[tuple[Pixels, Pixels]]) -> Description:
        return describe(cells, shown, recognise=lambda images, masks: real.compare(images, masks).strangeness)

    training, held_back = describe(cells, pairs(40, 0), mirrored=True), told(pairs(80, 1))
    mirrored = [(image[:, ::-1], mask[:, ::-1]) for image, mask in pairs(40, 0)]
    good, repeated = told(pairs(80, 2)), told(pairs(1, 2) * 80)
    sets = {"good": good, "collapsed": repeated, "copying": told(mirrored), "none": good.rows(np.zeros(80, bool)),
            "half": good.rows(np.arange(80) < 40)}
    found = assess_fidelity(held_back, training, sets, "cells", {"good": 1.5})
    assert list(found.sets) == ["training", *sets]
    assert (found.n_reference, found.n_training, found.sets["half"].n, found.sets["none"].n) == (80, 40, 40, 0)
    for space in ("image", "lesion"):
        assert abs(found.sets["training"].kid[space].mean) < found.sets["collapsed"].kid[space].mean / 5
        assert found.sets["good"].support[space].coverage > 0.8
        assert found.sets["collapsed"].support[space].coverage < 0.2
    numbers = found.numbers()
    assert numbers["copy_share_copying"] == 1  # the mirror image of a training lesion is a copy
    assert numbers["copy_share_good"] < 0.1
    assert numbers["seam_good"] == 1.5
    assert "copy_share_training" not in numbers
    assert not [name for name in numbers if name.endswith("_none")]
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert plain["sets"]["none"]["kid"]["lesion"]["mean"] is None
    assert plain["sets"]["training"]["copies"] is None
    assert plain["sets"]["good"]["support"]["image"]["k"] == 5
    assert plain["extractor"] == "cells"
    assert assess_fidelity(held_back, training, sets, "cells", {"good": 1.5}).as_json() == found.as_json()


def test_chunks_leave_the_description_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = describe(cells, pairs(9, 0))
    monkeypatch.setattr("meddiff.filtering.fidelity.CHUNK", 4)
    parts = describe(cells, iter(pairs(9, 0)))
    assert all(np.array_equal(whole.spaces[name], parts.spaces[name]) for name in ("image", "lesion"))
    assert whole.shapes.equals(parts.shapes)
    assert len(parts) == 9
