"""Lesion-free backgrounds from images with lesions: lesions are filled in, and the inspector must find none there any more.

Ours throughout; the paper has a lesion-free image generator and says nothing that could be read about it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from meddiff.backgrounds.fill import Flags, clone, fill_with_texture
from meddiff.cases import Case, Pixels
from meddiff.painting.painter import Painter
from meddiff.params import BackgroundsParams, GenerateParams
from meddiff.progress import Report, silent
from meddiff.segmentation.inspector import near_lesions, probability
from meddiff.segmentation.segmenter import Segmenter

_BATCH = 16  # images that are filled and judged together
_JOIN = 2    # the foundation fills this much more than the hole [pixels]
_ENOUGH_NORMAL = 8  # with fewer lesion-free images of the dataset `auto` removes lesions
REMOVAL_REASONS = ("too large", "no source", "lesion found")


@dataclass(frozen=True, eq=False)
class Removal:
    """One attempt at removing the lesions of a case.

    Attributes:
        case: its id.
        method: `texture` or `foundation`; empty where none was tried.
        before, after: area that the inspector takes for lesion within the hole, in the case and in the filled image, as shares
            of the lesions' annotated area; NaN where nothing was filled.
        reason: why the image isn't used, one of `REMOVAL_REASONS`; empty where it is.
        image: `[S, S, 3]` uint8, equal to the case's outside the hole; None where nothing was filled.
    """

    case: str
    method: str
    before: float
    after: float
    reason: str
    image: Pixels | None


@dataclass(frozen=True, eq=False)
class Cleared:
    """An image to paint into whose lesions were filled in.

    Attributes:
        case: that it was made from, its mask what was filled in.
        kind: `removed` of an annotated case, `site` of an image in which lesions were found.
        method: that filled them in, or `found` for a site.
        image: `[S, S, 3]` uint8.
    """

    case: Case
    kind: str
    method: str
    image: Pixels

    @property
    def id(self) -> str:
        """Its own name."""
        return f"{self.case.id}_{self.kind}"


def remove_lesions(
    cases: Sequence[Case],
    settings: BackgroundsParams,
    inspector: Segmenter,
    painter: Callable[[], Painter],
    report: Report = silent,
) -> list[Removal]:
    """Remove the lesions of each case by the first method of `settings.fill` whose result passes the inspector.

    Args:
        cases: annotated, each with a lesion, all of one size (a multiple of 16). Lesions of all classes go together.
        inspector: see `inspector.train_inspector`.
        painter: gives the foundation; called for each batch of cases that is left to it, and not before.
        report: called with the number of cases that are settled.

    Returns:
        The attempts; the last one of each case tells what became of it.
    """
    attempts, left = [], []
    for case in cases:
        if hole(case).sum() > settings.largest * case.framed.sum():
            attempts.append(Removal(case.id, "", np.nan, np.nan, "too large", None))
        else:
            left.append(case)
    for method in settings.fill:
        failed = []
        for start in range(0, len(left), _BATCH):
            part = left[start:start + _BATCH]
            if method == "texture":
                images = [fill_with_texture(case.image, hole(case), case.framed) for case in part]
            else:
                images = _with_foundation(part, settings, painter())
            judged = _judge(part, method, images, inspector, settings.residue)
            attempts += judged
            failed += [case for case, attempt in zip(part, judged, strict=True) if attempt.reason]
            waiting = 0 if method == settings.fill[-1] else len(failed)
            report(len(cases) - len(left) + start + len(part) - waiting, len(cases), {})
        left = failed
    return attempts


def lesions_to_remove(cases: Sequence[Case], settings: BackgroundsParams, normal: int) -> list[Case]:
    """The cases with a lesion, none if `normal` lesion-free images of the dataset do."""
    if settings.sources == "normal" or (settings.sources == "auto" and normal >= _ENOUGH_NORMAL):
        return []
    return [case for case in cases if case.mask is not None and case.mask.any()]


def removed_lesions(cases: Sequence[Case], settled: Mapping[str, Removal]) -> list[Cleared]:
    """The images that passed; `settled` is the last attempt at each case by its id."""
    attempts = [(case, settled[case.id]) for case in cases if case.id in settled]
    return [Cleared(case, "removed", removal.method, removal.image) for case, removal in attempts
            if removal.image is not None and not removal.reason]


def hole(case: Case) -> Flags:
    """What is filled in, `[S, S]` bool: the lesions of an annotated case with their halo, within its frame."""
    assert case.mask is not None
    return near_lesions(case.mask) & case.framed


def _with_foundation(cases: Sequence[Case], settings: BackgroundsParams, painter: Painter) -> list[Pixels | None]:
    """The foundation fills a little more than the hole, of which the hole's part is joined with the image.

    A case's noise is made from the seed and its id, whatever is filled beside it.
    """
    seeds = [int(np.random.default_rng([settings.seed, *case.id.encode()]).integers(2**31)) for case in cases]
    wider = [np.asarray(binary_dilation(hole(case), iterations=_JOIN) & case.framed, dtype=np.uint8) for case in cases]
    painted = painter.erase([case.image for case in cases], wider, seeds, GenerateParams(steps=settings.fill_steps, rim=0))
    return [clone(case.image, content, hole(case), case.framed) for case, content in zip(cases, painted, strict=True)]


def _judge(
    cases: Sequence[Case], method: str, images: Sequence[Pixels | None], inspector: Segmenter, residue: float
) -> list[Removal]:
    """What the inspector says of filled images; None stays unfilled for want of a source."""
    filled = [case.image if image is None else image for case, image in zip(cases, images, strict=True)]
    found = probability(np.stack([*(case.image for case in cases), *filled]), inspector) > 0.5
    attempts = []
    for i, (case, image) in enumerate(zip(cases, images, strict=True)):
        if image is None:
            attempts.append(Removal(case.id, method, np.nan, np.nan, "no source", None))
            continue
        inside, area = hole(case), int((np.asarray(case.mask) > 0).sum())
        before, after = (float((flags & inside).sum() / area) for flags in (found[i], found[i + len(cases)]))
        fails = residue < 1 and after > residue * before
        attempts.append(Removal(case.id, method, before, after, "lesion found" if fails else "", image))
    return attempts
