"""The demo data is deterministic, exact, grouped, and neither trivial nor blank."""

import time

import numpy as np
import pytest

from meddiff.cases import Case
from meddiff.datasets.demo import make_phantoms
from meddiff.errors import MeddiffError


@pytest.mark.parametrize("modality", ["ultrasound", "dermoscopy"])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_cases_have_one_lesion_of_believable_size(modality: str, size: int) -> None:
    from skimage.measure import label

    for case in make_phantoms(12, True, size, modality, 0):
        assert case.image.shape == (size, size, 3)
        assert case.image.dtype == np.uint8
        assert case.image.std() > 5
        assert case.mask is not None
        assert set(np.unique(case.mask)) == {0, 1}
        assert 0.005 < case.mask.mean() < 0.35
        areas = np.bincount(label(case.mask).ravel())[1:]
        assert areas.max() > 0.9 * areas.sum()


def test_lesions_are_darker_than_their_surroundings_as_a_rule() -> None:
    from scipy.ndimage import binary_dilation

    darker = []
    for case in make_phantoms(60, True, 64, "mixed", 0):
        assert case.mask is not None
        inside = case.mask > 0
        ring = binary_dilation(inside, iterations=4) & ~inside
        darker.append(case.image[ring].mean() - case.image[inside].mean())
    assert np.mean(np.array(darker) > 5) > 0.85
    assert np.min(darker) < 25     # some are faint


@pytest.mark.parametrize("modality", ["ultrasound", "dermoscopy"])
def test_lesions_are_varied(modality: str) -> None:
    """In size, outline, border, contrast and, on skin, colour."""
    from scipy.ndimage import binary_dilation, binary_erosion

    areas, ragged, borders, contrasts, hues = [], [], [], [], []
    for case in make_phantoms(60, True, 96, modality, 0)[::2]:
        assert case.mask is not None
        inside, gray = case.mask > 0, case.image.mean(2)
        around = binary_dilation(inside, iterations=6) & ~binary_dilation(inside, iterations=2)
        areas.append(inside.mean())
        ragged.append(roughness(case))
        contrasts.append(gray[around].mean() - gray[binary_erosion(inside, iterations=2)].mean())
        rim = binary_dilation(inside) & ~binary_erosion(inside)
        borders.append((gray[around].mean() - gray[rim].mean()) / max(5.0, abs(contrasts[-1])))
        hues.append(case.image[inside][:, 0].mean() / case.image[inside][:, 2].mean())
    assert np.quantile(areas, 0.9) > 2.5 * np.quantile(areas, 0.1)
    assert np.quantile(ragged, 0.9) > 1.15 * np.quantile(ragged, 0.1)
    assert np.quantile(contrasts, 0.9) > 2 * max(5.0, np.quantile(contrasts, 0.1))
    assert np.ptp(np.quantile(borders, [0.1, 0.9])) > 0.2
    assert (np.ptp(np.quantile(hues, [0.1, 0.9])) > 0.4) == (modality == "dermoscopy")


def test_normal_phantoms_have_no_lesion_and_other_names() -> None:
    cases = make_phantoms(9, False, 32, "mixed", 0)
    assert all(case.mask is not None and not case.mask.any() for case in cases)
    assert cases[0].id == "us_normal_0001"
    assert not {c.group for c in cases} & {c.group for c in make_phantoms(9, True, 32, "mixed", 0)}


def test_same_seed_same_case_whatever_the_count() -> None:
    few, many = make_phantoms(5, True, 32, "mixed", 3), make_phantoms(9, True, 32, "mixed", 3)
    for one, other in zip(few, many, strict=False):
        assert (one.id, one.group) == (other.id, other.group)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)  # type: ignore[arg-type]
    assert not np.array_equal(few[0].image, make_phantoms(1, True, 32, "mixed", 4)[0].image)


def test_mixed_alternates_and_patients_have_two_or_three_images() -> None:
    cases = make_phantoms(40, True, 32, "mixed", 0)
    assert {case.id.split("_")[0] for case in cases} == {"us", "derm"}
    assert len({case.id for case in cases}) == 40
    sizes = [sum(case.group == group for case in cases) for group in {case.group for case in cases}]
    assert set(sizes) - {1} == {2, 3}
    assert sizes.count(1) <= 1
    assert len(make_phantoms(1, True, 32, "ultrasound", 0)) == 1


def test_images_of_a_patient_differ() -> None:
    first, second, *_ = make_phantoms(2, True, 64, "dermoscopy", 0)
    assert first.group == second.group
    assert np.abs(first.image.astype(int) - second.image).mean() > 3


def test_the_demo_takes_seconds() -> None:
    begun = time.monotonic()
    make_phantoms(50, True, 64, "mixed", 0)
    assert time.monotonic() - begun < 10   # 0.4 s on an idle core


def largest(case: Case) -> int:
    assert case.mask is not None
    return int(np.bincount(case.mask.ravel(), minlength=3)[1:].argmax()) + 1


def roughness(case: Case) -> float:
    """Perimeter² / area of the largest lesion, over that of a circle."""
    from skimage.measure import label, regionprops

    assert case.mask is not None
    region = max(regionprops(label(case.mask)), key=lambda region: region.area)
    return float(region.perimeter**2 / region.area / (4 * np.pi))


@pytest.mark.parametrize("modality", ["ultrasound", "dermoscopy"])
def test_two_classes_are_even_and_differ_in_their_outline(modality: str) -> None:
    cases = make_phantoms(40, True, 80, modality, 0, classes=2)
    assert all(set(np.unique(case.mask).tolist()) <= {0, largest(case)} for case in cases)     # one lesion each, of one class
    benign, malignant = ([roughness(case) for case in cases if largest(case) == label] for label in (1, 2))
    assert min(len(benign), len(malignant)) > 12
    assert np.median(malignant) > np.median(benign) + 0.1
    groups = {case.group: {largest(other) for other in cases if other.group == case.group} for case in cases}
    assert all(len(labels) == 1 for labels in groups.values())


def test_several_lesions_lie_apart_and_leave_the_first_as_it_was() -> None:
    from skimage.measure import label

    several, one = make_phantoms(20, True, 64, "mixed", 0, lesions=3), make_phantoms(20, True, 64, "mixed", 0)
    counts = [int(label(case.mask).max()) for case in several]
    assert {1, 2, 3} <= set(counts)
    for case, single in zip(several, one, strict=True):
        assert case.mask is not None
        assert (case.mask >= single.mask).all()
    alone = [i for i, (case, single) in enumerate(zip(several, one, strict=True)) if np.array_equal(case.mask, single.mask)]
    assert len(alone) > 3
    assert all(np.array_equal(several[i].image, one[i].image) for i in alone)
    both = make_phantoms(30, True, 64, "mixed", 0, classes=2, lesions=3)
    assert sum({1, 2} <= set(np.unique(case.mask).tolist()) for case in both) > 5


def test_three_classes_are_refused() -> None:
    with pytest.raises(MeddiffError, match="one or two classes, not of 3"):
        make_phantoms(1, True, 32, "mixed", 0, classes=3)
