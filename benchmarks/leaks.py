"""How many planted copies of test images the search for leaks finds, and which real pairs it takes for copies.

    python benchmarks/leaks.py DATASET [--size 64] [--pairs PAIRS.png]

DATASET holds images/ID.jpg, split.json and groups.json, perhaps normal/ID.jpg. Each test image is planted, changed in one way and
in brightness and contrast; one counts as found if it agrees with its own test image. Then all images are compared: what agrees
above the bound of `evaluate` across the dataset's own parts, and what `prepare` keeps together that near-duplicates don't
(its lower bound); PAIRS.png shows these side by side.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402

from meddiff.cases import Pixels  # noqa: E402
from meddiff.datasets.registration import KEPT_TOGETHER, SAME_PICTURE, picture, registered_pairs  # noqa: E402
from meddiff.datasets.splits import near_duplicates, thumbnail  # noqa: E402

Change = Callable[[Pixels, np.random.Generator], Pixels]
COLUMNS = 6  # pairs beside each other


def resized(image: Pixels, side: int) -> Pixels:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BILINEAR))


def turned(low: float, high: float) -> Change:
    """By so many degrees to either side, the corners filled by the edge, by black or by reflection."""
    def change(image: Pixels, rng: np.random.Generator) -> Pixels:
        angle, fill = rng.uniform(low, high) * rng.choice([-1, 1]), rng.choice(["nearest", "constant", "reflect"])
        return np.asarray(ndimage.rotate(image, angle, reshape=False, order=1, mode=fill))
    return change


def cropped(low: float, high: float, sides: int) -> Change:
    """So much cut off at each of so many sides, and resized to the whole."""
    def change(image: Pixels, rng: np.random.Generator) -> Pixels:
        cut = np.zeros(4, int)
        cut[rng.permutation(4)[:sides]] = np.round(rng.uniform(low, high, sides) * len(image))
        left, top, right, bottom = cut
        return resized(image[top:len(image) - bottom, left:len(image) - right], len(image))
    return change


def mirrored(then: Change) -> Change:
    return lambda image, rng: then(image[:, ::-1], rng)


def halved(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Of half the resolution."""
    return resized(resized(image, len(image) // 2), len(image))


def on_its_side(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.rot90(image, int(rng.choice([1, 2, 3])))


CHANGES: dict[str, Change] = {
    "half the resolution": halved, "the same, mirrored": mirrored(halved), "right angles": on_its_side,
    **{f"turned by {angle}°": turned(angle, angle) for angle in (3, 5, 15, 45)},
    "turned by 3 to 45°, mirrored": mirrored(turned(3, 45)),
    **{f"{share} % off, {sides} side{'s' * (sides > 1)}": cropped(share / 100, share / 100, sides)
       for sides in (1, 2) for share in (5, 10, 12.5, 15)},
    "5 to 15 % off, 2 sides, mirrored": mirrored(cropped(0.05, 0.15, 2)), "10 % off, 4 sides": cropped(0.1, 0.1, 4),
    "5 % off, 1 side, turned by 10°": lambda image, rng: turned(10, 10)(cropped(0.05, 0.05, 1)(image, rng), rng),
}


def planted(image: Pixels, change: Change, rng: np.random.Generator) -> Pixels:
    """The picture of a copy, of another contrast (by up to 15 %) and brightness (by up to 15 gray levels)."""
    values = (change(image, rng) - 128.0) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-15, 15)
    return picture(np.clip(values, 0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pairs", type=Path)
    given = parser.parse_args()
    parts = json.loads((given.dataset / "split.json").read_text())
    files = [given.dataset / f"images/{id}.jpg" for id in (*parts["test"], *parts["val"], *parts["train"])]
    files += sorted((given.dataset / "normal").glob("*.jpg"))
    images = [resized(np.asarray(Image.open(file).convert("RGB")), given.size) for file in files]
    pictures, tests = np.stack([picture(image) for image in images]), len(parts["test"])
    print(f"{given.dataset.name} at {given.size} pixels: {tests} test images, {len(files) - tests} others")
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        copies = np.stack([planted(image, change, rng) for image in images[:tests]])
        pairs = registered_pairs(np.concatenate([pictures[:tests], copies]), SAME_PICTURE, tests)
        print(f"{name:>34} {np.mean(np.isin(range(tests), pairs[pairs[:, 1] - pairs[:, 0] == tests, 0])):8.1%}")
    near = set(map(tuple, near_duplicates(np.stack([thumbnail(image) for image in images]), 4).tolist()))
    across = set(map(tuple, registered_pairs(pictures, SAME_PICTURE, tests).tolist())) - near
    start = time.perf_counter()
    added = registered_pairs(pictures, KEPT_TOGETHER)
    took = time.perf_counter() - start
    new = [(i, j) for i, j in added.tolist() if (i, j) not in near]
    print(f"of {tests * (len(files) - tests)} pairs across {len(across)} agree by more than {SAME_PICTURE}: "
          f"{[(files[i].stem, files[j].stem) for i, j in sorted(across)]}")
    print(f"prepare keeps together {len(new)} pairs beside {len(near)} near-duplicates, in {took:.1f} s")
    if given.pairs and new:
        sheet = np.full((-(-len(new) // COLUMNS) * (given.size + 4), COLUMNS * (2 * given.size + 8), 3), 255, np.uint8)
        for k, (i, j) in enumerate(new):
            y, x = k // COLUMNS * (given.size + 4), k % COLUMNS * (2 * given.size + 8)
            sheet[y:y + given.size, x:x + 2 * given.size] = np.concatenate([images[i], images[j]], axis=1)
        Image.fromarray(sheet).save(given.pairs)


if __name__ == "__main__":
    main()
