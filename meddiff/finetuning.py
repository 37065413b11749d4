"""Fine-tuning of an inpainting pipeline on the few annotated cases: full or LoRA, latents and embeddings computed once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from peft import LoraConfig
from torch import Tensor

from meddiff.cases import Case
from meddiff.inpainting import diffusion_loss, embed_prompts, encode, model_input, to_tensor
from meddiff.params import FinetuneParams
from meddiff.progress import Report, silent
from meddiff.training import Schedule, train


def finetune(
    pipeline: StableDiffusionInpaintPipeline,
    cases: Sequence[Case],
    params: FinetuneParams,
    device: str,
    checkpoint: Path | None = None,
    report: Report = silent,
) -> list[float]:
    """Teach the pipeline's UNet, in place, to paint the lesions of `cases`. A LoRA is merged into the weights at the end.

    Args:
        cases: annotated, all of one size; a case with an empty mask is left out.

    Returns:
        The loss of each step.
    """
    lesions = [case for case in cases if case.mask is not None and case.mask.any()]
    images = torch.stack([to_tensor(case.image) for case in lesions])
    masks = torch.from_numpy(np.stack([case.mask for case in lesions if case.mask is not None])).float()[:, None]
    images, masks = torch.cat([images, images.flip(-1)]).to(device), torch.cat([masks, masks.flip(-1)]).to(device)
    pipeline.to(device)
    latents = torch.cat([encode(pipeline.vae, part) for part in images.split(params.batch_size)])
    conditions = torch.cat(
        [
            model_input(pipeline, i, m)
            for i, m in zip(images.split(params.batch_size), masks.split(params.batch_size), strict=True)
        ]
    )
    prompts = embed_prompts(pipeline, ["", params.prompt])
    unet = pipeline.unet
    unet.requires_grad_(params.mode == "full")
    if params.mode == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            unet.add_adapter(
                LoraConfig(r=params.lora_rank, lora_alpha=params.lora_rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
            )
    unet.train()

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (params.batch_size,), generator=generator).to(device)
        prompted = (torch.rand(params.batch_size, generator=generator) >= params.prompt_dropout).long().to(device)
        with torch.autocast(device, torch.bfloat16, enabled=params.precision == "bfloat16"):
            return diffusion_loss(
                pipeline,
                latents[chosen],
                conditions[chosen],
                prompts[prompted],
                masks[chosen],
                params.inside_weight,
                params.outside_weight,
                generator,
            )

    schedule = Schedule(
        params.steps,
        params.learning_rate,
        params.seed,
        params.weight_decay,
        params.gradient_clip,
        params.accumulation,
        params.ema_decay,
    )
    losses = train(unet.parameters(), loss, schedule, checkpoint, report)
    if params.mode == "lora":
        unet.fuse_lora()
        unet.unload_lora()
    unet.eval()
    return losses
