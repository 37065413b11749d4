"""Copy-paste of lesions, the cheap rival of the generator: annotated lesions, moved into the same lesion-free backgrounds.

Ours in the details, after "simple copy-paste" (Ghiasi et al., CVPR 2021). No network is needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from meddiff.cases import Case, Pixels
from meddiff.errors import MeddiffError
from meddiff.lesions.fields import box, imaged_field
from meddiff.lesions.shapes import NEIGHBOURS, Bits, Floats, cut_off
from meddiff.masks.placement import CUT, CUT_AT_WORST, GAP, LEAST_PIXELS, TRIES, Lesions, MaskLevels, learn_lesions

_ANGLE, _SCALE = np.deg2rad(20), np.log(1.25)  # greatest rotation where upside down is wrong; greatest change of size (logarithm)
_SHRINK = np.log(0.97)  # of each try in the second half
SOFT = 42  # the soft border is 1/42 of the side wide, 3 pixels at 128
_GAIN = 2.0  # greatest factor that matches the gray levels, and its inverse the least
_NEAR = MaskLevels(pose=False)  # a centre near a real one
_CASE, _BACKGROUND, _PLACE = 1, 2, 3  # streams of random numbers [seed, stream, ...]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A lesion with its surroundings.

    Attributes:
        number: its row of the table of lesions.
        image: `[S, S, 3]` float64, its case's.
        classes: `[S, S]` uint8, the mask of this lesion alone.
        shown: `[S, S]` where the case shows tissue that belongs to no other lesion.
        centre: (y, x) of the lesion [pixels].
    """

    number: int
    image: Floats
    classes: Pixels
    shown: Bits
    centre: Floats


def copy_paste(cases: Sequence[Case], backgrounds: Sequence[Pixels], n: int, seed: int, upside_down: bool = False,
               sites: Sequence[Pixels] = ()) -> list[Case]:
    """Paste the lesions of annotated cases into lesion-free backgrounds.

    Each pair has the lesions of one case, so that number and sizes are as in real images; cases and backgrounds take turns, each
    in an order of its own, so that all are used alike. Lesions of touching classes stay together. A lesion is mirrored by one
    half, turned (by up to 20 degrees; `upside_down`: anyhow), scaled by 0.8 to 1.25, and put near where real lesions lie in the
    imaged field (`Lesions.pose`). A pose with more than 3 percent of the lesion outside of the field is drawn again, up to 50
    times, in the second half of which it also shrinks; where none leaves less than 12.5 percent without meeting another lesion,
    it is left out. A lesion that the frame cuts off is no source, unless all are.

    Gray levels: each channel of the lesion is multiplied by median(ring in the background) / median(ring in the source), within
    1/2 to 2. Contrast is what a lesion is found by, and a lesion moved as it is from dark surroundings to bright ones would have
    another; a factor rather than a difference, as light and pigment multiply, and as what is dark stays above 0; a median, as
    rings meet hairs and stickers. The ring is as wide as the soft border, over which the surroundings of the lesion fade out
    linearly, outside of the mask.

    Args:
        cases: annotated, all `[S, S, 3]`.
        backgrounds: `[S, S, 3]` uint8.
        n: pairs.
        seed: of every random number; the first pairs of a greater n are the same.
        upside_down: whether lesions may be turned over; wrong for ultrasound.
        sites: of each background the lesions that were filled in there, `[S, S]` uint8, 0 where there was none. The largest
            pasted one goes to the centre of the largest of them, and so on; what is left on either side stays out. Empty: above.

    Returns:
        `n` cases; a mask holds the classes 0 to K of what it shows. Pixels beyond the soft border, and outside of the
        background's imaged field, are the background's.

    Raises:
        MeddiffError: no lesion, no background, or lesions that fit nowhere.
    """
    if not backgrounds:
        raise MeddiffError("copy-paste", "lesions need a lesion-free background to be pasted into, and there is none",
                           "Add lesion-free images, raise `backgrounds.residue`, or leave the arm out")
    lesions, cuts = _cut(cases)
    fields = [imaged_field(image) for image in backgrounds]
    sources, grounds = _turns(sorted(cuts), seed, _CASE), _turns(range(len(backgrounds)), seed, _BACKGROUND)
    pairs: list[Case] = []
    for draw in range(n * TRIES):
        if len(pairs) == n:
            return pairs
        source, ground = next(sources), next(grounds)
        centres = _centres(sites[ground]) if sites else [None] * len(cuts[source])
        image, mask = _paste(cuts[source], lesions, backgrounds[ground], fields[ground], centres, [seed, _PLACE, draw],
                             upside_down)
        if mask.any():
            pairs.append(Case(f"paste_{len(pairs):04d}", image, mask, cases[source].group))
    raise MeddiffError("copy-paste", f"lesions must fit into the imaged field of the backgrounds, {len(pairs)} of {n} pairs did",
                       "Annotate lesions that are smaller than the frame, or add backgrounds")


def _cut(cases: Sequence[Case]) -> tuple[Lesions, dict[int, list[_Cut]]]:
    """The table of all lesions, and by number of the case those to paste, the largest first."""
    masks = [np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask for case in cases]
    if not any(mask.any() for mask in masks):
        raise MeddiffError("copy-paste", "there must be an annotated lesion", "Raise prepare.n_labelled")
    fields = [imaged_field(case.image) for case in cases]
    lesions, where = learn_lesions([(mask > 0).astype(np.uint8) for mask in masks], fields)
    whole = [i for i, lesion in enumerate(where) if not cut_off(lesion)] or range(len(where))
    cuts: dict[int, list[_Cut]] = {}
    for i in whole:
        case = int(lesions.image[i])
        classes, others = masks[case] * where[i], (masks[case] > 0) & ~where[i]
        cuts.setdefault(case, []).append(_Cut(i, cases[case].image.astype(np.float64), classes, fields[case] & ~others,
                                              np.argwhere(where[i]).mean(axis=0)))
    return lesions, cuts


def _turns(values: Sequence[int], seed: int, stream: int) -> Iterator[int]:
    """All values in one random order after the other, without end."""
    turn = 0
    while True:
        yield from (int(v) for v in np.random.default_rng([seed, stream, turn]).permutation(values))
        turn += 1


def _centres(site: Pixels) -> list[Floats | None]:
    """(y, x) of the lesions of a mask [pixels], the largest first."""
    labels, n = ndimage.label(site > 0, NEIGHBOURS)
    places = sorted((np.argwhere(labels == i) for i in range(1, n + 1)), key=len, reverse=True)
    return [place.mean(axis=0) for place in places]


def _paste(cuts: Sequence[_Cut], lesions: Lesions, background: Pixels, field: Bits, centres: Sequence[Floats | None],
           stream: Sequence[int], upside_down: bool) -> tuple[Pixels, Pixels]:
    """A background with lesions, and their mask; an empty one where none fits. A centre is None where none is given."""
    image, mask, taken = background.astype(np.float64), np.zeros(field.shape, np.uint8), np.zeros(field.shape, bool)
    soft, gap = max(1, round(len(field) / SOFT)), max(1, round(GAP * len(field)))
    for cut, at in zip(cuts, centres, strict=False):
        moved = _fitted(cut, lesions, field, taken, at, [*stream, cut.number], upside_down)
        if moved is None:
            continue
        matrix, offset, drawn = moved
        classes = drawn * field
        content = np.stack([ndimage.affine_transform(channel, matrix, offset, order=1, mode="nearest")
                            for channel in np.moveaxis(cut.image, 2, 0)], axis=2)
        shown = ndimage.affine_transform(cut.shown.astype(np.float64), matrix, offset, order=1) > 0.99
        distance = ndimage.distance_transform_edt(classes == 0)
        ring = (distance > 0) & (distance <= soft) & shown & field & ~taken
        opaque = np.where((classes > 0) | ring, 1 - distance / (soft + 1), 0)
        if ring.any():
            content *= np.clip((np.median(image[ring], axis=0) + 1) / (np.median(content[ring], axis=0) + 1), 1 / _GAIN, _GAIN)
        image += opaque[:, :, None] * (content - image)
        mask = np.maximum(mask, classes)
        taken |= ndimage.binary_dilation(classes > 0, NEIGHBOURS, gap)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def _fitted(cut: _Cut, lesions: Lesions, field: Bits, taken: Bits, at: Floats | None, stream: Sequence[int],
            upside_down: bool) -> tuple[Floats, Floats, Pixels] | None:
    """The map (matrix, offset) from the pixels of a background to those of the case, and the moved classes `[S, S]`."""
    low, high = box(field)
    best, least = None, CUT_AT_WORST
    for attempt in range(TRIES):
        rng = np.random.default_rng([*stream, attempt])
        # The first tries stay near this lesion's own place, the others go near any lesion's.
        near = cut.number if attempt < TRIES // 4 else int(rng.integers(len(lesions.image)))
        centre = lesions.pose(near, _NEAR, int(rng.integers(2**31)), 0, 0)[1:3]
        matrix = _turned(rng, upside_down, attempt)
        target = (low + centre * (high - low)) * len(field) - 0.5 if at is None else at
        offset = cut.centre - matrix @ target
        drawn = _moved_classes(cut.classes, matrix, offset)
        inside = int(((drawn > 0) & field).sum())
        # Of the area that it should have, so that what lies beyond the frame counts as outside too.
        lost = 1 - inside * abs(np.linalg.det(matrix)) / (cut.classes > 0).sum()
        if lost <= least and inside >= LEAST_PIXELS and not ((drawn > 0) & taken).any():
            best, least = (matrix, offset, drawn), lost
            if lost <= CUT:
                break
    return best


def _turned(rng: np.random.Generator, upside_down: bool, attempt: int) -> Floats:
    """A random change `[2, 2]` of (y, x), from the new place back to the old one."""
    angle = rng.uniform(-np.pi, np.pi) if upside_down else rng.uniform(-_ANGLE, _ANGLE)
    scale = np.exp(rng.uniform(-_SCALE, _SCALE) + _SHRINK * max(0, attempt - TRIES // 2))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix: Floats = np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, rng.choice([-1.0, 1.0])]) / scale
    return matrix


def _moved_classes(classes: Pixels, matrix: Floats, offset: Floats) -> Pixels:
    """Each class moved by itself, so that borders stay smooth and indices whole."""
    labels = [int(label) for label in np.unique(classes) if label]
    shares = np.stack([ndimage.affine_transform((classes == label).astype(np.float32), matrix, offset, order=1)
                       for label in labels])
    found = np.array(labels, np.uint8)[shares.argmax(axis=0)]
    moved: Pixels = np.where(shares.sum(axis=0) > 0.5, found, 0).astype(np.uint8)
    return moved
