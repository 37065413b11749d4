"""Classic augmentation of images with their masks, vectorised over a batch and seeded: the usual one, and stronger ones."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Augment = Callable[[Tensor, Tensor, torch.Generator, bool], tuple[Tensor, Tensor]]  # arguments and result: see `augment`
_MESH = 6  # control points a side of the elastic change


@dataclass(frozen=True)
class Ranges:
    """Greatest amounts; what is 0 by default is left out, with its random numbers.

    Attributes:
        angle: rotation [radians].
        scale, gamma, contrast: factors are 2 to the power of -value to +value.
        shift: [halves of the side].
        brightness, noise: shift and standard deviation of the gray levels [-1, 1].
        blurred: share of the images that are blurred.
        elastic: deviation of the control points' displacement, on half of the images [halves of the side].
        colour: gain of each channel of a colour image, as the exponents above; gray images stay gray.
        holes: rectangles on half of the images that hide the image, not the mask, behind its mean colour.
    """

    angle: float
    scale: float
    shift: float
    gamma: float
    contrast: float
    brightness: float
    noise: float
    blurred: float
    elastic: float = 0.0
    colour: float = 0.0
    holes: int = 0


CLASSIC = Ranges(angle=0.35, scale=0.32, shift=0.2, gamma=0.4, contrast=0.4, brightness=0.2, noise=0.06, blurred=0.3)
STRONG = Ranges(angle=0.61, scale=0.5, shift=0.3, gamma=0.7, contrast=0.6, brightness=0.3, noise=0.12, blurred=0.5,
                 elastic=0.05, colour=0.25, holes=4)


def augment(images: Tensor, masks: Tensor, generator: torch.Generator, vertical_flips: bool = False) -> tuple[Tensor, Tensor]:
    """Classic augmentation, the same for real and synthetic pairs: place, gray levels, noise and blur.

    Args:
        images: `[B, 3, H, W]` float32 in [-1, 1].
        masks: `[B, 1, H, W]` float32 of 0 to K; indices stay whole.
        generator: CPU generator of every random number.
        vertical_flips: also flip upside down; wrong for ultrasound, where depth runs downwards.

    Returns:
        Images and masks of the same shapes, ranges and device. Ranges are ours: flips by one half, rotation up to 20
        degrees, scale 0.8 to 1.25, shift up to 10 %, gamma and contrast 0.75 to 1.33, brightness up to 10 %, noise of
        standard deviation up to 0.06, a 3-pixel blur of up to full weight on three in ten images.
    """
    return augment_within(images, masks, generator, vertical_flips, CLASSIC)


def augment_strongly(
    images: Tensor, masks: Tensor, generator: torch.Generator, vertical_flips: bool = False
) -> tuple[Tensor, Tensor]:
    """Stronger classic augmentation, what one would try before synthetic images. Arguments and result: see `augment`.

    Ranges are ours, about those of nnU-Net (Isensee et al., 2021) where it has them: rotation up to 35 degrees, scale 0.7 to 1.4,
    shift up to 15 %, gamma 0.6 to 1.6, contrast 0.66 to 1.5, brightness up to 15 %, noise of standard deviation up to 0.12, a
    blur on half of the images. On half of the images each an elastic change (Ronneberger et al., 2015: cubic between 6 × 6
    displacements of deviation 2.5 % of the side) and four holes of 5 to 15 % of the side (cutout, DeVries and Taylor, 2017; the
    mask stays, so that the hidden part is told from what is around it). Channels of colour images by 0.84 to 1.19.
    """
    return augment_within(images, masks, generator, vertical_flips, STRONG)


def augment_appearance(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What `augment_strongly` does to gray levels, colours and holes, on top of `augment`, with flips. See there."""
    return augment_within(images, masks, generator, False, replace(STRONG, angle=0, scale=0, shift=0, elastic=0))


def augment_within(images: Tensor, masks: Tensor, generator: torch.Generator, vertical_flips: bool,
                   by: Ranges) -> tuple[Tensor, Tensor]:
    """Changes drawn from these ranges; arguments and result as of `augment`."""
    n, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    angle, scale = uniform(-by.angle, by.angle).flatten(), torch.exp2(uniform(-by.scale, by.scale)).flatten()
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0).flatten()
    upside = torch.where((uniform(0, 1) < 0.5) & torch.tensor(vertical_flips), -1.0, 1.0).flatten()
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = uniform(-by.shift, by.shift).flatten(), uniform(-by.shift, by.shift).flatten()
    affine = torch.stack([torch.stack([cos * flip, -sin, shift[0]], 1), torch.stack([sin * flip, cos * upside, shift[1]], 1)], 1)
    affine[:, 0, 1] *= upside
    gamma, contrast = torch.exp2(uniform(-by.gamma, by.gamma)), torch.exp2(uniform(-by.contrast, by.contrast))
    brightness, strength = uniform(-by.brightness, by.brightness), uniform(0, by.noise)
    blur = uniform(0, 1) * (uniform(0, 1) < by.blurred)
    noise = strength * torch.randn(n, 1, *images.shape[2:], generator=generator)

    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    if by.elastic:
        points = by.elastic * (uniform(0, 1) < 0.5) * torch.randn(n, 2, _MESH, _MESH, generator=generator)
        bent = F.interpolate(points, images.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + bent.permute(0, 2, 3, 1)
    grid = grid.to(device)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)

    gamma, contrast, brightness, blur, noise = (value.to(device) for value in (gamma, contrast, brightness, blur, noise))
    images = torch.lerp(images, F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), blur)
    levels = (images + 1) / 2
    if by.colour:
        gray = (levels == levels[:, :1]).flatten(1).all(1)[:, None, None, None]
        gains = torch.exp2(by.colour * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)).to(device)
        levels = levels * torch.where(gray, gains[:, :1], gains)
    images = levels.clamp(1e-4, 1) ** gamma * 2 - 1
    mean = images.mean((1, 2, 3), keepdim=True)
    images = ((images - mean) * contrast + mean + brightness + noise).clamp(-1, 1)
    return _hidden(images, by.holes, generator), masks


def _hidden(images: Tensor, holes: int, generator: torch.Generator) -> Tensor:
    if not holes:
        return images
    n, (height, width) = len(images), images.shape[2:]
    centre, size = torch.rand(2, 2, n, holes, 1, 1, generator=generator)
    half = 0.025 + 0.05 * size
    y, x = (torch.arange(side) + 0.5 for side in (height, width))
    inside = ((y[:, None] / height - centre[0]).abs() < half[0]) & ((x / width - centre[1]).abs() < half[1])
    hidden = inside.any(1, keepdim=True) & (torch.rand(n, 1, 1, 1, generator=generator) < 0.5)
    return torch.where(hidden.to(images.device), images.mean((2, 3), keepdim=True), images)


def _between(strength: float) -> Augment:
    """From `augment` (0) to `augment_strongly` (1)."""
    ranges = {item.name: (1 - strength) * getattr(CLASSIC, item.name) + strength * getattr(STRONG, item.name)
              for item in fields(Ranges)}
    return partial(augment_within, by=Ranges(**ranges | {"holes": round(ranges["holes"])}))


# By the name that arms give; of several, the one that is best on the validation cases is chosen.
AUGMENTATIONS: dict[str, tuple[Augment, ...]] = {
    "classic": (augment,), "strong": (augment, _between(0.25), _between(0.5), augment_strongly)}
