"""How near the finders' outlines, and what segmenters see in the same images, are to annotations that the chain doesn't see.

    python benchmarks/outlines.py PROJECT [SEGMENTER ...]       folders such as models/segmenters/real/0; two also as a pair

Only training images are looked at, those that count as not annotated though the dataset has their masks.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import Case
from meddiff.datasets.adapters import decode, fit_square
from meddiff.datasets.preparation import list_cases
from meddiff.layout import Layout
from meddiff.outputs.cases import read_unannotated
from meddiff.outputs.pairs import list_found
from meddiff.params import PrepareParams
from meddiff.params.file import load_params
from meddiff.segmentation.metrics import class_dice
from meddiff.segmentation.segmenter import Segmenter

AGREEMENT = 0.85  # of two segmenters, the finders' default


def each_dice(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Dice of N masks `[N, S, S]` with others."""
    return np.array([class_dice(one.astype(np.uint8), other.astype(np.uint8), 1) for one, other in zip(found, true, strict=True)])


def hidden(layout: Layout, settings: PrepareParams) -> tuple[list[Case], NDArray[np.bool_]]:
    """The training images that count as not annotated though the dataset has their masks, and these, `[N, S, S]`."""
    raw = {case.id: case for case in list_cases(Path(settings.path), settings) if case.masks}
    cases = [case for case in read_unannotated(layout.cases("train")) if case.id in raw]
    originals = (decode(raw[case.id]) for case in cases)
    true = np.stack([fit_square(each.image, each.mask, settings.size, settings.fit, each.steps).mask > 0 for each in originals])
    return cases, true


def main() -> None:
    """A line each: how many images, and the mean Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("segmenters", type=Path, nargs="*")
    options = parser.parse_args()
    layout = Layout(options.project.resolve())
    cases, true = hidden(layout, load_params(layout.params).prepare)
    files = {pair.id: pair for pair in list_found(layout)}
    at = np.array([case.id in files for case in cases])
    outlines = np.stack([files[case.id].read().mask > 0 for case in cases if case.id in files])
    print(f"outlines: {at.sum()} of {len(cases)} images, Dice {each_dice(outlines, true[at]).mean():.3f}")
    images, seen = np.stack([case.image for case in cases]), {}
    for folder in options.segmenters:
        seen[folder] = Segmenter.load(folder).segment(images) > 0
        dice = each_dice(seen[folder], true)
        print(f"{folder}: Dice {dice.mean():.3f} in all, {dice[at].mean():.3f} in those with an outline")
    for one, other in combinations(seen, 2):
        alike = each_dice(seen[one], seen[other]) >= AGREEMENT
        both = each_dice(seen[one] & seen[other], true)[alike]
        print(f"{one} and {other} agree by {AGREEMENT}: {alike.sum()} images, Dice {both.mean():.3f}")


if __name__ == "__main__":
    main()
