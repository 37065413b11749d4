"""How fast fine-tuning and generation are against the published recipe and stock diffusers, in one run on one machine.

    python benchmarks/speed.py embedded [--size 64] [--threads 2]       # the foundation that comes with meddiff
    python benchmarks/speed.py sd15 --device cuda                       # Stable Diffusion 1.5's sizes, random weights, 512 px
    python benchmarks/speed.py tiny                                     # every line of it, in a minute on a CPU
    python benchmarks/speed.py solvers PROJECT [--n 100]                # fidelity of solvers and guidance, a fine-tuned generator

The published recipe: float32; batch 1 with accumulation 2, the autoencoder twice and the text encoder once in every pass, full
fine-tune; one image at a time in 50 steps with guidance 7.5, on a GPU with model offload. Stock: the same in batches.
Variants take turns; a time is a median over the rounds, without each first step. Each variant of meddiff's own is held against
its float32 reference with the same seeds.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import re  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from copy import deepcopy  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel  # noqa: E402
from floors import clock, count, machine  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from meddiff.cases import Case, Pixels  # noqa: E402
from meddiff.finetuning import finetune  # noqa: E402
from meddiff.foundation import load_foundation  # noqa: E402
from meddiff.inpainting import decode, diffusion_loss, embed_prompts, encode, model_input, place, predict, to_tensor  # noqa: E402
from meddiff.painting import Painter  # noqa: E402
from meddiff.params import FinetuneParams, GenerateParams  # noqa: E402
from meddiff.phantoms import make_phantoms  # noqa: E402
from meddiff.seams import real_seams  # noqa: E402
from meddiff.texture import texture_ratios  # noqa: E402

EMBEDDED = Path(__file__).parents[1] / "meddiff/pretrained/foundation"
PROMPT = FinetuneParams().prompt
STEPS, GUIDANCE = 50, 7.5  # of the published recipe
Mib = 2**20


@dataclass(frozen=True)
class Sizes:
    """Widths of a Stable Diffusion: of UNet, autoencoder and text encoder, and blocks without attention at the coarse end."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    layers: int
    text_layers: int
    heads: int
    groups: int


SIZES = {"sd15": Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 2, 12, 12, 32),
         "tiny": Sizes((16, 32), (8, 16), 32, 1, 1, 2, 8)}


@dataclass
class Variant:
    """One way to do the work.

    Attributes:
        run: does some units of it and returns the seconds of each; the first is a warm-up.
        images: of one unit.
        floor: operations of one unit, and the bytes that it can't do without.
        dtype: of its matrix operations.
        error: relative error against the float32 reference; None where it is one.
    """

    name: str
    run: Callable[[], list[float]]
    images: int
    floor: Callable[[], tuple[int, int]]
    dtype: torch.dtype = torch.float32
    error: Callable[[], float] | None = None
    seconds: list[float] = field(default_factory=list)
    start: float = 0.0
    memory: float = 0.0


def build(kind: str, seed: int = 0) -> StableDiffusionInpaintPipeline:
    """The shipped pipeline, or Stable Diffusion 1.5's published configuration (or a tiny one) with random weights."""
    shipped = load_foundation(str(EMBEDDED))
    if kind == "embedded":
        return shipped
    sizes = SIZES[kind]
    torch.manual_seed(seed)
    levels, parts = len(sizes.unet), len(sizes.vae)
    shipped.tokenizer.model_max_length = 77
    vocabulary = 49408 if kind == "sd15" else len(shipped.tokenizer)
    text = CLIPTextConfig(vocab_size=vocabulary, hidden_size=sizes.text, intermediate_size=4 * sizes.text,
                          num_hidden_layers=sizes.text_layers, num_attention_heads=sizes.heads, max_position_embeddings=77,
                          bos_token_id=shipped.tokenizer.bos_token_id, eos_token_id=shipped.tokenizer.eos_token_id)
    return StableDiffusionInpaintPipeline(
        unet=UNet2DConditionModel(
            sample_size=64, in_channels=9, block_out_channels=sizes.unet, layers_per_block=sizes.layers,
            cross_attention_dim=sizes.text, norm_num_groups=sizes.groups, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)).eval(),
        vae=AutoencoderKL(block_out_channels=sizes.vae, layers_per_block=sizes.layers, latent_channels=4,
                          norm_num_groups=sizes.groups, down_block_types=("DownEncoderBlock2D",) * parts,
                          up_block_types=("UpDecoderBlock2D",) * parts).eval(),
        text_encoder=CLIPTextModel(text).eval(), tokenizer=shipped.tokenizer, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                                set_alpha_to_one=False, steps_offset=1))


def published_step(pipeline: StableDiffusionInpaintPipeline, cases: Sequence[Case], batch: int,
                   accumulation: int) -> Callable[[], float]:
    """One optimizer step of the published training, everything computed anew in each of its passes."""
    device, rng = pipeline.unet.device, torch.Generator().manual_seed(0)
    pipeline.unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), 3e-6, weight_decay=1e-2)

    def step() -> float:
        total = 0.0
        for _ in range(accumulation):
            chosen = [cases[int(i)] for i in torch.randint(len(cases), (batch,), generator=rng)]
            images = torch.stack([to_tensor(case.image) for case in chosen]).to(device)
            masks = torch.stack([torch.from_numpy(case.mask).float()[None] for case in chosen]).to(device)
            if torch.rand(1, generator=rng) < 0.5:
                images, masks = images.flip(-1), masks.flip(-1)
            loss = diffusion_loss(pipeline, encode(pipeline.vae, images), model_input(pipeline, images, masks),
                                  embed_prompts(pipeline, [PROMPT] * batch), masks, 1.0, 1.0, rng) / accumulation
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(pipeline.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


@torch.no_grad()
def published_images(pipeline: StableDiffusionInpaintPipeline, grounds: Sequence[Pixels], masks: Sequence[Pixels],
                     seeds: Sequence[int], steps: int = STEPS, guidance: float = GUIDANCE) -> Tensor:
    """What diffusers' inpainting pipeline computes, also for UNets whose channels it refuses: `[B,3,H,W]` in [-1,1]."""
    device = pipeline._execution_device
    images = torch.stack([to_tensor(ground) for ground in grounds]).to(device)
    holes = torch.from_numpy(np.stack(masks) > 0).float()[:, None].to(device)
    texts = torch.cat([embed_prompts(pipeline, [word]).expand(len(images), -1, -1) for word in ("", PROMPT)]).to(device)
    condition = torch.cat([model_input(pipeline, images, holes)] * 2)
    scheduler = deepcopy(pipeline.scheduler)
    scheduler.set_timesteps(steps, device=device)
    shape = encode(pipeline.vae, images[:1]).shape[1:]
    z = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(device)
    z = z * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        without, with_lesion = predict(pipeline, torch.cat([torch.cat([z, z]), condition], dim=1), t, texts).chunk(2)
        z = scheduler.step(without + guidance * (with_lesion - without), t, z).prev_sample
    return decode(pipeline.vae, z)


@contextmanager
def peak(device: str) -> Iterator[Callable[[], float]]:
    """The greatest memory since entry: the GPU's, or the process's resident set [MiB]."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / Mib
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    yield lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def timed(work: Callable[[], object], device: str, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        begun = clock(device)
        work()
        seconds.append(clock(device) - begun)
    return seconds


def training(kind: str, device: str, size: int, batch: int, steps: int) -> list[Variant]:
    """Ways to fine-tune; a unit is one optimizer step."""
    base, cases = build(kind), make_phantoms(20, True, size, "mixed", 0)
    weights = sum(p.numel() for p in base.unet.parameters())
    adam = 4 * 7 * weights  # weight, gradient and both moments are read, all but the gradient written

    def theirs(name: str, batch: int, accumulation: int) -> Variant:
        def step() -> Callable[[], float]:
            return published_step(on(device, base), cases, batch, accumulation)

        def floor() -> tuple[int, int]:
            operations, moved = count(step())
            return operations, moved + adam

        return Variant(name, lambda: timed(step(), device, steps), batch * accumulation, floor)

    losses: dict[str, list[float]] = {}

    def ours(name: str, compiled: bool = False, **settings: Any) -> Variant:
        params = FinetuneParams.model_validate({"batch_size": batch, "steps": steps, "learning_rate": 3e-6} | settings)
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
            if params.mode not in losses:
                losses[params.mode] = finetune(deepcopy(base), cases, plain, device).losses
            return float(np.max(np.abs(np.array(losses[name]) / losses[params.mode] - 1)))

        def floor() -> tuple[int, int]:
            pipeline = on(device, base)
            pipeline.unet.requires_grad_(params.mode == "full").train()
            images = torch.zeros(batch, 3, size, size, device=device)
            masks, texts = torch.ones_like(images[:, :1]), embed_prompts(pipeline, [PROMPT] * batch)
            latents, condition = encode(pipeline.vae, images), model_input(pipeline, images, masks).requires_grad_()
            operations, moved = count(lambda: diffusion_loss(pipeline, latents, condition, texts, masks, 1.0, 1.0,
                                                             torch.Generator().manual_seed(0)).backward())
            half = 2 if params.precision == "bfloat16" else 1
            return operations, moved // half + (adam if params.mode == "full" else 0)

        reference = params == plain and not compiled
        return Variant(name, run, batch, floor, types(params.precision), None if reference else error)

    found = [theirs("(a) published, batch 1 x 2", 1, 2), theirs(f"(b) the same, batch {batch}", batch, 1), ours("meddiff")]
    if kind == "embedded" and device == "cpu":
        return found
    return [*found, *(ours(f"meddiff, {mode}, bfloat16{', compiled' * compiled}", compiled, mode=mode, precision="bfloat16",
                           ema_decay=0.99 if mode == "full" else 0.0) for mode in ("full", "lora") for compiled in (False, True))]


def generation(kind: str, device: str, size: int, batch: int, units: int) -> list[Variant]:
    """Ways to paint; a unit is one batch."""
    base, real = build(kind), make_phantoms(max(batch, 20), True, size, "mixed", 0)
    grounds = [case.image for case in make_phantoms(batch, False, size, "mixed", 1)]
    masks, seeds = [case.mask for case in real[:batch]], list(range(batch))
    about = [case.image for case in real], [case.mask for case in real]
    known = texture_ratios(*about), real_seams(*about)

    def theirs(name: str, batch: int, offload: bool) -> Variant:
        def work() -> Callable[[], object]:
            pipeline = deepcopy(base)
            if offload:
                pipeline.enable_model_cpu_offload()
            else:
                pipeline.to(device)
            return lambda: (published_images(pipeline, grounds[:batch], masks[:batch], seeds[:batch]),
                            pipeline.maybe_free_model_hooks())

        return Variant(name, lambda: timed(work(), device, units), batch, lambda: count(work()))

    painted: dict[str, list[Pixels]] = {}

    def ours(name: str, compiled: bool = False, **settings: Any) -> Variant:
        params = GenerateParams.model_validate({"batch_size": batch} | settings)
        plain = params.model_copy(update={"precision": "float32"})

        def work(name: str, params: GenerateParams, compiled: bool) -> Callable[[], object]:
            pipeline = on(device, base)
            if compiled:
                pipeline.unet.compile()
            painter = Painter.of(pipeline, [PROMPT], *known)
            return lambda: painted.update({name: painter.paint(grounds, masks, seeds, params)})

        def error() -> float:
            """Root mean square difference of the lesions' pixels, over their root mean square."""
            if str(plain) not in painted:
                work(str(plain), plain, False)()
            inside = np.stack(masks) > 0
            values, expected = (np.stack(painted[key])[inside].astype(float) for key in (name, str(plain)))
            return float(np.sqrt(np.square(values - expected).mean() / np.square(expected).mean()))

        def floor() -> tuple[int, int]:
            operations, moved = count(work("floor", plain, False))
            return operations, moved // (2 if params.precision == "bfloat16" else 1)

        reference = params == plain and not compiled
        return Variant(name, lambda: timed(work(name, params, compiled), device, units), batch, floor, types(params.precision),
                       None if reference else error)

    found = [theirs("(a) published, one at a time", 1, device == "cuda"), theirs(f"(b) the same, batch {batch}", batch, False),
             ours("meddiff, 50 steps, guidance 7.5", steps=STEPS, guidance_scale=GUIDANCE),
             ours("meddiff, 20 steps, guidance 7.5", guidance_scale=GUIDANCE),
             ours("meddiff, 20 steps, guidance 1.5", guidance_scale=1.5), ours("meddiff, 20 steps, no guidance")]
    if kind == "embedded" and device == "cpu":
        return found
    return [*found, ours("meddiff, 20 steps, bfloat16", precision="bfloat16"),
            ours("meddiff, 20 steps, bfloat16, compiled", True, precision="bfloat16")]


def on(device: str, pipeline: StableDiffusionInpaintPipeline) -> StableDiffusionInpaintPipeline:
    """A copy, placed as meddiff places it."""
    copy = deepcopy(pipeline)
    place(copy, device)
    return copy


def types(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def compare(title: str, variants: Sequence[Variant], device: str, rounds: int) -> None:
    """Let the variants take turns and print the table."""
    for _ in range(rounds):
        for variant in variants:
            with peak(device) as memory:
                variant.start, *seconds = variant.run()
                variant.seconds += seconds
                variant.memory = max(variant.memory, memory())
    rates, bandwidth = machine(device)
    print(f"\n{title}; {rates[torch.float32] / 1e9:.0f} / {rates[torch.bfloat16] / 1e9:.0f} Gop/s in products of float32 / "
          f"bfloat16, {bandwidth / 1e9:.0f} GB/s\n")
    print("| | images/s | ratio | peak [MiB] | relative error | first step [s] | ms an image | operations' floor | bytes' floor "
          "| share of the larger |\n|---|---|---|---|---|---|---|---|---|---|")
    usual = float(np.median(variants[0].seconds)) / variants[0].images
    for v in variants:
        each, (operations, moved) = float(np.median(v.seconds)) / v.images, v.floor()
        floors = operations / rates[v.dtype] / v.images, moved / bandwidth / v.images
        wrong = f"{v.error():.1e}" if v.error else "reference"
        print(f"| {v.name} | {1 / each:.2f} | {usual / each:.2f} | {v.memory:.0f} | {wrong} | {v.start:.1f} | {1000 * each:.2f} "
              f"| {1000 * floors[0]:.2f} | {1000 * floors[1]:.2f} | {max(floors) / each:.0%} |", flush=True)


def solvers(project: Path, n: int) -> None:
    """Fidelity of lesions that one generator paints into the same backgrounds under the same masks, by solver and guidance."""
    import pandas as pd

    from meddiff.cases import read_cases, read_image, read_mask
    from meddiff.features import load_extractor
    from meddiff.fidelity import assess, describe
    from meddiff.layout import Layout
    from meddiff.painting import load_painter

    layout, extract = Layout(project), load_extractor().features
    table = pd.concat(pd.read_parquet(path) for path in layout.synthetic.glob("*/batch.parquet")).sort_values("id").head(n)
    grounds = [read_image(layout.backgrounds / f"images/{row.background}.png") for row in table.itertuples()]
    masks = [read_mask(layout.synthetic / row.batch / f"masks/{row.id}.png") for row in table.itertuples()]
    chosen = [i for i, mask in enumerate(masks) if mask.any()]
    painter = load_painter(layout.generator, "cpu")
    sets, seconds = {}, {}
    for solver, steps, guidance in (("ddim", 50, 7.5), ("ddim", 20, 7.5), ("ddim", 50, 1.5), ("ddim", 20, 1.5), ("ddim", 15, 1.5),
                                    ("ddim", 20, 1.0), ("dpmsolver++", 15, 1.5), ("dpmsolver++", 20, 1.5), ("unipc", 15, 1.5)):
        params = GenerateParams(scheduler=solver, steps=steps, guidance_scale=guidance)
        name, pairs, begun = f"{solver}, {steps} steps, guidance {guidance}", [], time.perf_counter()
        for start in range(0, len(chosen), params.batch_size):
            part = chosen[start:start + params.batch_size]
            images = painter.paint([grounds[i] for i in part], [masks[i] for i in part], part, params)
            pairs += [(image, masks[i]) for i, image in zip(part, images, strict=True)]
        seconds[name], sets[name] = time.perf_counter() - begun, describe(extract, pairs)

    def pairs_of(split: str) -> list[tuple[Pixels, Pixels]]:
        return [(case.image, case.mask) for case in read_cases(layout.cases(split)) if case.mask is not None and case.mask.any()]

    found = assess(describe(extract, pairs_of("val")), describe(extract, pairs_of("train"), mirrored=True), sets, "lesion")
    print(f"\n{project.name}: {len(chosen)} lesions, KID against {found.n_reference} held-back images\n\n"
          "| | KID, lesions | KID, whole images | density | coverage | images/s |\n|---|---|---|---|---|---|")
    for name, one in found.sets.items():
        lesion, image, support = one.kid["lesion"], one.kid["image"], one.support["lesion"]
        speed = f"{len(chosen) / seconds[name]:.1f}" if name in seconds else ""
        print(f"| {name} | {lesion.mean:.2f} ± {lesion.deviation:.2f} | {image.mean:.2f} ± {image.deviation:.2f} "
              f"| {support.density:.2f} | {support.coverage:.2f} | {speed} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("embedded", "sd15", "tiny", "solvers"))
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, help="side [pixels]; else 64, of sd15 512, of tiny 32")
    parser.add_argument("--batch", type=int, help="else 16, of sd15 8, of tiny 2")
    parser.add_argument("--only", choices=("training", "generation"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=4, help="steps, or batches, in one turn; the first isn't counted")
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "solvers":
        return solvers(given.project, given.n)
    usual = {"embedded": (64, 16), "sd15": (512, 8), "tiny": (32, 2)}[given.what]
    size, batch = given.size or usual[0], given.batch or usual[1]
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads} CPU threads"
    for name, variants in (("training", training), ("generation", generation)):
        if given.only in {None, name}:
            compare(f"{name}: {given.what}, {size} px, {where}", variants(given.what, given.device, size, batch, given.units),
                    given.device, given.rounds)


if __name__ == "__main__":
    main()
