"""What images without annotation could teach a segmenter at most: their hidden annotation, or what two segmenters agree on.

    python benchmarks/headroom.py PROJECT POOL --finders FOLDER FOLDER [--steps 1200] [--seeds 0 1]

POOL beside the annotated cases: `nothing`; `agreed`, images in which the finders, such as models/segmenters/real/0 of PROJECT,
agree by 0.85, with what both see; `agreed_true`, the same images with the hidden annotation; `all_true`, all images with it. Half
of each batch is the pool's. Training images and validation cases alone are looked at, PROJECT is left as it is; the best
validation Dice of each seed is printed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from outlines import AGREEMENT, each_dice, hidden

from meddiff.environment import quiet, use_machine
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.params.file import load_params
from meddiff.segmentation.segmenter import Segmenter, train_segmenter

POOLS = ("nothing", "agreed", "agreed_true", "all_true")


def main() -> None:
    """One line a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("pool", choices=POOLS)
    parser.add_argument("--finders", type=Path, nargs=2, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    layout = Layout(options.project.resolve())
    params = use_machine(load_params(layout.params))
    torch.set_num_threads(1)
    cases, true = hidden(layout, params.prepare)
    images = np.stack([case.image for case in cases])
    finders = [Segmenter.load(options.project / folder) for folder in options.finders]
    sure = [(finder.predict(images) + finder.predict(images[:, :, ::-1])[:, :, ::-1]) / 2 for finder in finders]
    seen = sure[0] + sure[1] > 1
    agreed = (each_dice(sure[0] > 0.5, sure[1] > 0.5) >= AGREEMENT) & seen.any((1, 2))
    print(f"{agreed.sum()} of {len(cases)} images agreed on, Dice {each_dice(seen[agreed], true[agreed]).mean():.3f}")
    masks = {"nothing": seen, "agreed": seen, "agreed_true": true, "all_true": true}[options.pool]
    taken = {"nothing": agreed & False, "all_true": agreed | True}.get(options.pool, agreed)
    pool = [replace(case, mask=mask.astype(np.uint8)) for case, mask, take in zip(cases, masks, taken, strict=True) if take]
    segment = params.segment.model_copy(update={"steps": options.steps, "ratio": float(len(cases))})
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    for seed in options.seeds:
        trained = train_segmenter(real, pool, segment, seed, validation)
        print(f"{options.pool}, {options.steps} steps, seed {seed}: {trained.validation_dice:.4f}", flush=True)


if __name__ == "__main__":
    quiet()
    main()
