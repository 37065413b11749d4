"""The embedded foundation's image codec: patches to whitened cosine coefficients and back, lossless, nothing to train."""

import math
import sys

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor
from torch.nn import functional as F


class PatchCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """An orthonormal 2-D cosine transform of each patch and colour axis, standardised a channel at a time.

    It stands where a pipeline has its autoencoder. Standardising the coefficients (ours) gives fine texture, whose
    variance is small, the same weight in the diffusion loss as shading; a plain patch-to-channel codec blurs it.

    Args:
        patch: side of a patch [pixels]; one latent position.
    """

    @register_to_config
    def __init__(self, patch: int = 4, scaling_factor: float = 1.0) -> None:
        super().__init__()
        channels = 3 * patch * patch
        self.register_to_config(latent_channels=channels, block_out_channels=[1] * (int(math.log2(patch)) + 1))
        self.register_buffer("basis", _basis(patch), persistent=False)
        self.register_buffer("shift", torch.zeros(1, channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, channels, 1, 1))

    @classmethod
    def fitted(cls, images: Tensor, patch: int) -> "PatchCodec":
        """Make a codec whose coefficients have mean 0 and deviation 1 over `images` `[N,3,H,W]` float32 in [-1,1]."""
        codec: PatchCodec = cls(patch).eval()
        raw = codec.encode(images).latents
        codec.shift.copy_(raw.mean(dim=(0, 2, 3), keepdim=True))
        codec.spread.copy_(raw.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-2))
        return codec

    @property
    def importance(self) -> Tensor:
        """Weight `[1,C,1,1]` of each channel's error, mean 1: its deviation in pictures, between what whitened coefficients
        ask for (all alike: shading comes out in blocks) and what pixels ask for (the variance: texture is forgotten)."""
        return self.spread / self.spread.mean()

    def encode(self, image: Tensor) -> AutoencoderTinyOutput:
        """`[B,3,H,W]` in [-1,1], H and W multiples of the patch, to latents `[B, 3*patch**2, H/patch, W/patch]`."""
        return AutoencoderTinyOutput(latents=(F.conv2d(image, self.basis, stride=self.config.patch) - self.shift) / self.spread)

    def decode(self, latents: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Inverse of `encode`; values may leave [-1,1] where the latents are no image's."""
        image = F.conv_transpose2d(latents * self.spread + self.shift, self.basis, stride=self.config.patch)
        return DecoderOutput(sample=image) if return_dict else (image,)


def _basis(patch: int) -> Tensor:
    """Orthonormal basis `[3*patch**2, 3, patch, patch]`: luminance and two colour differences, each by 2-D DCT-II."""
    n = torch.arange(patch, dtype=torch.float64)
    dct = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / patch) * math.sqrt(2 / patch)
    dct[0] /= math.sqrt(2)
    colour = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colour /= colour.norm(dim=1, keepdim=True)
    return torch.einsum("uy,vx,kc->kuvcyx", dct, dct, colour).reshape(3 * patch * patch, 3, patch, patch).float()


# The class's address in saved pipelines, which outlive the layout of a package; diffusers looks for it among imported modules.
PatchCodec.__module__ = "meddiff.codec"
sys.modules["meddiff.codec"] = sys.modules[__name__]
