"""Scores of one predicted mask against its reference, class by class: overlap, with empty masks settled, and lesions found."""

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from meddiff.errors import MeddiffError

Metric = Callable[[NDArray[Any], NDArray[Any]], float]  # of prediction and reference, masks of one class
_TAKEN = ("case", "group", "class", "arm", "seed", "dice", "iou", "hd95", "nsd", "lesions", "found", "false_positives",
          "lesion_area", "stratum", "dice_undecided")
_HIT = 0.1    # least IoU of a lesion and what is predicted of it; ours, as loose as that of nnDetection (Baumgartner et al. 2021)
_EIGHT = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner are of one lesion


@dataclass(frozen=True)
class CaseScores:
    """How well one prediction matches its reference; NaN means undefined: left out of means and counted.

    Attributes:
        dice: Dice coefficient in [0, 1].
        iou: intersection over union in [0, 1].
        hd95: 95th percentile of the symmetric surface distance [pixels].
        nsd: normalised surface distance in [0, 1], the share of both surfaces within the tolerance.
    """

    dice: float
    iou: float
    hd95: float
    nsd: float


@dataclass(frozen=True)
class Detection:
    """What was found of one image, counted in lesions: connected components of 8 neighbours.

    Attributes:
        lesions: of the reference.
        found: of these, those that a predicted lesion meets with an IoU of at least 0.1.
        false_positives: predicted lesions that meet none so.
    """

    lesions: int
    found: int
    false_positives: int


def dice(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Dice coefficient of two `[H, W]` masks (non-zero is lesion), in [0, 1]; NaN when both are empty, 0 when one is."""
    predicted, wanted = np.asarray(prediction) > 0, np.asarray(reference) > 0
    total = int(predicted.sum()) + int(wanted.sum())
    return 2 * int((predicted & wanted).sum()) / total if total else math.nan


def class_dice(prediction: NDArray[Any], reference: NDArray[Any], classes: int) -> float:
    """Mean Dice over the classes of two `[H, W]` masks of 0 to K; a class that both lack is left out, NaN when all are."""
    if classes == 1:
        return dice(prediction, reference)
    scores = [dice(np.asarray(prediction) == label, np.asarray(reference) == label) for label in range(1, classes + 1)]
    defined = [score for score in scores if not math.isnan(score)]
    return float(np.mean(defined)) if defined else math.nan


def case_scores(prediction: NDArray[Any] | None, reference: NDArray[Any], tolerance: float, case: str = "case") -> CaseScores:
    """Score one case; call it for every reference, so that a lost prediction cannot go unnoticed.

    =========== ========== ======== ======== =====
    reference   prediction dice iou hd95     nsd
    =========== ========== ======== ======== =====
    empty       empty      NaN      NaN      NaN
    empty       lesion     0        NaN      0
    lesion      empty      0        NaN      0
    lesion      lesion     in [0,1] in [0,W] [0,1]
    =========== ========== ======== ======== =====

    The first row is the usual convention (nnU-Net). Without a surface there is no distance: hd95 is NaN in the middle rows,
    where Dice and nsd already carry the failure. MONAI's `ignore_empty` would hide the second row, so empties never reach it.

    Args:
        prediction: `[H, W]`, non-zero is lesion.
        reference: `[H, W]`, non-zero is lesion.
        tolerance: distance within which surfaces count as equal for nsd [pixels].
        case: name for the error message.

    Raises:
        MeddiffError: the prediction is missing or of another shape.
    """
    if prediction is None or np.shape(prediction) != np.shape(reference):
        found = "none" if prediction is None else f"{np.shape(prediction)}"
        raise MeddiffError(f"case {case}", f"every reference needs a prediction of its shape {np.shape(reference)}, not {found}",
                           "Predict every test case")
    predicted, wanted = np.asarray(prediction) > 0, np.asarray(reference) > 0
    if not predicted.any() or not wanted.any():
        value = math.nan if not predicted.any() and not wanted.any() else 0.0
        return CaseScores(value, value, math.nan, value)
    import torch
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    both = predicted | wanted
    box = find_objects(both.view(np.uint8))[0]  # no surface reaches out of it
    edges = get_mask_edges(predicted[box], wanted[box], crop=False)
    ways = [get_surface_distance(*pair) for pair in (edges, edges[::-1])]
    far = max(float(torch.quantile(torch.from_numpy(way), 0.95)) for way in ways)
    near, shared = sum(int((way <= tolerance).sum()) for way in ways), np.float32((predicted & wanted).sum())
    return CaseScores(dice(predicted, wanted), float(shared / np.float32(both.sum())), far,
                      float(np.float32(near / sum(map(len, ways)))))


def load_metric(setting: str) -> Metric | None:
    """The score that `evaluate.metric` names, None for an empty setting; modules of the current folder are known.

    It is tried on a small mask. Its value may be NaN, which is left out of means.

    Raises:
        MeddiffError: there is no such function, or it doesn't return a number; so does the function later.
    """
    if not setting:
        return None
    module, _, name = setting.partition(":")
    where, remedy = f"evaluate.metric {setting}", "Name a function of two arrays (reference, prediction), or leave it empty"
    if name in _TAKEN:
        raise MeddiffError(where, f"the function needs a name of its own, `{name}` is a column of per_case.csv", "Rename it")
    known = sys.path.copy()
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as e:  # of the user's own code
        raise MeddiffError(where, f"the function must be there and its module load ({type(e).__name__}: {e})", remedy) from e
    finally:
        sys.path[:] = known

    def score(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
        try:
            value = float(function(np.asarray(reference, np.uint8), np.asarray(prediction, np.uint8)))
        except Exception as e:
            raise MeddiffError(where, f"it must return a number ({type(e).__name__}: {e})", remedy) from e
        if math.isinf(value):
            raise MeddiffError(where, "it must return a finite number or NaN, not infinity", remedy)
        return value

    mask = np.pad(np.ones((4, 4), np.uint8), 2)
    score(mask, mask)
    return score


def detect(prediction: NDArray[Any], reference: NDArray[Any]) -> Detection:
    """Count the lesions of two `[H, W]` masks (non-zero is lesion); a single predicted pixel is a lesion, too."""
    (predicted, n_predicted), (wanted, n_wanted) = (label(np.asarray(mask) > 0, _EIGHT) for mask in (prediction, reference))
    both = np.bincount((wanted * (n_predicted + 1) + predicted).ravel(), minlength=(n_wanted + 1) * (n_predicted + 1))
    area = both.reshape(n_wanted + 1, n_predicted + 1)     # row and column 0: background
    overlap = area[1:, 1:]
    hit = overlap >= _HIT * (area.sum(1)[1:, None] + area.sum(0)[None, 1:] - overlap)
    return Detection(n_wanted, int(hit.any(1).sum()), int((~hit.any(0)).sum()))
