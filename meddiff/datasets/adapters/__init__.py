"""Raw datasets in the layouts their authors publish: which cases, masks and parts there are, and how one case is decoded.

Listing a dataset opens no image; `decode` reads one case, so that thousands of large images never lie in memory together.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from meddiff.datasets.adapters.dermoscopy import isic2017, isic2018, ph2
from meddiff.datasets.adapters.folder import folder
from meddiff.datasets.adapters.raw import Fitted, Original, Polygon, RawCase, decode, fit_square, in_memory
from meddiff.datasets.adapters.ultrasound import busi, ddti
from meddiff.errors import MeddiffError

__all__ = ["Fitted", "Original", "Polygon", "RawCase", "decode", "fit_square", "in_memory", "read"]

_ONE_CLASS: dict[str, Callable[[Path], list[RawCase]]] = {"isic2017": isic2017, "isic2018": isic2018, "ph2": ph2, "ddti": ddti}
_SEVERAL: dict[str, Callable[[Path, Sequence[str]], list[RawCase]]] = {"folder": folder, "busi": busi}


def read(dataset: str, path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """List a raw dataset's cases, sorted by id.

    Args:
        dataset: one of `folder`, `busi`, `isic2017`, `isic2018`, `ph2`, `ddti`.
        path: folder of the raw dataset.
        classes: names of the classes of lesions; with one, every lesion is of it. Several are told apart by `folder` (masks of
            class indices, in this order) and `busi` (by its folders `benign` and `malignant`).

    Raises:
        MeddiffError: `path` or a folder below it is missing, an image has no mask or a mask no image, an id comes twice, nothing
            is there, or the dataset doesn't tell these classes.
    """
    if not path.is_dir():
        raise MeddiffError(path, f"the folder of the `{dataset}` dataset must be there", "Correct `prepare.path` in params.yaml")
    if dataset in _ONE_CLASS and len(classes) > 1:
        raise MeddiffError("prepare.classes", f"the `{dataset}` layout tells one class of lesions, not {len(classes)}",
                           "Name one class, or bring masks of class indices in the layout `folder`")
    found = _ONE_CLASS[dataset](path) if dataset in _ONE_CLASS else _SEVERAL[dataset](path, classes)
    cases = sorted(found, key=lambda case: case.id)
    if not cases:
        raise MeddiffError(path, f"a `{dataset}` dataset must hold an image", "Check `prepare.dataset` and `prepare.path`")
    for case in cases:
        if case.id.encode(errors="ignore").decode() != case.id:  # bytes of another encoding, as an old archive leaves them
            raise MeddiffError(case.image, "the name of a file must be UTF-8", "Rename it, and its mask (`convmv` renames many)")
    for one, other in pairwise(cases):
        if one.id == other.id:
            raise MeddiffError(other.image, f"ids must be unique, `{one.id}` is also {one.image}", "Rename one, and its mask")
    return cases
