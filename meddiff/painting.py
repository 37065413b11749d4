"""Painting lesions: the guided sampler that blends with the background at every step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionInpaintPipeline, UniPCMultistepScheduler
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.foundation import load_foundation
from meddiff.inpainting import decode, embed_prompts, encode, model_input, to_tensor
from meddiff.params import GenerateParams

SCHEDULERS = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}


@dataclass(frozen=True)
class Painter:
    """A loaded pipeline, ready to paint lesions.

    Attributes:
        pipeline: on its device, in eval mode.
        prompts: `[2, tokens, width]`: the empty prompt, then the lesion's.
    """

    pipeline: StableDiffusionInpaintPipeline
    prompts: Tensor

    @classmethod
    def of(cls, pipeline: StableDiffusionInpaintPipeline, prompt: str) -> "Painter":
        """Prepare a pipeline for `paint` with the prompt that it was fine-tuned with."""
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval()
        return cls(pipeline, embed_prompts(pipeline, ["", prompt]))

    @torch.no_grad()
    def paint(
        self, backgrounds: Sequence[Pixels], masks: Sequence[Pixels], seeds: Sequence[int], params: GenerateParams
    ) -> list[Pixels]:
        """Paint one lesion into each background under its mask.

        At each step t the model's latents inside the guiding mask are joined with the background's, noised to the same
        level, outside (paper, figure; Blended Latent Diffusion):
        z[t-1] = M[t] * ẑ[t-1] + (1 - M[t]) * z_bg[t-1]. M[t] narrows from a wide soft mask to the exact one (ours).

        Args:
            backgrounds: each `[H,W,3]` uint8.
            masks: each `[H,W]` of 0 and 1.
            seeds: one a sample; a sample's noise depends on its own seed alone.

        Returns:
            Images `[H,W,3]` uint8, equal to the background farther than `params.rim` pixels from the mask.
        """
        pipeline, device = self.pipeline, self.pipeline.unet.device
        images = torch.stack([to_tensor(b) for b in backgrounds]).to(device)
        exact = torch.from_numpy(np.stack(masks)).float()[:, None]
        distances = torch.from_numpy(np.stack([ndimage.distance_transform_edt(m == 0) for m in masks])).float()[:, None]
        clean, condition = encode(pipeline.vae, images), model_input(pipeline, images, exact.to(device))
        noise = torch.stack([torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(
            clean
        )
        scheduler = SCHEDULERS[params.scheduler].from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(params.steps, device=device)
        times = scheduler.timesteps[min(params.steps - 1, round(params.steps * (1 - params.strength))) :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(params.steps - len(times))
        z = noise * scheduler.init_noise_sigma if params.strength == 1 else scheduler.add_noise(clean, noise, times[:1])
        for i, t in enumerate(times):
            z = scheduler.step(
                self._predict(scheduler.scale_model_input(z, t), t, condition, params.guidance_scale), t, z
            ).prev_sample
            guide = _guiding_mask(exact, distances, params.mask_widening, 1 - (i + 1) / len(times), z.shape[-2:]).to(z)
            around = scheduler.add_noise(clean, noise, times[i + 1 : i + 2]) if i + 1 < len(times) else clean
            z = guide * z + (1 - guide) * around
        painted = ((decode(pipeline.vae, z) + 1) * 127.5).cpu()
        alpha = torch.where(distances > params.rim, 0.0, 1 - distances / (params.rim + 1))
        original = torch.from_numpy(np.stack(backgrounds)).permute(0, 3, 1, 2)
        mixed = (alpha * painted + (1 - alpha) * original).round().clamp(0, 255).to(torch.uint8)
        return list(torch.where(alpha == 0, original, mixed).permute(0, 2, 3, 1).numpy())

    def _predict(self, z: Tensor, t: Tensor, condition: Tensor, guidance: float) -> Tensor:
        """The UNet's output, with classifier-free guidance from the empty prompt in the same pass."""
        inputs = torch.cat([z, condition], dim=1)
        unet = self.pipeline.unet
        if guidance == 1:
            only: Tensor = unet(inputs, t, self.prompts[1:].expand(len(z), -1, -1)).sample
            return only
        both = unet(torch.cat([inputs, inputs]), t, self.prompts.repeat_interleave(len(z), dim=0)).sample
        without, with_lesion = both.chunk(2)
        guided: Tensor = without + guidance * (with_lesion - without)
        return guided


def _guiding_mask(exact: Tensor, distances: Tensor, widening: float, remaining: float, size: torch.Size) -> Tensor:
    """Soft mask `[B,1,h,w]` of one step (ours): a linear ramp outside the exact mask, its width a share of the lesion's
    radius that shrinks to nothing at the last step. A latent position belongs to the mask when any of its pixels does.

    Args:
        exact: `[B,1,H,W]` of 0 and 1.
        distances: distance to the mask [pixels], same shape.
        widening: width of the ramp at the first step, as a share of sqrt(area / pi).
        remaining: share of the denoising still to do, 0 at the last step.
    """
    width = widening * remaining * (exact.sum(dim=(1, 2, 3), keepdim=True) / torch.pi).sqrt()
    soft = torch.where(width > 0, (1 - distances / width.clamp_min(1e-6)).clamp(0, 1), exact)
    return F.adaptive_max_pool2d(torch.maximum(soft, exact), size)


def load_painter(folder: Path, device: str) -> Painter:
    """Load a fine-tuned generator folder as `finetune` writes it.

    Raises:
        MeddiffError: the folder is missing or no such pipeline.
    """
    pipeline = load_foundation(str(folder.resolve()))
    settings = json.loads((folder / "meddiff.json").read_text())
    pipeline.to(device)
    return Painter.of(pipeline, settings["prompt"])
