"""Sites: places of unlabelled training images where two segmenters see the same lesion, which a painted one then replaces.

Ours. What a segmenter lacks most with few annotated images is lesions in surroundings it hasn't seen, as they really occur: with
their shadows, in the tissue and at the depth where lesions are. Images without annotation have all of that, but no trustworthy
outline. There the lesion is filled in with the texture around it, and a new one is painted at its place, with an outline of its
own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meddiff.cases import Case, Pixels
from meddiff.fill import fill_with_texture
from meddiff.inspector import near_lesions, predicted, reduced
from meddiff.metrics import class_dice
from meddiff.params import SegmentParams
from meddiff.progress import Report, silent
from meddiff.segmentation import Segmenter, train_segmenter, within_frame
from meddiff.shapes import parts

TOGETHER = 64  # images that are looked at together


def train_finder(
    cases: Sequence[Case],
    steps: int,
    seed: int,
    classes: int = 1,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report = silent,
) -> Segmenter:
    """Train the segmenter that looks for lesions, on `inspector.reduced` annotated cases.

    It differs from the inspector in what it has seen, no lesion-free windows, in its initial weights and in the length of its
    training, so that where both agree they are seldom wrong. Arguments and what is raised: see `segmentation.train_segmenter`.
    """
    return train_segmenter(reduced(cases), [], SegmentParams(steps=steps), seed + 1, device=device, checkpoint=checkpoint,
                           report=report, classes=classes)


def find_sites(
    cases: Sequence[Case], finder: Segmenter, inspector: Segmenter, agreement: float, largest: float
) -> list[Pixels | None]:
    """Where images show a lesion, for each image the lesions that the finder sees, or None.

    Args:
        cases: images without annotation, of one size.
        finder, inspector: trained on `inspector.reduced` cases.
        agreement: least Dice between what the two see in an image, the mean over the classes that either sees.
        largest: greatest share of the imaged frame that the lesions may cover.

    Returns:
        `[S, S]` uint8 of 0 to K, lesions without holes and without specks (see `shapes.parts`), or None where the two see
        nothing or disagree, or the lesions are too large.
    """
    found: list[Pixels | None] = []
    for start in range(0, len(cases), TOGETHER):
        some = cases[start:start + TOGETHER]
        images = np.stack([case.image for case in some])
        pairs = zip(some, predicted(images, finder), predicted(images, inspector), strict=True)
        found += [_site(case, first, second, finder.architecture.classes, agreement, largest) for case, first, second in pairs]
    return found


def cleared(case: Case, site: Pixels) -> Pixels | None:
    """The image of a site without its lesions: they and their halo are filled with texture of the same image.

    Returns:
        `[S, S, 3]` uint8, equal to the case's image elsewhere; None where no texture fits.
    """
    return fill_with_texture(case.image, near_lesions(site) & case.framed, case.framed)


def _site(case: Case, first: Pixels, second: Pixels, classes: int, agreement: float, largest: float) -> Pixels | None:
    site = np.zeros_like(first)
    for part in reversed(parts(within_frame(first, case))):
        site[part.where] = part.label
    if not site.any() or (site > 0).sum() > largest * case.framed.sum():
        return None
    return site if class_dice(within_frame(second, case), site, classes) >= agreement else None
