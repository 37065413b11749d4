"""The inspector: a segmenter trained once on the annotated training cases alone, which judges what others fill in or paint.

Ours. A segmenter that has only seen images with a lesion finds one wherever it looks, so the inspector also learns the largest
lesion-free window of each case, magnified: real pixels of the same domain, where datasets have no lesion-free image or have them
from other views.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Case, Pixels
from meddiff.lesions.fields import imaged_field
from meddiff.params import SegmentParams
from meddiff.progress import Report, silent
from meddiff.segmentation.segmenter import Segmenter, train_segmenter

_VIEWS = {"encoder_unet": 128}  # side at which an inspector of this network sees, else `_VIEW` [pixels]
_VIEW = 64
_CHUNK = 64  # images judged together
_WIDENING = 21  # the halo of a lesion reaches 1/21 of the side beyond it

_Flags = NDArray[np.bool_]


def train_inspector(
    cases: Sequence[Case],
    params: SegmentParams,
    seed: int,
    classes: int = 1,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report = silent,
) -> Segmenter:
    """Train on the annotated cases, `reduced`, and a lesion-free window of each.

    The arguments and what is raised: see `segmentation.train_segmenter`.
    """
    windows = [window for case in cases if (window := lesion_free_window(case))]
    return train_segmenter(reduced([*cases, *windows]), [], params, seed, device=device,
                           checkpoint=checkpoint, report=report, classes=classes)


def lesion_free_window(case: Case) -> Case | None:
    """The largest square window of an annotated case that lies in the imaged field and shows no lesion, magnified to full size.

    None where the largest is smaller than a fifth of the side: too little to show anything.
    """
    if case.mask is None:
        return None
    size = len(case.image)
    free = imaged_field(case.image) & ~near_lesions(case.mask)
    reach = ndimage.distance_transform_cdt(np.pad(free, 1), "chessboard")[1:-1, 1:-1]
    row, column = np.unravel_index(int(reach.argmax()), reach.shape)
    radius = int(reach[row, column]) - 1
    if 5 * (2 * radius + 1) < size:
        return None
    window = Image.fromarray(case.image[row - radius:row + radius + 1, column - radius:column + radius + 1])
    magnified = np.array(window.resize((size, size), Image.Resampling.BILINEAR))
    return replace(case, id=f"{case.id}_window", frame=None, image=magnified, mask=np.zeros((size, size), np.uint8))


def near_lesions(mask: Pixels) -> _Flags:
    """The lesions `[H, W]` of all classes and what lies within 1/21 of the side around them, their halo: `[H, W]` bool."""
    reach = max(2, round(len(mask) / _WIDENING))
    return np.asarray(ndimage.distance_transform_edt(mask == 0) <= reach) if mask.any() else np.zeros(mask.shape, dtype=bool)


def reduced(cases: Sequence[Case], network: str = "unet") -> list[Case]:
    """The annotated cases at the size at which an inspector of this network sees, at most; a mask's class by its share.

    Measured on held-back lesions of both modalities, a `unet` of few steps agrees better with the annotation at 64 than at
    128 pixels, and is many times faster.
    """
    small = []
    for case in cases:
        if case.mask is not None:
            classes = np.arange(int(case.mask.max()) + 1)
            shares = view(torch.from_numpy(case.mask[None] == classes[:, None, None]).float()[None], network)[0]
            mask = torch.where(shares[0] > 0.5, 0, shares[1:].argmax(0) + 1) if len(classes) > 1 else torch.zeros(shares[0].shape)
            small.append(replace(case, frame=None, image=seen(case.image[None], network)[0], mask=mask.numpy().astype(np.uint8)))
    return small


def seen(images: Pixels, network: str = "unet") -> Pixels:
    """Images `[N, H, W, 3]` uint8 as an inspector of this network sees them, `[N, h, w, 3]`."""
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small: Pixels = view(channels_first, network).round().byte().permute(0, 2, 3, 1).numpy()
    return small


def view(values: Tensor, network: str = "unet") -> Tensor:
    """`[N, C, H, W]` averaged down to the side at which an inspector of this network sees, or as it is where it isn't larger."""
    side = _VIEWS.get(network, _VIEW)
    return F.adaptive_avg_pool2d(values, side) if values.shape[-1] > side else values


def predicted(images: Pixels, segmenter: Segmenter, known: NDArray[np.float32] | None = None) -> Pixels:
    """What a segmenter of `reduced` cases finds in images `[N, H, W, 3]` uint8: `[N, H, W]` uint8 of 0 to K.

    Args:
        known: the segmenter's `probability` in these images, where it is there already.
    """
    if segmenter.architecture.classes == 1:
        return ((probability(images, segmenter) if known is None else known) > 0.5).astype(np.uint8)
    small = torch.from_numpy(segmenter.segment(seen(images, segmenter.architecture.network)))[:, None]
    found: Pixels = F.interpolate(small, images.shape[1:3], mode="nearest-exact")[:, 0].numpy()
    return found


def probability(images: Pixels, inspector: Segmenter) -> NDArray[np.float32]:
    """Probability of a lesion of any class `[N, H, W]` in [0, 1], at the images' own size `[N, H, W, 3]` uint8."""
    parts = []
    for start in range(0, len(images), _CHUNK):
        small = seen(images[start:start + _CHUNK], inspector.architecture.network)
        predicted = torch.from_numpy(inspector.predict(small))[:, None]
        parts.append(F.interpolate(predicted, images.shape[1:3], mode="bilinear", align_corners=False)[:, 0].numpy())
    return np.concatenate(parts)
