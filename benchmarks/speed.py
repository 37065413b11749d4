"""How fast fine-tuning and generation are against the published recipe and stock diffusers, in one run on one machine.

    python benchmarks/speed.py embedded [--size 64] [--threads 2]       # the foundation that comes with meddiff
    python benchmarks/speed.py sd15 --device cuda --rounds 1            # Stable Diffusion 1.5's sizes, random weights, 512 px
    python benchmarks/speed.py tiny                                     # every line of it, in minutes on a CPU
    python benchmarks/speed.py memory                                   # what fine-tuning needs at 1.5's sizes, by count
    python benchmarks/speed.py solvers PROJECT [--n 100]                # fidelity of solvers and guidance, a fine-tuned generator

The published recipe: float32 with torch's defaults (on a GPU TF32 convolutions, float32 products); batch 1 with accumulation 2,
the autoencoder twice and the text encoder once in every pass, full fine-tune; one image at a time in 50 steps with guidance 7.5,
on a GPU with model offload. Stock: the same in batches. Variants take turns; a time is a median over the rounds, without each
first step. Each variant of meddiff's own is held against its float32 reference with the same seeds, without TF32.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from copy import deepcopy  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from counts import Hollow, learning, memory, painting  # noqa: E402
from floors import Work, clock, exact  # noqa: E402
from published import GUIDANCE, PROMPT, STEPS, build, published_images, published_step  # noqa: E402
from table import Variant, compare  # noqa: E402

from meddiff.cases import Pixels  # noqa: E402
from meddiff.datasets.demo import make_phantoms  # noqa: E402
from meddiff.diffusion.finetuning import finetune  # noqa: E402
from meddiff.diffusion.inpainting import move_pipeline  # noqa: E402
from meddiff.lesions.seams import real_seams  # noqa: E402
from meddiff.lesions.texture import texture_ratios  # noqa: E402
from meddiff.painting.painter import Painter  # noqa: E402
from meddiff.params import FinetuneParams, GenerateParams  # noqa: E402

GIB = 2**30
CASES = 8  # annotated, in fine-tuning


def timed(work: Callable[[], object], device: str, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        begun = clock(device)
        work()
        seconds.append(clock(device) - begun)
    return seconds


def training_settings() -> dict[str, dict[str, Any]]:
    """Meddiff's rows of the table for a GPU: settings of fine-tuning by name; where their memory is counted too."""
    full = {"mode": "full", "precision": "bfloat16", "ema_decay": 0.99}
    lora = {"mode": "lora", "precision": "bfloat16", "ema_decay": 0.0}
    return {"meddiff": {}, "meddiff, full, bfloat16": full, "meddiff, full, bfloat16, compiled": full,
            "meddiff, lora, bfloat16": lora, "meddiff, lora, bfloat16, compiled": lora,
            "meddiff, lora, bfloat16, checkpointing": lora | {"gradient_checkpointing": True},
            "meddiff, lora, bfloat16, batch 2": lora | {"batch_size": 2},
            "meddiff, lora, bfloat16, checkpointing, batch 2": lora | {"gradient_checkpointing": True, "batch_size": 2}}


def settled(batch: int, settings: dict[str, Any]) -> FinetuneParams:
    return FinetuneParams.model_validate({"batch_size": batch, "learning_rate": 3e-6} | settings)


def training(kind: str, device: str, size: int, batch: int, steps: int) -> list[Variant]:
    """Ways to fine-tune; a unit is one optimizer step."""
    base, cases = build(kind), make_phantoms(CASES, True, size, "mixed", 0)

    @cache
    def floor(mode: str, batch: int, encoded: bool, passes: int) -> Work:
        hollow = Hollow.of(kind, FinetuneParams.model_validate({"mode": mode}), base if kind == "embedded" else None)
        return learning(hollow, size, batch, encoded, passes)

    def theirs(name: str, batch: int, accumulation: int) -> Variant:
        def run() -> list[float]:
            return timed(published_step(deepcopy(base).to(device), cases, batch, accumulation), device, steps)

        return Variant(name, run, batch * accumulation, lambda: floor("full", batch, True, accumulation))

    losses: dict[str, list[float]] = {}

    def ours(name: str, settings: dict[str, Any]) -> Variant:
        params, compiled = settled(batch, settings | {"steps": steps}), "compiled" in name
        plain = params.model_copy(update={"precision": "float32"})

        def run() -> list[float]:
            pipeline = deepcopy(base)
            if compiled:
                pipeline.unet.compile()
            stamps = [clock(device)]
            losses[name] = finetune(pipeline, cases, params, device, report=lambda *_: stamps.append(clock(device))).losses
            return [float(seconds) for seconds in np.diff(stamps)]

        def error() -> float:
            """The greatest difference of the steps' losses."""
            if str(plain) not in losses:
                with exact():
                    losses[str(plain)] = finetune(deepcopy(base), cases, plain, device).losses
            return float(np.max(np.abs(np.array(losses[name]) / losses[str(plain)] - 1)))

        def work() -> Work:
            found = floor(params.mode, params.batch_size, False, 1)
            return halved(found) if params.precision == "bfloat16" else found

        reference = params == plain and not compiled and device == "cpu"
        return Variant(name, run, params.batch_size, work, params.precision, None if reference else error)

    rows = training_settings()
    if kind == "embedded" and device == "cpu":
        rows = {"meddiff": rows["meddiff"]}
    return [theirs("(a) published, batch 1 x 2", 1, 2), theirs(f"(b) the same, batch {batch}", batch, 1),
            *(ours(name, settings) for name, settings in rows.items())]


def generation(kind: str, device: str, size: int, batch: int, units: int) -> list[Variant]:
    """Ways to paint; a unit is one batch."""
    base, real = build(kind), make_phantoms(max(batch, CASES), True, size, "mixed", 0)
    grounds = [case.image for case in make_phantoms(batch, False, size, "mixed", 1)]
    masks, seeds = [case.mask for case in real[:batch]], list(range(batch))
    about = [case.image for case in real], [case.mask for case in real]
    known = texture_ratios(*about), real_seams(*about)

    @cache
    def floor(batch: int, steps: int, guided: bool) -> Work:
        return painting(Hollow.of(kind, None, base if kind == "embedded" else None), size, batch, steps, guided)

    def theirs(name: str, batch: int, offload: bool) -> Variant:
        def work() -> Callable[[], object]:
            pipeline = deepcopy(base)
            if offload:
                pipeline.enable_model_cpu_offload()
            else:
                pipeline.to(device)
            return lambda: (published_images(pipeline, grounds[:batch], masks[:batch], seeds[:batch]),
                            pipeline.maybe_free_model_hooks())

        return Variant(name, lambda: timed(work(), device, units), batch, lambda: floor(batch, STEPS, True))

    painted: dict[str, list[Pixels]] = {}

    def ours(name: str, steps: int, guidance: float, precision: str = "float32") -> Variant:
        params = GenerateParams(batch_size=batch, steps=steps, guidance_scale=guidance, precision=precision)
        plain, compiled = params.model_copy(update={"precision": "float32"}), "compiled" in name

        def work(name: str, params: GenerateParams, compiled: bool) -> Callable[[], object]:
            pipeline = deepcopy(base)
            move_pipeline(pipeline, device)
            if compiled:
                pipeline.unet.compile()
            painter = Painter.of(pipeline, [PROMPT], *known)
            return lambda: painted.update({name: painter.paint(grounds, masks, seeds, params)})

        def error() -> float:
            """Root mean square difference of the lesions' pixels, over their root mean square."""
            if str(plain) not in painted:
                with exact():
                    work(str(plain), plain, False)()
            inside = np.stack(masks) > 0
            values, expected = (np.stack(painted[key])[inside].astype(float) for key in (name, str(plain)))
            return float(np.sqrt(np.square(values - expected).mean() / np.square(expected).mean()))

        def moved() -> Work:
            found = floor(batch, steps, guidance > 1)
            return halved(found) if precision == "bfloat16" else found

        reference = params == plain and not compiled and device == "cpu"
        return Variant(name, lambda: timed(work(name, params, compiled), device, units), batch, moved, precision,
                       None if reference else error)

    found = [theirs("(a) published, one at a time", 1, device == "cuda"), theirs(f"(b) the same, batch {batch}", batch, False),
             ours("meddiff, 50 steps, guidance 7.5", STEPS, GUIDANCE), ours("meddiff, 20 steps, guidance 7.5", 20, GUIDANCE),
             ours("meddiff, 20 steps, no guidance", 20, 1.0)]
    if kind == "embedded" and device == "cpu":
        return found
    return [*found, ours("meddiff, 20 steps, guidance 7.5, bfloat16, compiled", 20, GUIDANCE, "bfloat16"),
            ours("meddiff, 20 steps, no guidance, bfloat16", 20, 1.0, "bfloat16"),
            ours("meddiff, 20 steps, no guidance, bfloat16, compiled", 20, 1.0, "bfloat16")]


def halved(work: Work) -> Work:
    """The same operations on values of half the size."""
    return Work(work.products, work.convolutions, work.bytes // 2)


def needs(kind: str, size: int, batch: int) -> None:
    """Print the memory of the training rows by count."""
    recipe = settled(1, {"ema_decay": 0.0})
    rows = {"(a) published, batch 1 x 2": (recipe, True)}
    rows |= {name: (settled(batch, settings), False) for name, settings in training_settings().items()
             if "compiled" not in name}
    print(f"\nmemory by count: {kind}, {size} px, batch {batch} unless said [GiB]\n\n| | frozen weights | trained weights "
          "| moments, average | gradients, activations | sum | of (a) |\n|---|---|---|---|---|---|---|")
    whole = 0.0
    for name, (params, published) in rows.items():
        need = memory(kind, size, params, published)
        whole = whole or need.total
        parts = " | ".join(f"{part / GIB:.2f}" for part in (need.frozen, need.trained, need.moments, need.passing, need.total))
        print(f"| {name} | {parts} | {need.total / whole:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("embedded", "sd15", "tiny", "memory", "solvers"))
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, help="side [pixels]; else 64, of sd15 512, of tiny 32")
    parser.add_argument("--batch", type=int, help="else 16, of sd15 8, of tiny 2")
    parser.add_argument("--only", choices=("training", "generation"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, help="steps, or batches, in one turn, else 4, on a GPU 3; the first isn't counted")
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "solvers":
        from solvers import solvers

        return solvers(given.project, given.n)
    usual = {"embedded": (64, 16), "sd15": (512, 8), "tiny": (32, 2), "memory": (512, 8)}[given.what]
    size, batch, units = given.size or usual[0], given.batch or usual[1], given.units or (3 if given.device == "cuda" else 4)
    if given.what == "memory":
        return needs("sd15", size, batch)
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads} CPU threads"
    for name, variants in (("training", training), ("generation", generation)):
        if given.only in {None, name}:
            compare(f"{name}: {given.what}, {size} px, {where}", variants(given.what, given.device, size, batch, units),
                    given.device, given.rounds)


if __name__ == "__main__":
    main()
