"""The embedded foundation: a small inpainting pipeline built here and pretrained on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from meddiff.cases import Pixels
from meddiff.diffusion.codec import PatchCodec
from meddiff.diffusion.inpainting import diffusion_loss, embed_prompts, encode_images, model_input, to_tensor
from meddiff.params import FinetuneParams, FoundationParams
from meddiff.progress import Report, silent
from meddiff.training import Schedule, train

_TEXT_WIDTH = 32
NOTHING, LESION, ANYTHING = PROMPTS = ("", FinetuneParams().prompt, "an image")  # what fills the mask: no lesion, one, whatever
_MIN_SNR = 5.0


def build_embedded(params: FoundationParams, images: Tensor) -> StableDiffusionInpaintPipeline:
    """Build the small pipeline with seeded random weights and a codec fitted to `images` `[N,3,H,W]` float32 in [-1,1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        codec = PatchCodec.fitted(images, params.patch)
        latents, levels = codec.config.latent_channels, len(params.channels)
        unet = UNet2DConditionModel(
            sample_size=images.shape[-1] // params.patch,
            in_channels=2 * latents + params.patch**2,
            out_channels=latents,
            block_out_channels=params.channels,
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=4,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            cross_attention_dim=_TEXT_WIDTH,
        )
        tokenizer = byte_tokenizer()
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=_TEXT_WIDTH,
                intermediate_size=2 * _TEXT_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ).eval()
    # Predicting the clean latents: in a few hundred steps v-prediction was seen to leave blocks of noise inside the lesion.
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        steps_offset=1,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return StableDiffusionInpaintPipeline(
        vae=codec,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@dataclass(frozen=True)
class Drawn:
    """Images to inpaint, of one size.

    Attributes:
        pixels: `[B,3,H,W]` float32 in [-1,1].
        masks: `[B,1,H,W]` float32 of 0 and 1.
        prompts: `[B]` int64, index in `PROMPTS`.
    """

    pixels: Tensor
    masks: Tensor
    prompts: Tensor


def inpaint(
    pipeline: StableDiffusionInpaintPipeline,
    draw: Callable[[torch.Generator], Drawn],
    schedule: Schedule,
    device: str,
    checkpoint: Path | None = None,
    report: Report = silent,
) -> list[float]:
    """Train the pipeline's UNet, in place, to inpaint what `draw` draws; returns the loss of each step."""
    pipeline.to(device)
    pipeline.unet.train()
    prompts = embed_prompts(pipeline, PROMPTS)

    def loss(generator: torch.Generator) -> Tensor:
        drawn = draw(generator)
        pixels, masks = drawn.pixels.to(device), drawn.masks.to(device)
        return diffusion_loss(pipeline, encode_images(pipeline.vae, pixels), model_input(pipeline, pixels, masks),
                              prompts[drawn.prompts.to(device)], masks, 1.0, 0.1, generator, _MIN_SNR)

    losses = train(pipeline.unet.parameters(), loss, schedule, checkpoint, report)
    pipeline.unet.eval()
    return losses


def pretrain(
    pipeline: StableDiffusionInpaintPipeline,
    images: Sequence[Pixels],
    params: FoundationParams,
    device: str,
    checkpoint: Path | None = None,
    report: Report = silent,
) -> list[float]:
    """Train the pipeline's UNet, in place, to inpaint random shapes in images without annotation.

    The prompt is neither that of a lesion nor the empty one, which means "no lesion": nobody knows what the shapes hide.

    Args:
        images: each `[H,W,3]` uint8, all of one size.

    Returns:
        The loss of each step.
    """
    pixels = torch.stack([to_tensor(image) for image in images])
    pixels = torch.cat([pixels, pixels.flip(-1)])

    def draw(generator: torch.Generator) -> Drawn:
        chosen = torch.randint(len(pixels), (params.batch_size,), generator=generator)
        masks = random_shapes(params.batch_size, pixels.shape[-1], generator)
        return Drawn(pixels[chosen], masks, torch.full((params.batch_size,), PROMPTS.index(ANYTHING)))

    schedule = Schedule(
        params.steps, params.learning_rate, params.seed, ema_decay=0.99, warmup=min(30, params.steps), cosine=True
    )
    return inpaint(pipeline, draw, schedule, device, checkpoint, report)


def random_shapes(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Random smooth blobs `[n,1,size,size]` float32 of 0 and 1, each 2 to 35 percent of the frame or nearly so (ours)."""
    seeds = torch.randint(2**31, (n,), generator=generator).tolist()
    return torch.from_numpy(np.stack([_blob(size, np.random.default_rng(seed)) for seed in seeds]))[:, None]


def _blob(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = np.mgrid[:size, :size] / size
    cy, cx = rng.uniform(0.15, 0.85, 2)
    angle = np.arctan2(y - cy, x - cx)
    stretch, turn = rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
    radius = np.sqrt(rng.uniform(0.02, 0.35) / np.pi) * (
        1 + sum(rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    )
    u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)
    v = np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
    inside: NDArray[np.float32] = (np.hypot(u, v / stretch) < radius).astype(np.float32)
    return inside


def byte_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer over single bytes, which needs no download."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=32)
