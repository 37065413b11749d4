"""Weights and training time of the segmenters' networks: `python benchmarks/networks.py [--sides 64 128] [--steps 10]`.

A step is `train_segmenter`'s own, 8 images with augmentation, on one thread. The networks take turns; a time is the median over
the steps, the first of each round left out. Beside it the larger floor of a step, as a share of the time.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import time  # noqa: E402
from itertools import pairwise  # noqa: E402
from statistics import median  # noqa: E402

import torch  # noqa: E402
from floors import Work, count, machine  # noqa: E402
from torch import nn  # noqa: E402

from meddiff.datasets.demo import make_phantoms  # noqa: E402
from meddiff.params import SegmentParams  # noqa: E402
from meddiff.segmentation.networks import WIDTHS  # noqa: E402
from meddiff.segmentation.segmenter import train_segmenter  # noqa: E402

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[tuple[str, int], list[float]] = {}
    weights: dict[str, int] = {}
    work: dict[tuple[str, int], Work] = {}
    for _ in range(ROUNDS):
        for side in asked.sides:
            cases = make_phantoms(8, True, side, "mixed", 0)
            for network in WIDTHS:
                moments: list[float] = []
                params = SegmentParams.model_validate({"network": network, "steps": asked.steps + 1})
                trained = train_segmenter(cases, [], params, 0, report=lambda *_, kept=moments: kept.append(time.perf_counter()))
                seconds.setdefault((network, side), []).extend(b - a for a, b in pairwise(moments))
                weights[network] = sum(weight.numel() for weight in trained.network.parameters())
                work[network, side] = work.get((network, side)) or step(trained.network, side)
    able = machine("cpu")
    print(f"{able}\n")
    print(f"| network | weights | {' | '.join(f'{side} px' for side in asked.sides)} |")
    print("|---" * (2 + len(asked.sides)) + "|")
    for network, parameters in weights.items():
        times = []
        for side in asked.sides:
            each, floors = median(seconds[network, side]), able.floors(work[network, side])
            times.append(f"{each:.3f} s (operations {floors[0]:.3f}, bytes {floors[1]:.3f}: {max(floors) / each:.0%})")
        print(f"| `{network}` | {parameters / 1e6:.1f} M | {' | '.join(times)} |")


def step(network: nn.Module, side: int) -> Work:
    """One step of 8 images, Adam's bytes included."""
    images = torch.zeros(8, 3, side, side)
    adam = 4 * 7 * sum(weight.numel() for weight in network.parameters())
    return count(lambda: network.train()(images).sum().backward()) + Work(bytes=adam)


if __name__ == "__main__":
    main()
