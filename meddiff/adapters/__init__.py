"""Raw datasets in the layouts their authors publish: which cases, masks and parts there are, and how one case is decoded.

Listing a dataset opens no image; `decode` reads one case, so that thousands of large images never lie in memory together.
"""

from itertools import pairwise
from pathlib import Path

from meddiff.adapters.dermoscopy import isic2017, isic2018, ph2
from meddiff.adapters.folder import folder
from meddiff.adapters.raw import Fitted, Frame, Outline, RawCase, decode, fit_square, in_memory
from meddiff.adapters.ultrasound import busi, ddti
from meddiff.errors import MeddiffError

__all__ = ["Fitted", "Frame", "Outline", "RawCase", "decode", "fit_square", "in_memory", "read"]


def read(dataset: str, path: Path) -> list[RawCase]:
    """List a raw dataset's cases, sorted by id.

    Args:
        dataset: one of `folder`, `busi`, `isic2017`, `isic2018`, `ph2`, `ddti`.
        path: folder of the raw dataset.

    Raises:
        MeddiffError: `path` or a folder below it is missing, an image has no mask or a mask no image, an id comes twice, or
            nothing is there.
    """
    if not path.is_dir():
        raise MeddiffError(path, f"the folder of the `{dataset}` dataset must be there", "Correct `prepare.path` in params.yaml")
    layouts = {"folder": folder, "busi": busi, "isic2017": isic2017, "isic2018": isic2018, "ph2": ph2, "ddti": ddti}
    cases = sorted(layouts[dataset](path), key=lambda case: case.id)
    if not cases:
        raise MeddiffError(path, f"a `{dataset}` dataset must hold an image", "Check `prepare.dataset` and `prepare.path`")
    for one, other in pairwise(cases):
        if one.id == other.id:
            raise MeddiffError(other.image, f"ids must be unique, `{one.id}` is also {one.image}", "Rename one, and its mask")
    return cases
