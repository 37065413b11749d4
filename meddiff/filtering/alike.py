"""The nearest real case of a sample's own kind: of the same class, and gray or in colour as it is. For eyes, no decision."""

from collections.abc import Sequence

import numpy as np

from meddiff.cases import Case, Pixels
from meddiff.filtering.decisions import fitted
from meddiff.filtering.features import Extractor
from meddiff.filtering.similarity import measure_real

_GRAY = 8.0  # mean spread of the channels [levels of 255] up to which an image is gray; ours: JPEG tints gray ones a little


def nearest_alike(samples: Sequence[tuple[Pixels, Pixels]], cases: Sequence[Case], extractor: Extractor) -> list[Case | None]:
    """The annotated case whose lesion is nearest to that of each sample, among those of its kind; None without any.

    Args:
        samples: image `[H, W, 3]` uint8 and mask `[H, W]` of 0 to K of each.
        cases: annotated ones of one size.
        extractor: that the filter uses.
    """
    size, nearest = len(cases[0].image), list[Case | None]([None] * len(samples))
    real = [(case, _kind(case.image, case.mask)) for case in cases if case.mask is not None and case.mask.any()]
    kinds = [_kind(image, mask) if mask.any() else None for image, mask in samples]
    for kind in {kind for kind in kinds if kind}:
        own, places = [case for case, other in real if other == kind], [i for i, other in enumerate(kinds) if other == kind]
        known = {case.id: case for case in own}
        if len(own) < 2:
            ids = [case.id for case in own] * len(places)
        else:
            images, masks = (np.stack([fitted(samples[i][part], size) for i in places]) for part in (0, 1))
            ids = measure_real(own, extractor).compare(images, masks).nearest
        for i, id in zip(places, ids, strict=False):
            nearest[i] = known.get(id)
    return nearest


def _kind(image: Pixels, mask: Pixels) -> tuple[bool, int]:
    """Whether it is gray, and the class of the greatest part of the mask."""
    gray = float((image.max(axis=2).astype(np.float32) - image.min(axis=2)).mean()) <= _GRAY
    return gray, int(np.bincount(mask.ravel(), minlength=2)[1:].argmax()) + 1
