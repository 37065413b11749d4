"""Agreement, contrast and decisions on phantoms."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from meddiff.cases import Case, Pixels
from meddiff.filtering.decisions import agreement, contrast, decide, score
from meddiff.filtering.similarity import RealLesions, measure_real
from meddiff.params import FilterParams
from meddiff.segmentation.segmenter import Architecture, Segmenter
from tests.conftest import make_cases
from tests.pasting import NOISE, SIZE, blob_cases, filled, pasted, stack

PARAMS = FilterParams()


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
    assert verdicts([filled(case, NOISE) for case in held], real, darkness) == ["implausible"] * len(held)


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
    pairs = [pasted(training[0]), pasted(training[0]), filled(held[0], NOISE)]
    everything = FilterParams(similarity_low=0, keep_copies=True, agreement=0, min_contrast=0)
    assert verdicts(pairs, real, darkness, everything) == ["", "", ""]


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


def test_contrast_is_the_step_at_the_border() -> None:
    masks = np.zeros((4, 64, 64), np.uint8)
    masks[:2, 20:40, 20:40] = 1
    masks[2] = 1
    images = np.full((4, 64, 64, 3), 100, np.uint8)
    images[0][masks[0] > 0] = 70
    np.testing.assert_allclose(contrast(images, masks), [30, 0, 0, 0], atol=1e-4)


def two_lesions(first: Case, second: Case, labels: tuple[int, int] = (1, 1)) -> tuple[Pixels, Pixels]:
    """Both lesions at half size side by side on one background."""
    ground, mask = make_cases(1, SIZE, 950, lesion=False)[0].image.copy(), np.zeros((SIZE, SIZE), np.uint8)
    for case, label, left in zip((first, second), labels, (0, SIZE // 2), strict=True):
        assert case.mask is not None
        small, window = case.mask[::2, ::2], (slice(16, 48), slice(left, left + 32))
        ground[window] = np.where(small[:, :, None] > 0, case.image[::2, ::2], ground[window])
        mask[window] = small * label
    return ground, mask


def halved(cases: list[Case]) -> list[Case]:
    """Cases with one lesion of half size, as `two_lesions` shows them."""
    pairs = [two_lesions(case, case) for case in cases]
    for _, mask in pairs:
        mask[:, SIZE // 2:] = 0
    return [Case(case.id, image, mask, case.group) for case, (image, mask) in zip(cases, pairs, strict=True)]


def test_a_sample_is_as_plausible_as_its_worst_lesion(training: list[Case], held: list[Case], darkness: Segmenter) -> None:
    real = measure_real(halved(training))
    good, (image, mask) = two_lesions(*held[:2]), two_lesions(*held[:2])
    image[:, SIZE // 2:] = np.where(mask[:, SIZE // 2:, None] > 0, NOISE[:, SIZE // 2:], image[:, SIZE // 2:])
    params = PARAMS.model_copy(update={"agreement": 0.0})
    scores = score(*stack([good, (image, mask)]), real, darkness)
    assert decide(scores, real, params) == ["", "implausible"]
    assert scores.table["similarity"][1] < 0.02 < scores.table["greatest"][1]


def test_one_copied_lesion_makes_the_sample_a_copy(training: list[Case], held: list[Case], darkness: Segmenter) -> None:
    real = measure_real(halved(training))
    scores = score(*stack([two_lesions(held[0], training[5]), two_lesions(training[7], held[2])]), real, darkness)
    assert decide(scores, real, PARAMS) == ["copy", "copy"]
    assert scores.table["nearest"].tolist() == [training[5].id, training[7].id]
    assert (scores.table["similarity"] < 0.995).all()


def test_one_repeated_lesion_makes_a_duplicate(training: list[Case], held: list[Case], darkness: Segmenter) -> None:
    real = measure_real(halved(training))
    pairs = [two_lesions(*held[:2]), two_lesions(held[2], held[1]), two_lesions(held[3], held[4])]
    assert verdicts(pairs, real, darkness, PARAMS.model_copy(update={"agreement": 0.0})) == ["", "duplicate", ""]


def test_agreement_is_the_mean_over_classes(held: list[Case]) -> None:
    network = nn.Conv2d(3, 3, 1)  # class 1 where it is dark, never class 2
    with torch.no_grad():
        network.weight.copy_(torch.tensor([10.0, -10.0, 0.0])[:, None, None, None].expand(3, 3, 1, 1))
        network.bias.copy_(torch.tensor([0.0, -10 * 0.3, -100.0]))
    segmenter = Segmenter(network, Architecture("unet", 8, classes=2))
    mask = np.zeros((3, SIZE, SIZE), np.uint8)
    mask[:, 8:24, 8:24] = 1
    image = np.where(mask[..., None] > 0, 20, 220).astype(np.uint8).repeat(3, axis=3)
    mask[1, 40:48, 40:48] = 2
    mask[2][mask[2] == 1] = 2
    assert agreement(image, mask, segmenter).tolist() == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(("rule", "off"), [("implausible", {"similarity_low": 0.0}), ("copy", {"keep_copies": True}),
                                           ("agreement", {"agreement": 0.0}), ("contrast", {"min_contrast": 0.0}),
                                           ("duplicate", {"keep_copies": True})])
def test_each_rule_has_an_off_value(training: list[Case], held: list[Case], real: RealLesions, darkness: Segmenter, rule: str,
                                    off: dict[str, float]) -> None:
    only: dict[str, Any] = {"similarity_low": 0.0, "keep_copies": True, "agreement": 0.0, "min_contrast": 0.0}
    name = next(iter(off))
    only[name] = {"similarity_low": 0.02, "keep_copies": False, "agreement": 0.9, "min_contrast": 250.0}[name]
    image, mask = pasted(held[0])
    pairs = {"implausible": [filled(held[0], NOISE)], "copy": [pasted(training[0])], "agreement": [(image, np.roll(mask, 20, 1))],
             "contrast": [(image, mask)], "duplicate": [(image, mask), pasted(held[0], background=3)]}[rule]
    assert verdicts(pairs, real, darkness, FilterParams(**only))[-1] == rule
    assert verdicts(pairs, real, darkness, FilterParams(**(only | off)))[-1] == ""
