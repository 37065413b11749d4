"""Scores of synthetic samples against the real ones and an independent segmenter, and what is accepted by them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Case, Pixels
from meddiff.lesions import CHUNK, RealLesions, Scalars, average, describe, erode
from meddiff.metrics import dice
from meddiff.params import FilterParams
from meddiff.segmentation import Segmenter

VIEW = 64  # side at which the independent segmenter sees [pixels]
REASONS = ("implausible", "copy", "agreement", "contrast", "duplicate")


@dataclass(frozen=True, eq=False)
class Scores:
    """Measurements of N synthetic samples.

    Attributes:
        table: one row a sample: similarity (see `RealLesions.similarity`; 0 where the mask is empty), nearest (id of that real
            case), agreement (Dice of the mask and the independent segmenter's prediction), contrast (see `contrast`), area (the
            mask's share of the image).
        identity: `[N, 257]` float64, see `lesions.Lesions`.
    """

    table: pd.DataFrame
    identity: Scalars


def score(images: Pixels, masks: Pixels, real: RealLesions, segmenter: Segmenter) -> Scores:
    """Measure samples `[N, H, W, 3]` uint8 with their masks `[N, H, W]` of 0 and 1.

    Args:
        segmenter: trained on real cases alone, so that it judges the samples independently of the generator.
    """
    lesions = describe(images, masks)
    similarity, nearest = real.similarity(lesions)
    table = pd.DataFrame({"similarity": np.where(masks.any(axis=(1, 2)), similarity, 0.0), "nearest": nearest,
                          "agreement": agreement(images, masks, segmenter), "contrast": contrast(images, masks),
                          "area": masks.mean(axis=(1, 2))})
    return Scores(table, lesions.identity)


def reduced(cases: Sequence[Case]) -> list[Case]:
    """The annotated cases at the size at which the independent segmenter sees, at most `VIEW` pixels wide.

    Measured on held-back lesions of both modalities, a segmenter of few steps agrees better with the annotation at 64 than at
    128 pixels, and is many times faster.
    """
    small = []
    for case in cases:
        if case.mask is not None:
            mask = _view(torch.from_numpy(case.mask)[None, None].float())[0, 0].numpy() >= 0.5
            small.append(replace(case, image=_pixels(case.image[None])[0], mask=mask.astype(np.uint8)))
    return small


def agreement(images: Pixels, masks: Pixels, segmenter: Segmenter) -> Scalars:
    """Dice of each mask `[N, H, W]` and the prediction of a segmenter trained on `reduced` cases; 0 where both are empty."""
    parts = []
    for start in range(0, len(images), CHUNK):
        predicted = torch.from_numpy(segmenter.predict(_pixels(images[start:start + CHUNK]), 16))[:, None]
        parts.append(F.interpolate(predicted, masks.shape[1:], mode="bilinear", align_corners=False)[:, 0].numpy() > 0.5)
    return np.nan_to_num([dice(p, m) for p, m in zip(np.concatenate(parts), masks, strict=True)])


def contrast(images: Pixels, masks: Pixels) -> Scalars:
    """Absolute difference of mean gray between the rings inside and outside each mask's border (ours: 4 px wide at 128 px).

    Args:
        images: `[N, H, W, 3]` uint8 RGB.
        masks: `[N, H, W]` uint8 of 0 and 1.

    Returns:
        `[N]` in [0, 255]; 0 where either ring is empty.
    """
    inside = torch.from_numpy(np.ascontiguousarray(masks))[:, None].float()
    gray = torch.from_numpy(np.ascontiguousarray(images)).float().mean(3)[:, None]
    width = max(1, round(masks.shape[1] / 32))
    inner, outer = inside - erode(inside, width), -erode(-inside, width) - inside
    difference = (average(gray, inner) - average(gray, outer)).abs()
    present = (inner.sum((1, 2, 3)) > 0) & (outer.sum((1, 2, 3)) > 0)
    levels: Scalars = torch.where(present, difference, 0.0).double().numpy()
    return levels


def decide(scores: Scores, real: RealLesions, params: FilterParams) -> list[str]:
    """Reason of each rejection, one of `REASONS` in that order of precedence, or an empty text for an accepted sample.

    Samples come in the order of their ids: of near-duplicates that pass every other rule, all but the first are rejected.
    """
    table = scores.table
    rules = [table["similarity"] < params.similarity_low, table["similarity"] > params.similarity_high,
             table["agreement"] < params.agreement, table["contrast"] < params.min_contrast]
    reasons: list[str] = np.select(rules, REASONS[:4], default="").tolist()
    passed = [i for i, reason in enumerate(reasons) if not reason]
    repeated = repeats(scores.identity[passed], real.same_within(params.similarity_high))
    for i, repeat in zip(passed, repeated, strict=True):
        reasons[i] = "duplicate" if repeat else ""
    return reasons


def repeats(identity: Scalars, radius: float) -> NDArray[np.bool_]:
    """Whether each of `[N, D]` unit vectors lies nearer than `radius` to an earlier one that is no repeat itself."""
    cosine = 1 - radius**2 / 2 if radius else np.inf
    repeated = np.zeros(len(identity), dtype=bool)
    for start in range(0, len(identity), CHUNK):
        near = identity[start:start + CHUNK] @ identity[:start + CHUNK].T > cosine
        for row, i in enumerate(range(start, start + len(near))):
            repeated[i] = (near[row, :i] & ~repeated[:i]).any()
    return repeated


def _view(values: Tensor) -> Tensor:
    """`[N, C, H, W]` averaged down to `VIEW`, or as it is where it isn't larger."""
    return F.adaptive_avg_pool2d(values, VIEW) if values.shape[-1] > VIEW else values


def _pixels(images: Pixels) -> Pixels:
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small: Pixels = _view(channels_first).round().byte().permute(0, 2, 3, 1).numpy()
    return small
