"""Raw datasets in the layouts their authors publish: which cases, masks and parts there are, and how one case is decoded.

Listing a dataset opens no image; `decode` reads one case, so that thousands of large images never lie in memory together.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from meddiff.datasets.adapters.dermoscopy import isic2017, isic2018, ph2
from meddiff.datasets.adapters.folder import folder
from meddiff.datasets.adapters.groups import group_file, offer_groups, refuse_unsafe, unknown_names, with_groups
from meddiff.datasets.adapters.inputs import list_inputs
from meddiff.datasets.adapters.listing import LeftOut, entry, tell_left_out, unread
from meddiff.datasets.adapters.raw import (
    Fitted,
    Original,
    Polygon,
    RawCase,
    decode,
    decoded_image,
    fit_square,
    in_memory,
    unfit_square,
)
from meddiff.datasets.adapters.ultrasound import busi, ddti
from meddiff.errors import MeddiffError

__all__ = ["Fitted", "LeftOut", "Original", "Polygon", "RawCase", "decode", "decoded_image", "fit_square", "in_memory",
           "list_inputs", "offer_groups", "passed_over", "read", "tell_left_out", "unfit_square"]

_ONE_CLASS: dict[str, Callable[[Path], list[RawCase]]] = {"isic2017": isic2017, "isic2018": isic2018, "ph2": ph2, "ddti": ddti}
_SEVERAL: dict[str, Callable[[Path, Sequence[str]], list[RawCase]]] = {"folder": folder, "busi": busi}
_TEXTS = r".*\.(txt|md|csv|json|pdf|xlsx?|docx?|html)"
# What the authors publish beside images and masks.
_ASIDE = {"folder": None, "busi": _TEXTS, "ph2": _TEXTS, "ddti": rf"{_TEXTS}|\d+\.xml",
          **dict.fromkeys(("isic2017", "isic2018"), rf"{_TEXTS}|.*_superpixels\.png")}


def read(dataset: str, path: Path, classes: Sequence[str] = ("lesion",), group_pattern: str = "") -> list[RawCase]:
    """List a raw dataset's cases, sorted by id.

    Args:
        dataset: one of `folder`, `busi`, `isic2017`, `isic2018`, `ph2`, `ddti`.
        path: folder of the raw dataset. `groups.json` or `groups.csv` in it names the patients, in any layout.
        classes: names of the classes of lesions; with one, every lesion is of it. Several are told apart by `folder` (masks of
            class indices, in this order) and `busi` (by its folders `benign` and `malignant`).
        group_pattern: what in an id is the patient, see `groups.with_groups`; empty: nothing.

    Raises:
        MeddiffError: `path` or a folder below it is missing, an image has no mask or a mask no image, an id comes twice or is
            unsafe, nothing is there, groups are wrong, or the dataset doesn't tell these classes.
    """
    if not path.is_dir():
        raise MeddiffError(path, f"the folder of the `{dataset}` dataset must be there", "Correct `prepare.path` in params.yaml")
    if dataset in _ONE_CLASS and len(classes) > 1:
        raise MeddiffError("prepare.classes", f"the `{dataset}` layout tells one class of lesions, not {len(classes)}",
                           "Name one class, or bring masks of class indices in the layout `folder`")
    listed = _ONE_CLASS[dataset](path) if dataset in _ONE_CLASS else _SEVERAL[dataset](path, classes)
    cases = sorted(listed, key=lambda case: case.id)
    if not cases:
        instead = "; ".join(tell_left_out(passed_over(dataset, path, cases)))
        raise MeddiffError(path, f"a `{dataset}` dataset must hold an image{instead and f', but {instead}'}",
                           "Check `prepare.dataset` and `prepare.path`")
    for first, second in pairwise(cases):
        if first.id == second.id:
            raise MeddiffError(second.file or second.id, f"ids must be unique, `{second.id}` is also {first.file}",
                               "Rename one, and its mask")
    cases = with_groups(cases, path, group_pattern)
    refuse_unsafe(cases)
    return cases


def passed_over(dataset: str, path: Path, cases: Sequence[RawCase]) -> list[LeftOut]:
    """What of a dataset's folder `read` didn't take: files, names in the file of groups, and annotations that can't be right."""
    used = {file for case in cases for file in case.files}
    if _ASIDE[dataset] is None:
        used |= {entry(path, "split.json"), *filter(None, [group_file(path)])}
    doubts = [LeftOut(case.id, "annotation", case.doubt) for case in cases if case.doubt]
    return [*unread(path, used, _ASIDE[dataset]), *unknown_names(cases, path), *doubts]
