"""What an inpainting pipeline's UNet is given and trained on: latents, prompts, condition channels and the denoising loss."""

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler, StableDiffusionInpaintPipeline
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels


def move_pipeline(pipeline: StableDiffusionInpaintPipeline, device: str) -> None:
    """Move the pipeline to `cpu` or `cuda`: on a GPU channels last, the autoencoder one image at a time.

    Convolutions in half precision want channels last there; the autoencoder's activations are a multiple of the UNet's, and one
    large image fills a GPU.
    """
    pipeline.to(device)
    if device == "cuda":
        for part in (pipeline.unet, pipeline.vae):
            part.to(memory_format=torch.channels_last)
        if hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()


def to_tensor(image: Pixels) -> Tensor:
    """`[H,W,3]` uint8 to `[3,H,W]` float32 in [-1,1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


def encode_images(vae: torch.nn.Module, images: Tensor) -> Tensor:
    """Scaled latents `[B,C,h,w]` float32 of images `[B,3,H,W]` in [-1,1]; the mean, where there is a distribution."""
    with torch.no_grad():
        output = vae.encode(images)
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return (latents.float() - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor


def decode_latents(vae: torch.nn.Module, latents: Tensor) -> Tensor:
    """Images `[B,3,H,W]` float32 in [-1,1] of scaled latents."""
    with torch.no_grad():
        image: Tensor = vae.decode(
            latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        ).sample
        return image.float().clamp(-1, 1)


def embed_prompts(pipeline: StableDiffusionInpaintPipeline, prompts: Sequence[str]) -> Tensor:
    """Text embeddings `[len(prompts), tokens, width]` float32 of the frozen text encoder, as `predict` takes them."""
    with torch.no_grad():
        return text_embeddings(pipeline, prompts)


def text_embeddings(pipeline: StableDiffusionInpaintPipeline, prompts: Sequence[str]) -> Tensor:
    """The same with its graph, for training the text side.

    SDXL's pooled embedding stands in one more row, padded with zeros, so that embeddings are one tensor whatever the pipeline.
    """
    found = pipeline.encode_prompt(
        prompt=list(prompts), device=pipeline.text_encoder.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    texts: Tensor = found[0]
    if len(found) == 2:
        return texts
    pooled = found[2]
    return torch.cat([texts, F.pad(pooled, (0, texts.shape[-1] - pooled.shape[-1]))[:, None]], dim=1)


def model_input(pipeline: StableDiffusionInpaintPipeline, images: Tensor, masks: Tensor) -> Tensor:
    """The UNet's constant input channels: the mask at latent resolution, then the latents of the image without its masked part.

    A UNet with one mask channel (Stable Diffusion) gets the mask by nearest neighbour as it was trained; the embedded one
    has a channel for each pixel of a patch and gets the exact mask.

    Args:
        images: `[B,3,H,W]` in [-1,1].
        masks: `[B,1,H,W]` of 0 and 1.
    """
    masked = encode_images(pipeline.vae, images * (masks < 0.5))
    channels = pipeline.unet.config.in_channels - 2 * masked.shape[1]
    if channels == 1:
        small = F.interpolate(masks, size=masked.shape[-2:])
    else:
        small = F.pixel_unshuffle(masks, masks.shape[-1] // masked.shape[-1])
    return torch.cat([small, masked], dim=1)


def predict(pipeline: StableDiffusionInpaintPipeline, inputs: Tensor, times: Tensor, prompts: Tensor) -> Tensor:
    """The UNet's output `[B,C,h,w]` float32, also under autocast, whatever text conditions the pipeline has.

    Args:
        inputs: noisy latents and the channels of `model_input`, `[B, UNet channels, h, w]`.
        times: `[B]` or one for all.
        prompts: `[B, tokens, width]` of `embed_prompts`.
    """
    added = None
    if pipeline.unet.config.addition_embed_type == "text_time":  # SDXL: pooled text, and original size, crop, target size
        size = [side * pipeline.vae_scale_factor for side in inputs.shape[-2:]]
        pooled = prompts[:, -1, : pipeline.text_encoder_2.config.projection_dim]
        added = {"text_embeds": pooled, "time_ids": inputs.new_tensor([*size, 0, 0, *size]).expand(len(inputs), -1)}
        prompts = prompts[:, :-1]
    output: Tensor = pipeline.unet(inputs, times, prompts, added_cond_kwargs=added).sample
    return output.float()


def diffusion_loss(
    pipeline: StableDiffusionInpaintPipeline,
    latents: Tensor,
    condition: Tensor,
    prompts: Tensor,
    masks: Tensor,
    inside: float,
    outside: float,
    generator: torch.Generator,
    min_snr: float | None = None,
) -> Tensor:
    """Denoising loss at random times, weighted inside against outside the mask (the paper's figure: the lesion alone).

    Where the autoencoder says how much of a picture each channel makes (`PatchCodec.importance`), errors weigh by it (ours).

    Args:
        latents: `[B,C,h,w]` clean.
        condition: of `model_input`.
        prompts: `[B, tokens, width]`.
        masks: `[B,1,H,W]` of 0 and 1.
        inside, outside: weights, normalised so that a mask's size doesn't change the mean weight.
        min_snr: gamma of `time_weights`; None weighs all times alike.
    """
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)  # Euler's and others' add_noise is no VP process
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
    noisy = scheduler.add_noise(latents, noise, times)
    target = {
        "epsilon": lambda: noise,
        "sample": lambda: latents,
        "v_prediction": lambda: scheduler.get_velocity(latents, noise, times),
    }[scheduler.config.prediction_type]()
    prediction = predict(pipeline, torch.cat([noisy, condition], dim=1), times, prompts)
    covered = F.adaptive_avg_pool2d(masks, latents.shape[-2:])
    weights = inside * covered + outside * (1 - covered)
    weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    weights = weights * getattr(pipeline.vae, "importance", 1.0)
    if min_snr is not None:
        weights = weights * time_weights(scheduler, times, min_snr)[:, None, None, None]
    return (weights * (prediction - target).square()).mean()


def time_weights(scheduler: DDPMScheduler, times: Tensor, gamma: float) -> Tensor:
    """Weights `[B]` of the squared error at `times`: min-SNR (Hang et al. 2023, eq. 8), so that no time outweighs the others.

    The error of the clean latents weighs min(SNR, gamma), but at least 1 where they or the velocity are what is predicted (ours):
    with a zero terminal SNR the first step of the sampler would never be trained.
    """
    kept = scheduler.alphas_cumprod.to(times.device)[times]
    snr = kept / (1 - kept)
    return {
        "sample": lambda: snr.clamp(min(1.0, gamma), gamma),
        "epsilon": lambda: (gamma / snr.clamp_min(1e-6)).clamp(max=1.0),
        "v_prediction": lambda: snr.clamp(min(1.0, gamma), gamma) / (snr + 1),
    }[scheduler.config.prediction_type]()
