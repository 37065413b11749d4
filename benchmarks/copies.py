"""How many planted copies the filter's measure finds at a given rate of false alarms.

    python benchmarks/copies.py DATASET [--size 64] [--draws 5] [--alarms 0.01]

DATASET holds images/ID.jpg, masks/ID.png, split.json and groups.json. Of each draw, 40 annotated images are the training set;
each of their lesions is planted into another image, changed in one way. The lesions of other patients' images, of all draws
together, are halved by patient, again and again: one half sets the bound that leaves the false alarms, on the other the alarms
are counted. Beside it stands what `filter.similarity_high` finds, which knows none of them.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import json  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from filter import Pairs, moved, read, stacked  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402

from meddiff.cases import Case, Pixels  # noqa: E402
from meddiff.filtering.similarity import RealLesions, measure_real  # noqa: E402
from meddiff.params import FilterParams  # noqa: E402

REFERENCES, HELD, HALVES = 40, 200, 20
LARGE = 80  # area from which a lesion has structure to be known by [pixels]
Change = Callable[[Case, np.random.Generator], Case]


def exact(case: Case, rng: np.random.Generator) -> Case:
    return case


def mirrored(case: Case, rng: np.random.Generator) -> Case:
    assert case.mask is not None
    return replace(case, image=case.image[:, ::-1], mask=case.mask[:, ::-1])


def turned(degrees: float) -> Change:
    """Turned by up to so many degrees to either side."""
    def change(case: Case, rng: np.random.Generator) -> Case:
        assert case.mask is not None
        angle = rng.uniform(-degrees, degrees)
        return replace(case, image=ndimage.rotate(case.image, angle, reshape=False, order=1, mode="nearest"),
                       mask=ndimage.rotate(case.mask, angle, reshape=False, order=0))
    return change


def cropped(case: Case, rng: np.random.Generator) -> Case:
    """A tenth of the lesion's width and height lacks at one side each, as where the outline is drawn tighter."""
    assert case.mask is not None
    mask = case.mask.copy()
    for axis in (0, 1):
        hit = np.flatnonzero(mask.any(axis=1 - axis))
        cut = max(1, round(0.1 * (hit[-1] - hit[0])))
        gone = slice(hit[0], hit[0] + cut) if rng.random() < 0.5 else slice(hit[-1] - cut + 1, hit[-1] + 1)
        mask[(gone, slice(None)) if axis == 0 else (slice(None), gone)] = 0
    return replace(case, mask=mask)


def redrawn(case: Case, rng: np.random.Generator) -> Case:
    """With another outline, displaced in smooth waves by a tenth of the radius (standard deviation) inwards and outwards."""
    assert case.mask is not None
    (y, x), radius = ndimage.center_of_mass(case.mask), np.sqrt(case.mask.sum() / np.pi)
    waves = np.arange(1, 6)[:, None]
    turn = waves * np.arange(360) * np.pi / 180 + rng.uniform(0, 2 * np.pi, (5, 1))
    wave = (rng.normal(size=(5, 1)) / waves * np.cos(turn)).sum(axis=0)
    down, right = np.indices(case.mask.shape)
    degrees = np.rad2deg(np.arctan2(down - y, right - x)).astype(int) % 360
    depth = ndimage.distance_transform_edt(case.mask) - ndimage.distance_transform_edt(case.mask == 0)
    mask = (depth - 0.5 + (wave / wave.std() * 0.1 * radius)[degrees] > 0).astype(np.uint8)
    return replace(case, mask=mask if mask.any() else case.mask)


def rescaled(case: Case, rng: np.random.Generator) -> Case:
    """0.7 to 1.3 times as large."""
    assert case.mask is not None
    side, factor = len(case.mask), rng.uniform(0.7, 1.3)
    box = [side / 2 * (1 - 1 / factor)] * 2 + [side / 2 * (1 + 1 / factor)] * 2
    ys, xs = (np.flatnonzero(case.mask.any(axis=axis)) for axis in (1, 0))
    dy, dx = (ys[0] + ys[-1] - side) // 2, (xs[0] + xs[-1] - side) // 2
    image, mask = (Image.fromarray(np.roll(pixels, (-dy, -dx), (0, 1))) for pixels in (case.image, case.mask))
    return replace(case, image=np.array(image.transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)),
                   mask=np.array(mask.transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.NEAREST)))


def renoised(case: Case, rng: np.random.Generator) -> Case:
    """With noise of 15 gray levels on top."""
    noise = rng.normal(0, 15, (*case.image.shape[:2], 1))
    return replace(case, image=np.clip(case.image + noise, 0, 255).astype(np.uint8))


def recoloured(case: Case, rng: np.random.Generator) -> Case:
    """Contrast by 0.7 to 1.3, gray level by up to 30, and each channel by up to 10."""
    values = (case.image - 128.0) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-30, 30) + rng.uniform(-10, 10, 3)
    return replace(case, image=np.clip(values, 0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "exact": exact, "mirrored": mirrored, "turned by 12°": turned(12), "turned by 90°": turned(90), "cropped": cropped,
    "rescaled": rescaled, "re-noised": renoised, "recoloured": recoloured, "redrawn": redrawn,
}


def planted(cases: list[Case], grounds: list[Pixels], rng: np.random.Generator, change: Change) -> Pairs:
    """Each lesion, changed, softly on another patient's image."""
    pairs = []
    for case in cases:
        image, mask = moved(change(case, rng), rng)
        soft = ndimage.gaussian_filter(mask.astype(float), 1)[:, :, None]
        pairs.append(((image * soft + grounds[rng.integers(len(grounds))] * (1 - soft)).astype(np.uint8), mask))
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def nearness(real: RealLesions, pairs: Pairs) -> list[tuple[float, float]]:
    """Of each pair how little strange it is, and `Likeness.greatest`."""
    likeness = real.compare(*pairs)
    return list(zip((-likeness.strangeness).tolist(), likeness.greatest.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--alarms", type=float, default=0.01)
    given = parser.parse_args()
    training = json.loads((given.dataset / "split.json").read_text())["train"]
    found, areas, owners = defaultdict[str, list[tuple[float, float]]](list), defaultdict[str, list[int]](list), list[str]()
    for seed in range(given.draws):
        rng = np.random.default_rng(seed)
        ids = rng.permutation(training).tolist()
        cases = read(given.dataset, ids[:REFERENCES], given.size)
        patients = {case.group for case in cases}
        held = read(given.dataset, ids[REFERENCES:REFERENCES + HELD], given.size)
        others = [case for case in held if case.group not in patients]
        real = measure_real(cases)
        found["others"] += nearness(real, stacked(others))
        owners += [case.group for case in others]
        for name, change in CHANGES.items():
            pairs = planted(cases, [case.image for case in others], rng, change)
            found[name] += nearness(real, pairs)
            areas[name] += pairs[1].sum(axis=(1, 2)).tolist()
    near, sure = np.array(found.pop("others")).T
    names, rng, bounds, alarms = np.unique(owners), np.random.default_rng(0), [], []
    for _ in range(HALVES):
        half = np.isin(owners, rng.permutation(names)[:len(names) // 2])
        bounds.append(np.quantile(near[half], 1 - given.alarms))
        alarms.append(np.mean(near[~half] > bounds[-1]))
    fixed = FilterParams().similarity_high
    print(f"{given.dataset.name} at {given.size} pixels, {given.draws} draws of {REFERENCES}: {len(near)} lesions of others; "
          f"bounds of {HALVES} halves raise {np.mean(alarms):.2%} ({min(alarms):.2%} to {max(alarms):.2%}) on the other half; "
          f"similarity_high {fixed} raises {np.mean(sure > fixed):.2%}")
    print(f"{'planted':>14} {'recall':>8} {f'of {LARGE} px and more':>20} {'by similarity_high':>20}")
    for name, values in found.items():
        nearer, surer = np.array(values).T
        above = np.mean([nearer > bound for bound in bounds], axis=0)
        large = above[np.array(areas[name]) >= LARGE]
        print(f"{name:>14} {above.mean():8.1%} {large.mean():20.1%} {np.mean(surer > fixed):20.1%}")


if __name__ == "__main__":
    main()
