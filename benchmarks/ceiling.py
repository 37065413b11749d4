"""What could be gained: a segmenter taught further pairs of which each lacks one thing that more annotated images would bring.

    python benchmarks/ceiling.py PROJECT FULL [--arms real others ...] [--n 100] [--steps 1500] [--seed 0] [--threads 1]

PROJECT has run up to `filter`; FULL is the same dataset, prepared with the same size and split and every training image
annotated. Beside PROJECT's annotated cases stand pairs made of n further annotated images of FULL, drawn by the seed:

    others      the images with their annotations: what annotating them would bring
    repainted   a lesion painted over the one in the image, at its annotation
    pasted      their lesions pasted into PROJECT's lesion-free backgrounds
    painted     their annotations painted into PROJECT's lesion-free backgrounds

Prints the Dice of the validation cases (150 of them, drawn by chance, where there are more): a choice, never a result.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import random  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from meddiff.cases import Case  # noqa: E402
from meddiff.layout import Layout  # noqa: E402
from meddiff.outputs.cases import read_cases  # noqa: E402
from meddiff.painting.synthesizer import Request, Synthesizer  # noqa: E402
from meddiff.params import GenerateParams, SegmentParams  # noqa: E402
from meddiff.params.file import load_params  # noqa: E402
from meddiff.segmentation.copy_paste import copy_paste  # noqa: E402
from meddiff.segmentation.segmenter import train_segmenter  # noqa: E402

ARMS = ("real", "others", "repainted", "pasted", "painted")
SEEN = 150  # validation cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("full", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layout, params = Layout(options.project), load_params(options.project / "params.yaml")
    real, held = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    held = random.Random(0).sample(held, min(SEEN, len(held)))
    known = {case.id for case in real}
    others = [case for case in read_cases(Layout(options.full).cases("train")) if case.id not in known]
    others = random.Random(options.seed + 100).sample(others, min(options.n, len(others)))
    for arm in options.arms:
        settings = params.segment.model_copy(update={"steps": options.steps})
        pairs = made(arm, others, layout, settings, params.generate, options.seed)
        dice = train_segmenter(real, pairs, settings, options.seed, held).validation_dice
        print(f"{options.project.name}: {arm}, {len(pairs)} pairs, {options.steps} steps: {dice:.4f}", flush=True)


def made(arm: str, others: Sequence[Case], layout: Layout, segment: SegmentParams, generate: GenerateParams, seed: int
         ) -> Sequence[Case]:
    """The pairs of an arm."""
    if arm in ("real", "others"):
        return others if arm == "others" else []
    synthesizer = Synthesizer.load(layout.generator, layout.mask_model, layout.backgrounds, "cpu")
    if arm == "pasted":
        free = [image for name, image in synthesizer.backgrounds.items() if name not in synthesizer.sites]
        return copy_paste(others, free, len(others), seed, segment.vertical_flips)
    over = arm == "repainted"
    requests = [Request(i, mask=case.mask, background=case.image if over else None) for i, case in enumerate(others)]
    painted = synthesizer.sample(requests, generate.model_copy(update={"site_share": 0.0}))
    return [Case(sample.id, sample.image, sample.mask) for sample in painted]


if __name__ == "__main__":
    main()
