"""Lesions and their features from the pixels alone: how one looks, and which one it is.

The features are ours; each choice was made by how it separates held-back real lesions from pasted copies of training lesions and
from masks filled with noise, a flat gray or nothing, on breast ultrasound and dermoscopy.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.lesions.shapes import SPECK

_CROP = 64            # side to which a lesion's bounding square is resampled [pixels]
_CELLS = 16           # side of the picture by which a lesion is recognised [cells]
_NOISE_FLOOR = 2.0    # structure weaker than this isn't a lesion's own [gray levels]
_BANDS = 4            # octaves of texture, from details of 1 to details of 8 pixels
IMAGES_AT_ONCE = 64   # images computed together
Scalars = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parts:
    """The single lesions of N masks.

    Attributes:
        owners: `[L]` index of the mask that each comes from, ascending.
        classes: `[L]` its class, 1 to K.
        masks: `[L, H, W]` uint8 of 0 and 1.
    """

    owners: NDArray[np.intp]
    classes: NDArray[np.intp]
    masks: Pixels


def split_lesions(masks: Pixels) -> Parts:
    """The connected parts (8 neighbours) of each class in masks `[N, H, W]` uint8 of 0 to K.

    Specks, parts smaller than a twentieth of the same mask's largest part, are left out as everywhere (`shapes.parts`): a few
    pixels resemble anything. For this comparison holes count as filled; the parts keep them. An empty mask has no part.
    """
    owners, classes, found = list[int](), list[int](), []
    for owner, mask in enumerate(masks):
        parts = []
        for label in np.unique(mask[mask > 0]).tolist():
            numbered, n = ndimage.label(mask == label, np.ones((3, 3)))
            parts += [(label, numbered == number) for number in range(1, n + 1)]
        areas = [int(ndimage.binary_fill_holes(part).sum()) for _, part in parts] if len(parts) > 1 else [1] * len(parts)
        for area, (label, part) in zip(areas, parts, strict=True):
            if area >= SPECK * max(areas):
                owners.append(owner)
                classes.append(label)
                found.append(part)
    single = np.stack(found).astype(np.uint8) if found else np.empty((0, *masks.shape[1:]), np.uint8)
    return Parts(np.array(owners, np.intp), np.array(classes, np.intp), single)


def lesion_features(images: Pixels, masks: Pixels) -> tuple[Scalars, Scalars]:
    """Features of each image's lesion, measured 1 px (at 128 px) inside the mask's border, where no background mixes in.

    Args:
        images: `[N, H, W, 3]` uint8 RGB, N at least 1; sides are multiples of 16.
        masks: `[N, H, W]` uint8, non-zero is the lesion.

    Returns:
        Appearance `[N, 9]`, how the lesion looks: mean gray / 16; 2 ln(1 + standard deviation); skewness; red - green and
        blue - (red + green) / 2, each / 8; 2 ln(1 + RMS of the detail) of four octaves.
        Identity `[N, 257]`, unit vectors, which lesion it is: a 16 x 16 picture of its bounding square less its mean gray, and a
        constant of `_NOISE_FLOOR`, so that a lesion without structure resembles none.
    """
    parts = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        rgb, inside = channels_first(images[start:start + IMAGES_AT_ONCE]), _interior(masks[start:start + IMAGES_AT_ONCE])
        gray = rgb.mean(1, keepdim=True)
        parts.append((_appearance(rgb, gray, inside), _identity(gray, inside)))
    looks, selves = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    return looks, selves


def joint_features(images: Pixels, masks: Pixels | None) -> Scalars:
    """`[N, 266]` appearance and identity side by side, of the lesions or, without masks, of the whole images."""
    return np.concatenate(lesion_features(images, np.ones(images.shape[:3], np.uint8) if masks is None else masks), axis=1)


def crop(values: Tensor, inside: Tensor, side: int) -> Tensor:
    """Each `[N, C, H, W]` in the bounding square of its `inside` `[N, 1, H, W]` (above 0), resampled to `[N, C, side, side]`.

    Bilinear; beyond the frame the border goes on. An empty mask gives a crop of undefined place.
    """
    theta = _window(inside[:, 0] > 0).to(values.device)
    grid = F.affine_grid(theta, [len(values), 1, side, side], align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def erode(masks: Pixels, radius: int) -> Pixels:
    """Least value of `[N, H, W]` uint8 in the square of 2 `radius` + 1 pixels around each; nothing lies beyond the frame."""
    size = 2 * radius + 1
    for axis in (1, 2):
        line = np.moveaxis(masks, axis, 0)
        line = np.concatenate([edge := np.full((radius, *line.shape[1:]), 255, np.uint8), line, edge])
        reach = 1  # of the window whose minimum stands at its first pixel; it doubles
        while reach < size:
            step = min(reach, size - reach)
            line, reach = np.minimum(line[:-step], line[step:]), reach + step
        masks = np.moveaxis(line, 0, axis)
    return masks


def average(values: Tensor, weights: Tensor) -> Tensor:
    """`[N]` weighted means of `[N, 1, H, W]`."""
    return (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-6)


def channels_first(images: Pixels) -> Tensor:
    """`[N, H, W, 3]` uint8 as `[N, 3, H, W]` float32 in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()


def _interior(masks: Pixels) -> Tensor:
    masks = (masks > 0).astype(np.uint8)
    interior = erode(masks, max(1, round(masks.shape[-1] / 128)))
    enough = interior.sum((1, 2), keepdims=True, dtype=np.int64) >= 0.25 * masks.sum((1, 2), keepdims=True, dtype=np.int64)
    return torch.from_numpy(np.where(enough, interior, masks))[:, None].float()


def _appearance(rgb: Tensor, gray: Tensor, inside: Tensor) -> Tensor:
    mean = average(gray, inside)
    offset = gray - mean[:, None, None, None]
    deviation = average(offset**2, inside).sqrt()
    red, green, blue = ((rgb * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1e-6)).unbind(1)
    columns = [mean / 16, 2 * torch.log1p(deviation), average(offset**3, inside) / (deviation + _NOISE_FLOOR) ** 3,
               (red - green) / 8, (blue - (red + green) / 2) / 8]
    for _ in range(_BANDS):  # a Haar pyramid of averages over the lesion's own pixels
        weight = F.avg_pool2d(inside, 2)
        coarse = F.avg_pool2d(gray * inside, 2) / weight.clamp(min=1e-6)
        columns.append(2 * torch.log1p(average((gray - F.interpolate(coarse, scale_factor=2.0)) ** 2, inside).sqrt()))
        gray, inside = coarse, weight
    return torch.stack(columns, 1)


def _identity(gray: Tensor, inside: Tensor) -> Tensor:
    square, weight = crop(torch.cat([gray, inside], 1), inside, _CROP).split(1, 1)
    mean = average(square, weight)[:, None, None, None]
    cells = F.adaptive_avg_pool2d((square - mean) * weight, _CELLS).flatten(1)
    return F.normalize(torch.cat([cells, torch.full((len(cells), 1), _NOISE_FLOOR * _CELLS)], 1))


def _window(inside: Tensor) -> Tensor:
    height, width = inside.shape[1:]
    edges = []
    for side in (inside.any(1), inside.any(2)):  # columns for x, rows for y
        edges.append((side.int().argmax(1), side.shape[1] - side.flip(1).int().argmax(1)))
    (left, right), (top, bottom) = edges
    side = torch.maximum(right - left, bottom - top).float()
    theta = torch.zeros(len(inside), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2], theta[:, 1, 2] = (left + right) / width - 1, (top + bottom) / height - 1
    return theta
