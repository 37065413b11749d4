"""Segmenters in turn, each on all threads, against side by side, each on one: `python benchmarks/side_by_side.py [--threads 2]`.

Both take turns, alone and beside processes that keep a core busy each (`--busy`); a time is the median of the rounds, for one
step of 8 images of one `unet` with augmentation.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import multiprocessing  # noqa: E402
import time  # noqa: E402
from functools import partial  # noqa: E402
from statistics import median  # noqa: E402

import torch  # noqa: E402

from meddiff.cases import Case  # noqa: E402
from meddiff.datasets.demo import make_phantoms  # noqa: E402
from meddiff.params import SegmentParams  # noqa: E402
from meddiff.progress import Report, silent  # noqa: E402
from meddiff.segmentation.segmenter import train_segmenter  # noqa: E402
from meddiff.training import side_by_side  # noqa: E402

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="processes beside it")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| px | busy cores beside it | in turn [ms a step] | side by side | ratio |\n|---|---|---|---|---|")
    for side in asked.sides:
        cases, params = list(make_phantoms(8, True, side, "mixed", 0)), SegmentParams(steps=asked.steps)
        train(cases, params, silent)
        for busy in asked.busy:
            others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(busy)]
            for other in others:
                other.start()
            turn, beside = [], []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                for _ in range(asked.threads):
                    train(cases, params, silent)
                turn.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                side_by_side({str(i): partial(train, cases, params) for i in range(asked.threads)}, "cpu")
                beside.append(time.perf_counter() - begun)
            for other in others:
                other.kill()
            steps = asked.steps * asked.threads
            print(f"| {side} | {busy} | {1e3 * median(turn) / steps:.0f} | {1e3 * median(beside) / steps:.0f} | "
                  f"{median(turn) / median(beside):.2f} |", flush=True)


def train(cases: list[Case], params: SegmentParams, report: Report) -> None:
    train_segmenter(cases, [], params, 0, report=report)


def spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
