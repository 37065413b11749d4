"""Features, similarity, agreement, contrast, decisions and corrosion on phantoms and, where they are there, on real lesions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from meddiff.cases import Case, Pixels
from meddiff.corrosion import corrode
from meddiff.errors import MeddiffError
from meddiff.filtering import agreement, contrast, decide, reduced, repeats, score
from meddiff.lesions import Predictive, RealLesions, describe, measure_real
from meddiff.params import FilterParams
from meddiff.segmentation import Architecture, Segmenter
from tests.conftest import SHARED_DATA, make_cases

PARAMS = FilterParams()
SIZE = 64


def blob_cases(n: int, seed: int) -> list[Case]:
    """Phantoms whose lesions differ in gray level and coarse structure, as real ones do."""
    cases = []
    for i, case in enumerate(make_cases(n, SIZE, seed)):
        rng = np.random.default_rng([seed, i, 1])
        structure = ndimage.gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 4) * 4 * rng.uniform(8, 16) + rng.uniform(-12, 12)
        assert case.mask is not None
        image = np.clip(case.image + (structure * case.mask)[:, :, None], 0, 255).astype(np.uint8)
        cases.append(replace(case, image=image))
    return cases


def pasted(case: Case, shift: int = 0, gray: float = 0.0, background: int = 0) -> tuple[Pixels, Pixels]:
    """The case's lesion on a lesion-free image, moved, and brighter by `gray`."""
    ground = make_cases(1, SIZE, 900 + background, lesion=False)[0].image.astype(float)
    assert case.mask is not None
    mask, image = np.roll(case.mask, shift, axis=1), np.roll(case.image, shift, axis=1).astype(float) + gray
    soft = ndimage.gaussian_filter(mask.astype(float), 0.5)[:, :, None]
    return np.clip(image * soft + ground * (1 - soft), 0, 255).astype(np.uint8), mask


def stack(pairs: list[tuple[Pixels, Pixels]]) -> tuple[Pixels, Pixels]:
    images, masks = zip(*pairs, strict=True)
    return np.stack(images), np.stack(masks)


def filled(case: Case, content: Pixels) -> tuple[Pixels, Pixels]:
    image, mask = pasted(case)
    return np.where(mask[:, :, None] > 0, content, image).astype(np.uint8), mask


@pytest.fixture(scope="module")
def training() -> list[Case]:
    return blob_cases(24, seed=1)


@pytest.fixture(scope="module")
def held() -> list[Case]:
    return blob_cases(24, seed=2)


@pytest.fixture(scope="module")
def real(training: list[Case]) -> RealLesions:
    return measure_real(training)


@pytest.fixture(scope="module")
def darkness() -> Segmenter:
    """A segmenter that calls every smoothed pixel darker than 115 a lesion."""
    network = nn.Conv2d(3, 1, 3, padding=1, padding_mode="replicate")
    with torch.no_grad():
        network.weight.fill_(-100 / 27)
        network.bias.fill_(100 * (115 / 127.5 - 1))
    return Segmenter(network, Architecture("unet", 8))


def verdicts(pairs: list[tuple[Pixels, Pixels]], real: RealLesions, segmenter: Segmenter,
             params: FilterParams = PARAMS) -> list[str]:
    return decide(score(*stack(pairs), real, segmenter), real, params)


def test_held_back_lesions_are_accepted(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    reasons = verdicts([pasted(case, 3) for case in held], real, darkness)
    assert reasons.count("") >= 20, reasons


@pytest.mark.parametrize("change", [{}, {"gray": 6.0}, {"shift": 5}, {"background": 7}])
def test_copies_of_training_lesions_are_rejected(training: list[Case], real: RealLesions, darkness: Segmenter,
                                                 change: dict[str, int]) -> None:
    images, masks = stack([pasted(case, **change) for case in training])
    scores = score(images, masks, real, darkness)
    assert decide(scores, real, PARAMS).count("copy") >= 23
    assert scores.table["nearest"].tolist() == [case.id for case in training]


def test_a_mirrored_copy_is_a_copy(training: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    images, masks = stack([pasted(case) for case in training])
    scores = score(images[:, :, ::-1].copy(), masks[:, :, ::-1].copy(), real, darkness)
    assert decide(scores, real, PARAMS).count("copy") >= 23


def test_a_lesion_filled_with_noise_is_implausible(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1)).repeat(3, axis=2)
    assert verdicts([filled(case, noise) for case in held], real, darkness) == ["implausible"] * len(held)


def test_a_coloured_lesion_among_gray_ones_is_implausible(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    reddened = [filled(case, case.image * np.array([1, 0.5, 0.5])) for case in held]
    assert verdicts(reddened, real, darkness) == ["implausible"] * len(held)


def test_an_empty_mask_is_implausible(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    image, mask = pasted(held[0])
    scores = score(image[None], np.zeros_like(mask)[None], real, darkness)
    assert decide(scores, real, PARAMS) == ["implausible"]
    assert scores.table.loc[0, ["similarity", "agreement", "contrast", "area"]].tolist() == [0, 0, 0, 0]


def test_a_second_dark_region_is_a_disagreement(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    image, mask = pasted(held[0])
    image[:, :] = np.where((ndimage.distance_transform_edt(mask == 0) < 6)[:, :, None], image, 40)
    assert verdicts([(image, mask)], real, darkness) == ["agreement"]


def test_a_border_without_contrast_is_rejected(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    image, mask = pasted(held[0])
    params = PARAMS.model_copy(update={"min_contrast": 10.0})
    assert verdicts([(image, mask)], real, darkness, params) == [""]
    ring = ndimage.maximum_filter(mask, 5) > mask
    inner = (mask > ndimage.minimum_filter(mask, 5)) & (mask > 0)
    image[ring] = image[inner].mean()
    assert verdicts([(image, mask)], real, darkness, params) == ["contrast"]


def test_the_later_of_two_near_equal_samples_is_a_duplicate(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    pairs = [pasted(held[0]), pasted(held[1]), pasted(held[0], shift=4, gray=4.0, background=3), pasted(held[0], background=5)]
    assert verdicts(pairs, real, darkness) == ["", "", "duplicate", "duplicate"]


def test_a_rejected_sample_makes_no_duplicate(held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    image, mask = pasted(held[0])
    dark = np.where((ndimage.distance_transform_edt(mask == 0) < 6)[:, :, None], image, 40).astype(np.uint8)
    assert verdicts([(dark, mask), (image, mask)], real, darkness) == ["agreement", ""]


def test_open_bounds_exclude_nothing(training: list[Case], held: list[Case], real: RealLesions, darkness: Segmenter) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1)).repeat(3, axis=2)
    pairs = [pasted(training[0]), pasted(training[0]), filled(held[0], noise)]
    everything = FilterParams(similarity_low=0, similarity_high=1, agreement=0, min_contrast=0)
    assert verdicts(pairs, real, darkness, everything) == ["", "", ""]


def test_bounds_are_quantiles_of_the_real_lesions(real: RealLesions) -> None:
    assert 0.3 < np.median(real.own) < 0.7
    assert (real.own < 0.25).sum() == pytest.approx(6, abs=4)
    assert (real.own > 0.995).sum() <= 1


def test_similarity_works_with_few_cases(held: list[Case]) -> None:
    few = measure_real(held[:8])
    copies, _ = few.similarity(describe(*stack([pasted(case) for case in held[:8]])))
    others, nearest = few.similarity(describe(*stack([pasted(case) for case in held[8:]])))
    assert (copies > 0.995).sum() >= 7
    assert (others > 0.995).sum() <= 2
    assert set(nearest) <= {case.id for case in held[:8]}


def test_one_lesion_is_no_measure(held: list[Case]) -> None:
    with pytest.raises(MeddiffError, match=r"at least two annotated lesions.*n_labelled"):
        measure_real([held[0], replace(held[1], mask=np.zeros((SIZE, SIZE), np.uint8))])


def test_a_patients_second_picture_does_not_widen_the_copy_bound(training: list[Case]) -> None:
    rng = np.random.default_rng(0)

    def noisy(case: Case) -> Pixels:
        return np.clip(case.image + rng.normal(0, 4, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)

    both = [*training, *(replace(case, id=f"{case.id}_b", image=noisy(case)) for case in training)]
    copies = describe(*stack([pasted(replace(case, image=noisy(case))) for case in training]))
    assert (measure_real(both).similarity(copies)[0] > 0.995).sum() >= 23
    assert (measure_real([replace(case, group=case.id) for case in both]).similarity(copies)[0] > 0.995).sum() < 5


def test_features_do_not_see_the_background(held: list[Case]) -> None:
    here, there = describe(*stack([pasted(held[0])])), describe(*stack([pasted(held[0], background=4)]))
    other = describe(*stack([pasted(held[1])]))
    assert np.linalg.norm(here.identity - there.identity) < 0.1 * np.linalg.norm(here.identity - other.identity)
    assert np.abs(here.appearance - there.appearance).max() < 0.2


def test_features_do_not_depend_on_the_company(held: list[Case]) -> None:
    images, masks = stack([pasted(case) for case in held * 3])
    many, one = describe(images, masks), describe(images[70:71], masks[70:71])
    np.testing.assert_allclose(many.identity[70], one.identity[0], atol=1e-6)
    np.testing.assert_allclose(many.appearance[70], one.appearance[0], atol=1e-4)


def test_predictive_is_students_t() -> None:
    predicted = Predictive.of(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert predicted.exceeds(np.array([0.5]))[0] == pytest.approx(0.5)
    assert predicted.exceeded_with(0.975) == pytest.approx(0.5 - 3.18245 * np.sqrt(5 / 3) * np.sqrt(1.25), abs=1e-4)
    assert predicted.exceeds(np.array([predicted.exceeded_with(0.02)]))[0] == pytest.approx(0.02)


def test_agreement_is_the_dice_with_the_prediction(darkness: Segmenter) -> None:
    for size in (64, 128):
        (case,) = make_cases(1, size, 5)
        assert case.mask is not None
        images = np.repeat(case.image[None], 3, axis=0)
        far = np.zeros_like(case.mask)
        far[:5, :5] = 1
        scores = agreement(images, np.stack([case.mask, far, np.zeros_like(far)]), darkness)
        assert scores[0] > 0.9
        assert scores[1:].tolist() == [0, 0]


def test_the_segmenter_sees_at_most_64_pixels() -> None:
    (small,), (large,) = reduced(make_cases(1, 32)), reduced(make_cases(1, 128))
    assert small.image.shape == (32, 32, 3)
    assert large.image.shape == (64, 64, 3)
    assert large.mask is not None
    full = make_cases(1, 128)[0].mask
    assert full is not None
    assert large.mask.mean() == pytest.approx(full.mean(), rel=0.05)


def test_contrast_is_the_step_at_the_border() -> None:
    masks = np.zeros((4, 64, 64), np.uint8)
    masks[:2, 20:40, 20:40] = 1
    masks[2] = 1
    images = np.full((4, 64, 64, 3), 100, np.uint8)
    images[0][masks[0] > 0] = 70
    np.testing.assert_allclose(contrast(images, masks), [30, 0, 0, 0], atol=1e-4)


def test_repeats_is_greedy_over_all_chunks() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(80, 20))
    vectors = np.concatenate([first, first[::-1] + 0.01, rng.normal(size=(10, 20))])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert repeats(vectors, 0.2).tolist() == [False] * 80 + [True] * 80 + [False] * 10
    assert not repeats(vectors, 0.0).any()


def disc(radius: float, size: int = 129) -> Pixels:
    y, x = np.mgrid[:size, :size] - size // 2
    return (np.hypot(y, x) <= radius).astype(np.uint8)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.5, 6.25])
def test_a_disc_shrinks_by_the_radius(radius: float) -> None:
    shrunk, wanted = corrode(disc(30), radius), disc(30 - radius)
    assert (shrunk <= disc(30)).all()
    assert abs(int(shrunk.sum()) - int(wanted.sum())) < 0.35 * 2 * np.pi * 30  # less than 0.35 px all around
    assert np.abs(shrunk.astype(int) - wanted).sum() < 0.6 * 2 * np.pi * 30


@pytest.mark.parametrize(("radius", "rows"), [(0.0, 40), (0.4, 40), (0.6, 38), (1.0, 38), (1.4, 38), (2.0, 36)])
def test_a_straight_edge_retreats_by_the_rounded_radius(radius: float, rows: int) -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[20:60] = 1
    assert corrode(mask, radius).sum(axis=0).tolist() == [rows] * 80  # and the frame is no edge


def test_no_part_of_a_lesion_vanishes() -> None:
    mask = disc(20)
    mask[2:5, 2:5] = mask[100, 100] = mask[110, 4:30] = 1
    for radius in (1.0, 4.0, 16.0):
        shrunk = corrode(mask, radius)
        before, after = (ndimage.label(m, np.ones((3, 3))) for m in (mask, shrunk))
        assert set(np.unique(before[0][shrunk > 0])) == set(range(1, before[1] + 1))
        assert shrunk.sum() <= mask.sum()
        assert after[1] >= before[1]
    assert corrode(mask, 16.0)[64, 64] == 1


def test_masks_without_a_border_stay() -> None:
    for mask in (np.ones((16, 16), np.uint8), np.zeros((16, 16), np.uint8)):
        assert (corrode(mask, 3.0) == mask).all()


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
        return real.similarity(describe(*stack(pairs)))[0]

    assert (similarity(training) > 0.995).mean() > 0.9
    assert (similarity(others) > 0.995).mean() < 0.08
    assert (similarity(others) < 0.02).mean() < 0.12
    assert (similarity(others, noise=True) < 0.02).mean() > 0.9
