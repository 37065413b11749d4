"""What a small autoencoder, trained within the foundation's time, keeps of an image; the patch codec keeps all of it.

    python benchmarks/codec.py data/train/images data/val/images [--seconds 60] [--taef FOLDER]

FOLDER holds encoder.safetensors and decoder.safetensors of a pretrained tiny autoencoder (taef2: 32 channels at an eighth of the
resolution), which is held against them.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import read_image
from meddiff.diffusion.codec import PatchCodec
from meddiff.diffusion.inpainting import to_tensor


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


def run(weights: dict[str, Tensor], x: Tensor, widen: set[int]) -> Tensor:
    """Layers by number, convolutions and blocks. Before those in `widen` comes upsampling, else those without bias stride."""
    for number in sorted({int(name.split(".")[0]) for name in weights}):
        own = {name.split(".", 1)[1]: value.float() for name, value in weights.items() if name.split(".")[0] == str(number)}
        if "weight" in own:
            x = F.interpolate(x, scale_factor=2) if number in widen else x
            halve = "bias" not in own and not widen
            x = F.conv2d(x, own["weight"], own.get("bias"), stride=2 if halve else 1, padding=1)
            x = x.relu() if widen and number == 1 else x
        else:
            if "pool.0.weight" in own:
                inner = F.group_norm(F.conv2d(x, own["pool.0.weight"]), 4, own["pool.1.weight"], own["pool.1.bias"])
                x = x + F.conv2d(inner.relu(), own["pool.3.weight"])
            inner = x
            for part in (0, 2, 4):
                inner = F.conv2d(inner, own[f"conv.{part}.weight"], own[f"conv.{part}.bias"], padding=1)
                inner = inner.relu() if part < 4 else inner
            x = (inner + x).relu()
    return x


def taef(folder: Path, images: Tensor) -> Tensor:
    """Images `[N,3,H,W]` in [-1,1], encoded and decoded."""
    encoder, decoder = (load_file(folder / f"{name}.safetensors") for name in ("encoder", "decoder"))
    plain = {int(name.split(".")[0]) for name in decoder if name.count(".") == 1 and f"{name.split('.')[0]}.bias" not in decoder}
    decoded = [run(decoder, (run(encoder, (part + 1) / 2, set()) / 3).tanh() * 3, plain) for part in images.split(16)]
    return torch.cat(decoded).clamp(0, 1) * 2 - 1


def main(train: Tensor, held_back: Tensor, seconds: float, pretrained: Path | None) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    codec = PatchCodec.fitted(train, 4)
    report("patch codec, 48 channels", held_back, codec.decode(codec.encode(held_back).latents).sample)
    if pretrained:
        with torch.no_grad():
            report(f"pretrained, {pretrained.name}", held_back, taef(pretrained, held_back))
    for channels in (8, 16, 48) if seconds else ():
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("held_back")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training; 0: none is trained")
    parser.add_argument("--taef", type=Path)
    given = parser.parse_args()
    main(load(given.train), load(given.held_back), given.seconds, given.taef)
