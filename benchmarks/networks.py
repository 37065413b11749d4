"""Weights and training time of the segmenters' networks: `python benchmarks/networks.py [--sides 64 128] [--steps 10]`.

A step is `train_segmenter`'s own, 8 images with augmentation, on one thread. The networks take turns; a time is the median over
the steps, the first of each round left out.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import time  # noqa: E402
from itertools import pairwise  # noqa: E402
from statistics import median  # noqa: E402

import torch  # noqa: E402

from meddiff.networks import WIDTHS  # noqa: E402
from meddiff.params import SegmentParams  # noqa: E402
from meddiff.phantoms import make_phantoms  # noqa: E402
from meddiff.segmentation import train_segmenter  # noqa: E402

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[tuple[str, int], list[float]] = {}
    weights: dict[str, int] = {}
    for _ in range(ROUNDS):
        for side in asked.sides:
            cases = make_phantoms(8, True, side, "mixed", 0)
            for network in WIDTHS:
                moments: list[float] = []
                params = SegmentParams.model_validate({"network": network, "steps": asked.steps + 1})
                trained = train_segmenter(cases, [], params, 0, report=lambda *_, kept=moments: kept.append(time.perf_counter()))
                seconds.setdefault((network, side), []).extend(b - a for a, b in pairwise(moments))
                weights[network] = sum(weight.numel() for weight in trained.network.parameters())
    print(f"| network | weights | {' | '.join(f'{side} px' for side in asked.sides)} |")
    for network, count in weights.items():
        times = (f"{median(seconds[network, side]):.2f} s" for side in asked.sides)
        print(f"| `{network}` | {count / 1e6:.1f} M | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
