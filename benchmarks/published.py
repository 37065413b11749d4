"""What meddiff is measured against: Stable Diffusion's networks with random weights, the published training and sampling."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from meddiff.cases import Case, Pixels
from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import (
    decode_latents,
    diffusion_loss,
    embed_prompts,
    encode_images,
    model_input,
    predict,
    to_tensor,
)
from meddiff.params import FinetuneParams

EMBEDDED = Path(__file__).parents[1] / "meddiff/pretrained/foundation"
PROMPT = FinetuneParams().prompt
STEPS, GUIDANCE = 50, 7.5  # of the published recipe


@dataclass(frozen=True)
class Sizes:
    """Widths of a Stable Diffusion: of UNet, autoencoder and text encoder."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    layers: int
    text_layers: int
    heads: int
    groups: int


SIZES = {"sd15": Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 2, 12, 12, 32),
         "tiny": Sizes((16, 32), (8, 16), 32, 1, 1, 2, 8)}


def unet(sizes: Sizes) -> UNet2DConditionModel:
    """With the 9 channels of inpainting."""
    more = len(sizes.unet) - 1
    return UNet2DConditionModel(
        sample_size=64, in_channels=9, block_out_channels=sizes.unet, layers_per_block=sizes.layers,
        cross_attention_dim=sizes.text, norm_num_groups=sizes.groups, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * more + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * more).eval()


def autoencoder(sizes: Sizes) -> AutoencoderKL:
    parts = len(sizes.vae)
    return AutoencoderKL(block_out_channels=sizes.vae, layers_per_block=sizes.layers, latent_channels=4,
                         norm_num_groups=sizes.groups, down_block_types=("DownEncoderBlock2D",) * parts,
                         up_block_types=("UpDecoderBlock2D",) * parts).eval()


def noise_levels() -> DDIMScheduler:
    """Those of Stable Diffusion."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1)


def build(kind: str, seed: int = 0) -> StableDiffusionInpaintPipeline:
    """The shipped pipeline, or Stable Diffusion 1.5's published configuration (or a tiny one) with random weights."""
    shipped = load_foundation(str(EMBEDDED))
    if kind == "embedded":
        return shipped
    sizes = SIZES[kind]
    torch.manual_seed(seed)
    shipped.tokenizer.model_max_length = 77
    vocabulary = 49408 if kind == "sd15" else len(shipped.tokenizer)
    text = CLIPTextConfig(vocab_size=vocabulary, hidden_size=sizes.text, intermediate_size=4 * sizes.text,
                          num_hidden_layers=sizes.text_layers, num_attention_heads=sizes.heads, max_position_embeddings=77,
                          bos_token_id=shipped.tokenizer.bos_token_id, eos_token_id=shipped.tokenizer.eos_token_id)
    return StableDiffusionInpaintPipeline(
        unet=unet(sizes), vae=autoencoder(sizes), text_encoder=CLIPTextModel(text).eval(), tokenizer=shipped.tokenizer,
        scheduler=noise_levels(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def published_step(pipeline: StableDiffusionInpaintPipeline, cases: Sequence[Case], batch: int,
                   accumulation: int) -> Callable[[], float]:
    """One optimizer step of the published training, everything computed anew in each of its passes."""
    device, rng = pipeline.unet.device, torch.Generator().manual_seed(0)
    pipeline.unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), 3e-6, weight_decay=1e-2)

    def step() -> float:
        total = 0.0
        for _ in range(accumulation):
            chosen = [cases[int(i)] for i in torch.randint(len(cases), (batch,), generator=rng)]
            images = torch.stack([to_tensor(case.image) for case in chosen]).to(device)
            masks = torch.stack([torch.from_numpy(case.mask).float()[None] for case in chosen]).to(device)
            if torch.rand(1, generator=rng) < 0.5:
                images, masks = images.flip(-1), masks.flip(-1)
            loss = diffusion_loss(pipeline, encode_images(pipeline.vae, images), model_input(pipeline, images, masks),
                                  embed_prompts(pipeline, [PROMPT] * batch), masks, 1.0, 1.0, rng) / accumulation
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(pipeline.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


@torch.no_grad()
def published_images(pipeline: StableDiffusionInpaintPipeline, grounds: Sequence[Pixels], masks: Sequence[Pixels],
                     seeds: Sequence[int], steps: int = STEPS, guidance: float = GUIDANCE) -> Tensor:
    """What diffusers' inpainting pipeline computes, also for UNets whose channels it refuses: `[B,3,H,W]` in [-1,1]."""
    device = pipeline._execution_device
    images = torch.stack([to_tensor(ground) for ground in grounds]).to(device)
    holes = torch.from_numpy(np.stack(masks) > 0).float()[:, None].to(device)
    texts = embed_prompts(pipeline, ["", PROMPT]).to(device)  # with offload they come where the encoder was before
    texts = texts.repeat_interleave(len(images), dim=0)
    condition = torch.cat([model_input(pipeline, images, holes)] * 2)
    scheduler = deepcopy(pipeline.scheduler)
    scheduler.set_timesteps(steps, device=device)
    shape = encode_images(pipeline.vae, images[:1]).shape[1:]
    z = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(device)
    z = z * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        without, with_lesion = predict(pipeline, torch.cat([torch.cat([z, z]), condition], dim=1), t, texts).chunk(2)
        z = scheduler.step(without + guidance * (with_lesion - without), t, z).prev_sample
    return decode_latents(pipeline.vae, z)
