"""Small inpainting pipelines of each kind, with random weights."""

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from meddiff.diffusion.embedded import build_embedded, byte_tokenizer
from meddiff.params import FoundationParams

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def stable_diffusion(in_channels: int = 9, prediction: str = "epsilon") -> StableDiffusionInpaintPipeline:
    """The classes and channels of `stable-diffusion-inpainting`, at a size for tests."""
    torch.manual_seed(0)
    pipeline = StableDiffusionInpaintPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text()),
        tokenizer=byte_tokenizer(),
        unet=_unet(in_channels, 16),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _eval(pipeline)


def stable_diffusion_xl() -> StableDiffusionXLInpaintPipeline:
    """The classes of SDXL inpainting: two text encoders, pooled text and sizes as conditions, Euler's scheduler."""
    torch.manual_seed(0)
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    pipeline = StableDiffusionXLInpaintPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text()),
        text_encoder_2=CLIPTextModelWithProjection(_text(projection_dim=24)),
        tokenizer=byte_tokenizer(),
        tokenizer_2=byte_tokenizer(),
        unet=_unet(9, 32, projection_class_embeddings_input_dim=6 * 8 + 24, **extra),
        scheduler=EulerDiscreteScheduler(**NOISE),
        add_watermarker=False,
    )
    return _eval(pipeline)


def embedded(images: torch.Tensor, patch: int = 4) -> StableDiffusionInpaintPipeline:
    pipeline = build_embedded(FoundationParams(channels=(32, 32), patch=patch), images)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05)  # a fresh one predicts zero
    pipeline.unet.eval()
    return pipeline


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def _unet(in_channels: int, text_width: int, **settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=text_width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **settings,
    )


def _text(**settings: object) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        pad_token_id=513,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=512,
        eos_token_id=513,
        **settings,
    )


def _eval(pipeline):  # a pipeline of either kind
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline
