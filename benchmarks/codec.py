"""What a small autoencoder, trained within the foundation's time, keeps of an image; the patch codec keeps all of it.

    python benchmarks/codec.py data/train/images data/val/images [SECONDS]
"""

import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import read_image
from meddiff.codec import PatchCodec
from meddiff.inpainting import to_tensor


def load(folder: str) -> Tensor:
    return torch.stack([to_tensor(read_image(path)) for path in sorted(Path(folder).glob("*.png"))])


def texture(images: Tensor) -> Tensor:
    """What a Gaussian blur of two pixels takes away."""
    kernel = torch.exp(-torch.arange(-6.0, 7.0) ** 2 / 8)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    smooth = F.conv2d(F.pad(images, (6, 6, 6, 6), "reflect"), kernel, groups=3)
    return images - F.conv2d(smooth, kernel.transpose(2, 3), groups=3)


def report(name: str, images: Tensor, decoded: Tensor) -> None:
    psnr = 10 * torch.log10(4 / (decoded - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-12)).median()
    kept = texture(decoded).std() / texture(images).std()
    print(f"{name:>24}: median PSNR {psnr:.1f} dB, texture kept {100 * kept:.0f} %")


def main(train: Tensor, held_back: Tensor, seconds: float) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    codec = PatchCodec.fitted(train, 4)
    report("patch codec, 48 channels", held_back, codec.decode(codec.encode(held_back).latents).sample)
    for channels in (8, 16, 48):
        widths, blocks = (32, 32, 32), (1, 1, 1)
        model = AutoencoderTiny(latent_channels=channels, encoder_block_out_channels=widths, decoder_block_out_channels=widths,
                                num_encoder_blocks=blocks, num_decoder_blocks=blocks, upsampling_scaling_factor=2)
        optimizer, begun, steps = torch.optim.AdamW(model.parameters(), 2e-3), time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            batch = train[torch.randint(len(train), (16,))]
            F.l1_loss(model(batch).sample, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        with torch.no_grad():
            report(f"autoencoder, {channels} channels", held_back, model(held_back).sample)
        print(f"{'':>26}{steps} steps, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main(load(sys.argv[1]), load(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
