"""Similarity to real lesions: its calibration, several lesions and classes, extractors, and real ultrasound."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from meddiff.cases import Case, Pixels
from meddiff.errors import MeddiffError
from meddiff.filtering.features import Embedding, Extractor
from meddiff.filtering.similarity import LEAST_REFERENCES, Predictive, RealLesions, measure_real
from tests.conftest import SHARED_DATA
from tests.pasting import SIZE, blob_cases, pasted, stack


@pytest.fixture(scope="module")
def training() -> list[Case]:
    return blob_cases(24, seed=1)


@pytest.fixture(scope="module")
def held() -> list[Case]:
    return blob_cases(24, seed=2)


@pytest.fixture(scope="module")
def real(training: list[Case]) -> RealLesions:
    return measure_real(training)


def test_bounds_are_quantiles_of_the_real_lesions(real: RealLesions) -> None:
    assert 0.3 < np.median(real.own) < 0.7
    assert (real.own < 0.25).sum() == pytest.approx(6, abs=4)
    assert (real.own > 0.995).sum() <= 1


def test_similarity_works_with_few_cases(held: list[Case]) -> None:
    few = measure_real(held[:8])
    copies, others = (few.compare(*stack([pasted(case) for case in part])) for part in (held[:8], held[8:]))
    assert (copies.greatest > 0.995).sum() >= 7
    assert (others.greatest > 0.995).sum() <= 2
    assert set(others.nearest) <= {case.id for case in held[:8]}


def test_one_lesion_is_no_measure(held: list[Case]) -> None:
    with pytest.raises(MeddiffError, match=r"at least two annotated lesions.*n_labelled"):
        measure_real([held[0], replace(held[1], mask=np.zeros((SIZE, SIZE), np.uint8))])


def test_a_patients_second_picture_does_not_widen_the_copy_bound(training: list[Case]) -> None:
    rng = np.random.default_rng(0)

    def noisy(case: Case) -> Pixels:
        return np.clip(case.image + rng.normal(0, 4, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)

    both = [*training, *(replace(case, id=f"{case.id}_b", image=noisy(case)) for case in training)]
    copies = stack([pasted(replace(case, image=noisy(case))) for case in training])
    assert (measure_real(both).compare(*copies).least > 0.995).sum() >= 23
    assert (measure_real([replace(case, group=case.id) for case in both]).compare(*copies).least > 0.995).sum() < 5


def test_predictive_is_students_t() -> None:
    predicted = Predictive.of(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert predicted.exceeds(np.array([0.5]))[0] == pytest.approx(0.5)
    assert predicted.exceeded_with(0.975) == pytest.approx(0.5 - 3.18245 * np.sqrt(5 / 3) * np.sqrt(1.25), abs=1e-4)
    assert predicted.exceeds(np.array([predicted.exceeded_with(0.02)]))[0] == pytest.approx(0.02)


def busi(ids: list[str]) -> list[Case]:
    folder, cases = SHARED_DATA / "busi", []
    groups = json.loads((folder / "groups.json").read_text())
    for id in ids:
        with Image.open(folder / f"images/{id}.jpg") as image, Image.open(folder / f"masks/{id}.png") as mask:
            cases.append(Case(id, np.array(image.convert("RGB").resize((128, 128))),
                              (np.array(mask.convert("L").resize((128, 128), Image.Resampling.NEAREST)) > 0).astype(np.uint8),
                              str(groups[id])))
    return [case for case in cases if case.mask is not None and case.mask.sum() > 20]


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real datasets are not here")
def test_real_ultrasound_lesions_are_told_from_copies_and_noise() -> None:
    ids = np.random.default_rng(0).permutation(json.loads((SHARED_DATA / "busi/split.json").read_text())["train"]).tolist()
    training = busi(ids[:40])
    others = [case for case in busi(ids[40:120]) if case.group not in {c.group for c in training}]
    normal = sorted((SHARED_DATA / "busi/normal").iterdir())
    real, grounds = measure_real(training), []
    for path in normal[:20]:
        with Image.open(path) as image:
            grounds.append(np.array(image.convert("RGB").resize((128, 128)), dtype=float))

    def similarity(cases: list[Case], noise: bool = False) -> np.ndarray:
        rng, pairs = np.random.default_rng(0), []
        for i, case in enumerate(cases):
            assert case.mask is not None
            content = rng.integers(0, 256, (128, 128, 1)) if noise else case.image
            soft = ndimage.gaussian_filter(case.mask.astype(float), 1)[:, :, None]
            pairs.append(((content * soft + grounds[i % 20] * (1 - soft)).astype(np.uint8), case.mask))
        return real.compare(*stack(pairs)).least

    assert (similarity(training) > 0.995).mean() > 0.9
    assert (similarity(others) > 0.995).mean() < 0.08
    assert (similarity(others) < 0.02).mean() < 0.12
    assert (similarity(others, noise=True) < 0.02).mean() > 0.9


def of_class(cases: list[Case], label: int) -> list[Case]:
    return [replace(case, id=f"{case.id}_{label}", group=f"{case.group}_{label}", mask=case.mask * label)
            for case in cases if case.mask is not None]


def test_lesions_are_held_against_their_own_class(training: list[Case], held: list[Case]) -> None:
    bright = [replace(case, image=255 - case.image) for case in blob_cases(12, seed=5)]
    real = measure_real([*of_class(training, 1), *of_class(bright, 2)])
    assert set(real.measures) == {0, 1, 2}
    images, masks = stack([pasted(case) for case in held])
    right, wrong = real.compare(images, masks), real.compare(images, masks * 2)
    assert (right.least < 0.02).mean() < 0.1
    assert (wrong.least < 0.02).mean() > 0.75
    assert {name[-2:] for name in right.nearest} == {"_1"}
    assert {name[-2:] for name in wrong.nearest} == {"_2"}


def test_a_class_of_few_lesions_is_held_against_all(training: list[Case]) -> None:
    real = measure_real([*of_class(training, 1), *of_class(blob_cases(LEAST_REFERENCES - 1, seed=5), 2)])
    assert set(real.measures) == {0, 1}
    images, masks = stack([pasted(training[3])])
    assert real.compare(images, masks * 2).nearest == [f"{training[3].id}_1"]
    assert real.compare(images, masks * 2).greatest[0] > 0.995


def test_a_mask_without_lesion_has_no_likeness(real: RealLesions, held: list[Case]) -> None:
    images, masks = stack([pasted(held[0]), pasted(held[1]), pasted(held[2])])
    masks[[0, 2]] = 0
    found = real.compare(images, masks)
    assert found.least[[0, 2]].tolist() == found.greatest[[0, 2]].tolist() == [0, 0]
    assert [len(one) for one in found.identity] == [0, 1, 0]
    assert found.nearest[0] == found.nearest[2] == ""
    assert found.least[1] > 0


def test_lesions_of_one_case_do_not_calibrate_each_other(held: list[Case]) -> None:
    """The same lesion twice in each image would else make every real lesion a copy."""
    def doubled(case: Case) -> Case:
        assert case.mask is not None
        image, mask = np.tile(case.image[::2, ::2], (2, 2, 1)), np.tile(case.mask[::2, ::2], (2, 2))
        mask[SIZE // 2:] = 0
        return replace(case, image=image, mask=mask)

    for group in (True, False):
        cases = [replace(doubled(case), group=case.group if group else "one") for case in held]
        real = measure_real(cases)
        assert len(real.own) == 2 * len(cases)
        found = real.compare(*stack([(case.image, case.mask) for case in cases if case.mask is not None]))
        assert (found.least > 0.995).mean() > 0.9


def test_an_embedding_is_one_more_view(training: list[Case], held: list[Case], real: RealLesions) -> None:
    offset = [0.0]
    wider = measure_real(training, Extractor("gray", Embedding(lambda batch: batch + offset[0], 16, (0.5,) * 3, (0.25,) * 3)))
    assert [len(one.measures[0].spreads) for one in (real, wider)] == [2, 3]
    images, masks = stack([pasted(case) for case in held])
    copies = wider.compare(*stack([pasted(case) for case in training]))
    assert (wider.compare(images, masks).least < 0.02).mean() < 0.2
    assert (copies.greatest > 0.995).mean() > 0.9
    assert copies.nearest == [case.id for case in training]
    offset[0] = 100.0  # what the statistics see stays as it is
    assert (wider.compare(images, masks).least < 0.02).all()


def test_an_embedding_that_never_varies_says_nothing(training: list[Case], held: list[Case], real: RealLesions) -> None:
    blind = Extractor("blind", Embedding(lambda batch: 0 * batch, 16, (0.5,) * 3, (0.25,) * 3))
    pairs = stack([pasted(case) for case in held])
    assert measure_real(training, blind).compare(*pairs).least == pytest.approx(real.compare(*pairs).least)
