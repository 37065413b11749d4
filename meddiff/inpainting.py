"""What an inpainting pipeline's UNet is given and trained on: latents, prompts, condition channels and the denoising loss."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels


def to_tensor(image: Pixels) -> Tensor:
    """`[H,W,3]` uint8 to `[3,H,W]` float32 in [-1,1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


def encode(vae: torch.nn.Module, images: Tensor) -> Tensor:
    """Scaled latents `[B,C,h,w]` of images `[B,3,H,W]` in [-1,1]; the mean, where the autoencoder gives a distribution."""
    with torch.no_grad():
        output = vae.encode(images)
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return (latents - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor


def decode(vae: torch.nn.Module, latents: Tensor) -> Tensor:
    """Images `[B,3,H,W]` in [-1,1] of scaled latents."""
    with torch.no_grad():
        image: Tensor = vae.decode(
            latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        ).sample
        return image.clamp(-1, 1)


def embed_prompts(pipeline: StableDiffusionInpaintPipeline, prompts: Sequence[str]) -> Tensor:
    """Text embeddings `[len(prompts), tokens, width]` of the frozen text encoder."""
    tokens = pipeline.tokenizer(
        list(prompts), padding="max_length", max_length=pipeline.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        embeddings: Tensor = pipeline.text_encoder(tokens.input_ids.to(pipeline.text_encoder.device))[0]
    return embeddings


def model_input(pipeline: StableDiffusionInpaintPipeline, images: Tensor, masks: Tensor) -> Tensor:
    """The UNet's constant input channels: the mask at latent resolution, then the latents of the image without its masked part.

    A UNet with one mask channel (Stable Diffusion) gets the mask by nearest neighbour as it was trained; the embedded one
    has a channel for each pixel of a patch and gets the exact mask.

    Args:
        images: `[B,3,H,W]` in [-1,1].
        masks: `[B,1,H,W]` of 0 and 1.
    """
    masked = encode(pipeline.vae, images * (masks < 0.5))
    channels = pipeline.unet.config.in_channels - 2 * masked.shape[1]
    if channels == 1:
        small = F.interpolate(masks, size=masked.shape[-2:])
    else:
        small = F.pixel_unshuffle(masks, masks.shape[-1] // masked.shape[-1])
    return torch.cat([small, masked], dim=1)


def diffusion_loss(
    pipeline: StableDiffusionInpaintPipeline,
    latents: Tensor,
    condition: Tensor,
    prompts: Tensor,
    masks: Tensor,
    inside: float,
    outside: float,
    generator: torch.Generator,
) -> Tensor:
    """Denoising loss at random times, weighted inside against outside the mask (the paper's figure: the lesion alone).

    Args:
        latents: `[B,C,h,w]` clean.
        condition: of `model_input`.
        prompts: `[B, tokens, width]`.
        masks: `[B,1,H,W]` of 0 and 1.
        inside, outside: weights, normalised so that a mask's size doesn't change the mean weight.
    """
    scheduler = pipeline.scheduler
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
    noisy = scheduler.add_noise(latents, noise, times)
    target = {
        "epsilon": lambda: noise,
        "sample": lambda: latents,
        "v_prediction": lambda: scheduler.get_velocity(latents, noise, times),
    }[scheduler.config.prediction_type]()
    prediction = pipeline.unet(torch.cat([noisy, condition], dim=1), times, prompts).sample
    covered = F.adaptive_avg_pool2d(masks, latents.shape[-2:])
    weights = inside * covered + outside * (1 - covered)
    weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (weights * (prediction.float() - target).square()).mean()
