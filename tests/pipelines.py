"""Small inpainting pipelines of both kinds, with random weights."""

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from meddiff.embedded import _byte_tokenizer, build_embedded
from meddiff.params import FoundationParams


def stable_diffusion(in_channels: int = 9) -> StableDiffusionInpaintPipeline:
    """The classes and channels of `stable-diffusion-inpainting`, at a size for tests."""
    torch.manual_seed(0)
    tokenizer = _byte_tokenizer()
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            pad_token_id=513,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=512,
            eos_token_id=513,
        )
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    for part in (vae, unet, text):
        part.eval()
    return StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def embedded(images: torch.Tensor, patch: int = 4) -> StableDiffusionInpaintPipeline:
    pipeline = build_embedded(FoundationParams(channels=(32, 32), patch=patch), images)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05)  # a fresh one predicts zero
    pipeline.unet.eval()
    return pipeline
