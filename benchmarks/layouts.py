"""A training step of the `unet` segmenter on one CPU thread: as it is, with channels last, compiled, and both.

    python benchmarks/layouts.py [--size 128] [--steps 24]

The variants take turns; processor time, since other processes disturb the clock.
"""

import argparse
import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss

from meddiff.segmentation.networks import Architecture


def step_of(size: int, layout: torch.memory_format, compiled: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    network = Architecture("unet", 16).build().train().to(memory_format=layout)
    forward = torch.compile(network) if compiled else network
    optimizer, criterion = torch.optim.AdamW(network.parameters(), 1e-3, fused=True), DiceCELoss(sigmoid=True)
    images = (torch.rand(8, 3, size, size) * 2 - 1).to(memory_format=layout)
    masks = (torch.rand(8, 1, size, size) > 0.8).float()

    def step() -> None:
        optimizer.zero_grad()
        criterion(forward(images), masks).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    layouts = {"": torch.contiguous_format, "channels last": torch.channels_last}
    steps = {" ".join(filter(None, [name, "compiled" * compiled])) or "as it is": step_of(given.size, layout, compiled)
             for compiled in (False, True) for name, layout in layouts.items()}
    for name, step in steps.items():
        begun = time.process_time()
        step()
        print(f"{name}: first step {time.process_time() - begun:.1f} s", flush=True)
    spent = dict.fromkeys(steps, 0.0)
    for _ in range(given.steps):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            spent[name] += time.process_time() - begun
    for name, seconds in spent.items():
        print(f"{name}: {1000 * seconds / given.steps:.0f} ms a step")


if __name__ == "__main__":
    main()
