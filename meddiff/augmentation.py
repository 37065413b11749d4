"""Classic augmentation of images with their masks, vectorised over a batch and seeded."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    angle, scale = uniform(-0.35, 0.35).flatten(), torch.exp2(uniform(-0.32, 0.32)).flatten()
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0).flatten()
    upside = torch.where((uniform(0, 1) < 0.5) & torch.tensor(vertical_flips), -1.0, 1.0).flatten()
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = uniform(-0.2, 0.2).flatten(), uniform(-0.2, 0.2).flatten()
    affine = torch.stack([torch.stack([cos * flip, -sin, shift[0]], 1), torch.stack([sin * flip, cos * upside, shift[1]], 1)], 1)
    affine[:, 0, 1] *= upside
    grid = F.affine_grid(affine, list(images.shape), align_corners=False).to(images.device)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)

    gamma, contrast, brightness = torch.exp2(uniform(-0.4, 0.4)), torch.exp2(uniform(-0.4, 0.4)), uniform(-0.2, 0.2)
    strength, blur = uniform(0, 0.06), uniform(0, 1) * (uniform(0, 1) < 0.3)
    noise = strength * torch.randn(n, 1, *images.shape[2:], generator=generator)
    gamma, contrast, brightness, blur, noise = (value.to(images.device) for value in (gamma, contrast, brightness, blur, noise))
    images = torch.lerp(images, F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), blur)
    images = ((images + 1) / 2).clamp(1e-4, 1) ** gamma * 2 - 1
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness + noise).clamp(-1, 1), masks
