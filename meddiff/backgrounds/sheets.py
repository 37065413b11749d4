"""Contact sheets: each image beside the same without its lesion, pairs in rows of four."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from meddiff.backgrounds.removal import Cleared, Removal, hole
from meddiff.cases import Case, outlined, tiled

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
        seen = outlined(site.case.image, [(np.asarray(site.case.mask) > 0, _OUTLINE)])
        pairs.append(np.concatenate([seen, site.image], axis=1))
    return tiled(pairs, 4)


def _removal_sheet(cases: Sequence[Case], settled: Mapping[str, Removal]) -> Image.Image:
    """The image with its hole outlined, and the filled image, under a red bar if it is dropped."""
    pairs = []
    for case in [case for case in cases if case.id in settled][:_SHOWN]:
        removal = settled[case.id]
        filled = np.zeros_like(case.image) if removal.image is None else removal.image.copy()
        if removal.reason:
            filled[:max(2, len(filled) // 32)] = _DROPPED
        pairs.append(np.concatenate([outlined(case.image, [(hole(case), _OUTLINE)]), filled], axis=1))
    return tiled(pairs, 4)
