"""Contact sheets: each image beside the same without its lesion, pairs in rows of four."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from meddiff.backgrounds.removal import Cleared, Removal, hole
from meddiff.cases import Case, Pixels

_SHOWN = 24
_OUTLINE, _DROPPED = (255, 255, 0), (255, 0, 0)


def make_sheets(cases: Sequence[Case], settled: Mapping[str, Removal], sites: Sequence[Cleared]) -> dict[str, Image.Image]:
    """A sheet of the sites and one of the removals by the names of their files, without those that would be empty.

    Args:
        settled: by id of the case, see `removal.remove_lesions`.
    """
    sheets = {"sites.png": _site_sheet(sites)} if sites else {}
    return sheets | ({"removed.png": _removal_sheet(cases, settled)} if settled else {})


def _site_sheet(sites: Sequence[Cleared]) -> Image.Image:
    """The image with the outline of what is seen there, and without its lesion."""
    pairs = []
    for site in sites[:_SHOWN]:
        outlined, inside = site.case.image.copy(), np.asarray(site.case.mask) > 0
        outlined[inside & ~ndimage.binary_erosion(inside)] = _OUTLINE
        pairs.append(np.concatenate([outlined, site.image], axis=1))
    return _four_a_row(pairs)


def _removal_sheet(cases: Sequence[Case], settled: Mapping[str, Removal]) -> Image.Image:
    """The image with its hole outlined, and the filled image, under a red bar if it is dropped."""
    pairs = []
    for case in [case for case in cases if case.id in settled][:_SHOWN]:
        removal, outlined, inside = settled[case.id], case.image.copy(), hole(case)
        outlined[inside & ~(inside & np.roll(inside, 1, 0) & np.roll(inside, 1, 1))] = _OUTLINE
        filled = np.zeros_like(case.image) if removal.image is None else removal.image.copy()
        if removal.reason:
            filled[:max(2, len(filled) // 32)] = _DROPPED
        pairs.append(np.concatenate([outlined, filled], axis=1))
    return _four_a_row(pairs)


def _four_a_row(pairs: list[Pixels]) -> Image.Image:
    pairs = pairs + [np.zeros_like(pairs[0])] * (-len(pairs) % 4)
    return Image.fromarray(np.concatenate([np.concatenate(pairs[i:i + 4], axis=1) for i in range(0, len(pairs), 4)]))
