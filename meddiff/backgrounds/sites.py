"""Sites: places of unlabelled training images where two segmenters see the same lesion, which a painted one then replaces.

Ours. What a segmenter lacks most with few annotated images is lesions in surroundings it hasn't seen, as they really occur: with
their shadows, in the tissue and at the depth where lesions are. Images without annotation have all of that, but no trustworthy
outline. There the lesion is filled in with the texture around it, and a new one is painted at its place, with an outline of its
own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from meddiff.backgrounds.fill import fill_with_texture
from meddiff.backgrounds.removal import Cleared
from meddiff.cases import Case, Pixels
from meddiff.lesions.shapes import parts
from meddiff.params import BackgroundsParams, SegmentParams
from meddiff.progress import Report, silent
from meddiff.segmentation.inspector import near_lesions, predicted, probability, reduced
from meddiff.segmentation.metrics import class_dice
from meddiff.segmentation.segmenter import Segmenter, train_segmenter
from meddiff.segmentation.validation import within_frame
from meddiff.training import side_by_side

_TOGETHER = 64  # images that are looked at together
ENOUGH_SITES = 8  # fewer aren't used
_TAUGHT = 0.5  # share of a batch from the images in which the finders before agreed
_APART = 1000  # between the seeds of finders


Fit = Callable[..., Segmenter]  # `train_finder`, or `inspector.train_inspector`


class Training(Protocol):
    """Trains a segmenter by `fit`, kept under its name while it is unfinished; `taught` are further cases on which it depends."""

    def __call__(
        self, name: str, fit: Fit, params: SegmentParams, seed: int, taught: Sequence[Case], report: Report, /
    ) -> Segmenter: ...


def search_sites(cases: Sequence[Case], settings: BackgroundsParams, training: Training, device: str) -> list[Case]:
    """The images without annotation in which the finders of the last round agree, with what they see there as masks.

    A round that leaves too few for sites ends the search: the next would learn nothing from them.

    Args:
        cases: images without annotation.
        training: trains `train_finder` on the annotated cases.
        device: on which it does.
    """
    found, rounds = list[Case](), settings.finder_rounds if cases else 0
    params = SegmentParams(steps=max(1, settings.finder_steps), share=_TAUGHT, ratio=max(1, len(cases)),
                           precision=settings.precision, network=settings.finder_network, encoder=settings.finder_encoder,
                           encoder_revision=settings.finder_encoder_revision)
    for number in range(rounds):
        names = {f"finder {number + 1}{name}": settings.seed + 1 + _APART * (2 * number + i) for i, name in enumerate("ab")}
        jobs = {name: partial(training, name, partial(train_finder, taught=found), params, seed, found)
                for name, seed in names.items()}
        one, other = side_by_side(jobs, device)
        sites = find_sites(cases, (one, other), settings.site_agreement, settings.largest)
        found = [replace(case, mask=site) for case, site in zip(cases, sites, strict=True) if site is not None]
        if len(found) < ENOUGH_SITES:
            break
    return found


def clear_sites(found: Iterable[Case]) -> list[Cleared]:
    """The sites whose lesions could be filled in."""
    images = ((case, cleared(case, case.mask)) for case in found if case.mask is not None)
    return [Cleared(case, "site", "found", image) for case, image in images if image is not None]


def train_finder(
    cases: Sequence[Case],
    taught: Sequence[Case],
    params: SegmentParams,
    seed: int,
    classes: int = 1,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report = silent,
) -> Segmenter:
    """Train one of the segmenters that look for lesions, on `inspector.reduced` annotated cases.

    Args:
        taught: images with what the finders of the round before see in them, which fill `params.share` of each batch; none in the
            first round.
        seed: of its initial weights and order. Finders of two seeds are wrong in different places.

    The other arguments and what is raised: see `segmentation.train_segmenter`.
    """
    cases, taught = reduced(cases, params.network), reduced(taught, params.network)
    return train_segmenter(cases, taught, params, seed, device=device, checkpoint=checkpoint, report=report,
                           classes=classes)


def find_sites(cases: Sequence[Case], finders: tuple[Segmenter, Segmenter], agreement: float, largest: float
               ) -> list[Pixels | None]:
    """Where images show a lesion, for each image the lesions that two finders see in the mean, or None.

    Args:
        cases: images without annotation, of one size.
        finders: trained apart on `inspector.reduced` cases.
        agreement: least Dice between what the two see in an image, the mean over the classes that either sees.
        largest: greatest share of the imaged frame that the lesions may cover.

    Returns:
        `[S, S]` uint8 of 0 to K, lesions without holes and without specks (see `shapes.parts`), or None where the two see
        nothing or disagree, or the lesions are too large.
    """
    found: list[Pixels | None] = []
    for start in range(0, len(cases), _TOGETHER):
        some = cases[start:start + _TOGETHER]
        images = np.stack([case.image for case in some])
        sure = [probability(images, finder) for finder in finders]
        first, second = (predicted(images, finder, known) for finder, known in zip(finders, sure, strict=True))
        both = np.where(sum(sure) > 1, np.where(first > 0, first, second), 0).astype(np.uint8)
        for case, mask, one, other in zip(some, both, first, second, strict=True):
            alike = class_dice(within_frame(one, case), within_frame(other, case), finders[0].architecture.classes)
            found.append(_site(case, mask, largest) if alike >= agreement else None)
    return found


def cleared(case: Case, site: Pixels) -> Pixels | None:
    """The image of a site without its lesions: they and their halo are filled with texture of the same image.

    Returns:
        `[S, S, 3]` uint8, equal to the case's image elsewhere; None where no texture fits.
    """
    return fill_with_texture(case.image, near_lesions(site) & case.framed, case.framed)


def _site(case: Case, mask: Pixels, largest: float) -> Pixels | None:
    site = np.zeros_like(mask)
    for part in reversed(parts(within_frame(mask, case))):
        site[part.where] = part.label
    return site if 0 < (site > 0).sum() <= largest * case.framed.sum() else None
