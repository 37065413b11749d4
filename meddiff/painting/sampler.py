"""The guided sampler: from noise to lesions inside a mask, joined with the background at every step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor
from torch.nn import functional as F

from meddiff.errors import MeddiffError
from meddiff.params import GenerateParams

SCHEDULERS = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}


@dataclass(frozen=True, eq=False)
class Step:
    """What a step of the sampler came to.

    Attributes:
        index: 0 to `count` - 1.
        count: steps in all.
        t: the noise level that it started from.
        z: latents after it, `[B,C,h,w]`.
        guide: the guiding mask, `[B,1,h,w]` in 0 to 1.
    """

    index: int
    count: int
    t: int
    z: Tensor
    guide: Tensor


def sample(
    network: Callable[[Tensor, Tensor], Tensor], levels: Any, clean: Tensor, noise: Tensor, near: Tensor, params: GenerateParams,
    callback: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Latents `[B,C,h,w]` with lesions painted into a background's.

    At each step t the model's latents inside the guiding mask are joined with the background's, noised to the same level,
    outside (paper, figure; Blended Latent Diffusion): z[t-1] = M[t] * ẑ[t-1] + (1 - M[t]) * z_bg[t-1]. The background always
    has the sample's first noise, so that under a deterministic sampler it lies on one trajectory.

    Args:
        network: latents `[B,C,h,w]` and time to the UNet's output, guidance included.
        levels: the scheduler that the pipeline was trained with.
        clean, noise: the background's latents and the sample's noise, `[B,C,h,w]`.
        near: of `guiding_mask`.
        params: scheduler, steps, strength, mask_widening, adaptive.
        callback: called after each step.

    Raises:
        MeddiffError: the model can't start from pure noise.
    """
    scheduler, times = _schedule(levels, params, clean.device)
    z = noise * scheduler.init_noise_sigma if params.strength == 1 else scheduler.add_noise(clean, noise, times[:1])
    for i, t in enumerate(times):
        output = network(z, t)
        width = params.mask_widening * (1 - (i + 1) / len(times))
        change = background_change(predicted_clean(scheduler, output, z, t), clean, near) if params.adaptive and width else None
        z = scheduler.step(output, t, z).prev_sample
        guide = guiding_mask(near, width, change)
        around = scheduler.add_noise(clean, noise, times[i + 1 : i + 2]) if i + 1 < len(times) else clean
        z = guide * z + (1 - guide) * around
        callback(Step(i, len(times), int(t), z, guide))
    return z


def _schedule(levels: Any, params: GenerateParams, device: torch.device) -> tuple[Any, Tensor]:
    """A fresh scheduler of the noise levels, and the times that `strength` leaves of its steps."""
    scheduler = SCHEDULERS[params.scheduler].from_config(levels.config)
    scheduler.set_timesteps(params.steps, device=device)
    times = scheduler.timesteps[min(params.steps - 1, round(params.steps * (1 - params.strength))) :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(params.steps - len(times))
    config, last = scheduler.config, scheduler.config.num_train_timesteps - 1
    if config.prediction_type == "epsilon" and config.get("rescale_betas_zero_snr") and int(times[0]) == last:
        raise MeddiffError(
            "foundation",
            "a model that predicts the noise can't start where there is nothing but noise (zero terminal SNR)",
            "Set generate.strength below 1, or use a model that predicts the sample or the velocity",
        )
    return scheduler, times


def predicted_clean(scheduler: Any, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """The clean latents that the UNet's output stands for, whatever it predicts.

    Noise: (z - √(1-ᾱ) ε) / √ᾱ; sample: itself; velocity: √ᾱ z - √(1-ᾱ) v.
    """
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    signal = scheduler.alphas_cumprod[int(t)].to(z).clamp_min(1e-6)
    if kind == "epsilon":
        return (z - (1 - signal).sqrt() * output) / signal.sqrt()
    return signal.sqrt() * z - (1 - signal).sqrt() * output


def guiding_mask(near: Tensor, width: float, change: Tensor | None = None) -> Tensor:
    """Soft mask `[B,1,h,w]` of one step (ours): 1 inside; outside a linear ramp, times how much the model changes there.

    Args:
        near: distance of each latent position's nearest pixel to the mask, as a share of the radius of the lesion that it
            is nearest to; 0 where one pixel at least is in the mask.
        width: of the ramp, in the same unit; 0 at the last step, which leaves the exact mask.
        change: 0 to 1, of `background_change`; None for a ramp by distance alone.
    """
    inside = (near == 0).to(near)
    if not width:
        return inside
    ramp = (1 - near / width).clamp(0, 1)
    return torch.maximum(inside, ramp if change is None else ramp * change)


def background_change(predicted: Tensor, clean: Tensor, near: Tensor) -> Tensor:
    """How far the predicted clean latents leave the background's, `[B,1,h,w]` in 0 to 1 (ours).

    The root mean square difference over channels, smoothed over 3×3 positions, from its median outside the mask (what the
    model gets wrong of any background) to its median inside.
    """
    difference = (predicted - clean).float().square().mean(dim=1, keepdim=True).sqrt()
    smooth = F.avg_pool2d(difference, 3, stride=1, padding=1, count_include_pad=False)
    nothing = torch.tensor(torch.nan, device=near.device)
    outside, inside = (
        torch.where(where, difference, nothing).flatten(1).nanmedian(dim=1).values.nan_to_num(0.0)[:, None, None, None]
        for where in (near > 0, near == 0)
    )
    return ((smooth - outside) / (inside - outside).clamp_min(1e-6)).clamp(0, 1)
