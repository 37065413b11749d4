"""What the filter finds, and how fast.

    python benchmarks/filter.py separation DATASET [--size 128] [--extractor lesion] [--draws 5]
    python benchmarks/filter.py speed PROJECT
    python benchmarks/filter.py search

DATASET holds images/ID.jpg, masks/ID.png, split.json, groups.json and, it may be, lesion-free images in normal/. PROJECT is a
folder whose stages before `filter` have run.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from floors import count, machine  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402

from meddiff.cases import Case, Pixels  # noqa: E402
from meddiff.filtering.duplicates import repeats  # noqa: E402
from meddiff.filtering.features import load_extractor  # noqa: E402
from meddiff.filtering.similarity import measure_real  # noqa: E402
from meddiff.outputs.cases import read_cases  # noqa: E402
from meddiff.params import FilterParams, SegmentParams  # noqa: E402
from meddiff.segmentation.inspector import train_inspector  # noqa: E402

REFERENCES, HELD, USED = 40, 110, 50
BOUNDS = FilterParams()
Pairs = tuple[Pixels, Pixels]


def read(folder: Path, ids: list[str], size: int) -> list[Case]:
    groups, cases = json.loads((folder / "groups.json").read_text()), []
    for id in ids:
        with Image.open(folder / f"images/{id}.jpg") as image, Image.open(folder / f"masks/{id}.png") as mask:
            pixels = np.array(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
            inside = np.array(mask.convert("L").resize((size, size), Image.Resampling.NEAREST)) > 0
        if inside.sum() >= 20:
            cases.append(Case(id, pixels, inside.astype(np.uint8), str(groups.get(id, id))))
    return cases


def stacked(cases: list[Case]) -> Pairs:
    return np.stack([case.image for case in cases]), np.stack([case.mask for case in cases if case.mask is not None])


def moved(case: Case, rng: np.random.Generator) -> Pairs:
    """The image and its mask rolled so that the lesion lies anywhere in the frame."""
    assert case.mask is not None
    shift = []
    for axis in (0, 1):
        hit = np.flatnonzero(case.mask.any(axis=1 - axis))
        shift.append(int(rng.integers(-hit[0], len(case.mask) - hit[-1])))
    return np.roll(case.image, shift, (0, 1)), np.roll(case.mask, shift, (0, 1))


def pasted(cases: list[Case], grounds: list[Pixels], rng: np.random.Generator,
           content: Callable[[Pixels], Pixels] = lambda image: image) -> Pairs:
    """Each lesion, or other content in its outline, softly on a background of another image."""
    pairs = []
    for case in cases:
        image, mask = moved(case, rng)
        soft = ndimage.gaussian_filter(mask.astype(float), 1)[:, :, None]
        ground = grounds[rng.integers(len(grounds))]
        pairs.append(((content(image) * soft + ground * (1 - soft)).astype(np.uint8), mask))
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def turned(case: Case, rng: np.random.Generator) -> Case:
    assert case.mask is not None
    angle = rng.uniform(-12, 12)
    return Case(case.id, ndimage.rotate(case.image, angle, reshape=False, order=1, mode="nearest"),
                ndimage.rotate(case.mask, angle, reshape=False, order=0), case.group)


def bare(cases: list[Case], grounds: list[Pixels], rng: np.random.Generator) -> Pairs:
    """Outlines of lesions on backgrounds that hold none."""
    masks = np.stack([moved(case, rng)[1] for case in cases])
    return np.stack([grounds[rng.integers(len(grounds))] for _ in cases]), masks


def scenes(real: list[Case], held: list[Case], grounds: list[Pixels], rng: np.random.Generator) -> dict[str, Pairs]:
    few = held[:USED]
    return {
        "held-out real lesions": stacked(held),
        "copies": pasted(real, grounds, rng),
        "copies turned by 12°": pasted([turned(case, rng) for case in real], grounds, rng),
        "noise": pasted(few, grounds, rng, lambda image: rng.integers(0, 256, (*image.shape[:2], 1)).repeat(3, 2)),
        "flat gray": pasted(few, grounds, rng, lambda image: np.full_like(image, 60)),
        "nothing": bare(few, grounds, rng),
    }


def separation(folder: Path, size: int, source: str, draws: int) -> None:
    training = json.loads((folder / "split.json").read_text())["train"]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        ids = rng.permutation(training).tolist()
        real = read(folder, ids[:REFERENCES], size)
        groups = {case.group for case in real}
        held = [case for case in read(folder, ids[REFERENCES:REFERENCES + HELD], size) if case.group not in groups]
        paths = sorted((folder / "normal").glob("*"))[:60]
        grounds = [np.array(Image.open(path).convert("RGB").resize((size, size))) for path in paths]
        grounds = grounds or [case.image for case in held if case.mask is not None and case.mask.mean() < 0.1]
        inspector = train_inspector(real, SegmentParams(steps=150), 0) if source == "inspector" else None
        measure = measure_real(real, load_extractor(source, inspector=inspector))
        for name, pairs in scenes(real, held, grounds, rng).items():
            likeness = measure.compare(*pairs)
            found[name].append((float((likeness.least < BOUNDS.similarity_low).mean()),
                                float((likeness.greatest > BOUNDS.similarity_high).mean())))
    print(f"{folder.name}, {size} px, {source}, {draws} draws of {REFERENCES} references")
    for name, shares in found.items():
        implausible, copy = np.mean(shares, axis=0)
        print(f"{name:22} implausible {implausible:4.0%}  copy {copy:4.0%}")


def speed(project: Path) -> None:
    from meddiff.filtering.decisions import score
    from meddiff.filtering.measuring import Judge, measure_samples
    from meddiff.layout import Layout
    from meddiff.outputs.samples import read_mode, read_pair, read_samples
    from meddiff.segmentation.segmenter import Segmenter

    torch.set_num_threads(2)
    layout = Layout(project)
    cases, samples = read_cases(layout.cases("train")), read_samples(layout.synthetic)
    judge = Judge(cases, load_extractor(), Segmenter.load(layout.inspector), partial(read_pair, layout.synthetic),
                  partial(read_mode, layout.synthetic))
    real, inspector = judge.real, judge.inspector
    clocks = []
    for _ in range(6):
        begun = time.perf_counter(), time.process_time()
        measure_samples(samples, judge.measure)
        clocks.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    wall, cpu = np.array(clocks[1:]).T
    name, rows = next(iter(samples.groupby("batch")))
    images, masks = map(np.stack, zip(*(read_pair(layout.synthetic, str(name), id) for id in rows["id"]), strict=True))
    able, work = machine("cpu"), count(lambda: score(images, masks, real, inspector))
    floors = [1000 * seconds / len(rows) for seconds in able.floors(work)]
    print(f"{len(samples)} samples: best {len(samples) / wall.min():.0f}/s, median {len(samples) / np.median(wall):.0f}/s, "
          f"{1000 * np.median(cpu) / len(samples):.1f} ms of CPU a sample; floors of its network: operations {floors[0]:.2f}, "
          f"bytes {floors[1]:.2f} ms a sample ({able})")
    whole(project, len(samples))


def whole(project: Path, n: int) -> None:
    """The stage from its inputs to its page: also corrosion, fidelity, seams, checks and pictures. PROJECT stays as it is."""
    from tempfile import TemporaryDirectory

    from meddiff.layout import Layout
    from meddiff.params.file import load_params
    from meddiff.services.tracking import Unrecorded
    from meddiff.stages import filter as stage

    params = load_params(project / "params.yaml")
    params = params.model_copy(update={"compute": params.compute.model_copy(update={"threads": 2})})
    with TemporaryDirectory() as folder:
        for name in ("data", "models", "synthetic"):
            (Path(folder) / name).symlink_to((project / name).resolve())
        begun = time.perf_counter(), time.process_time()
        stage.run(Layout(Path(folder)), params, Unrecorded())
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    print(f"the whole stage: {wall:.1f} s, {n / wall:.0f} samples/s, {1000 * cpu / n:.1f} ms of CPU a sample")


def search() -> None:
    """Vectors as similar to each other as fingerprints of lesions are, every tenth a repeat of an earlier one."""
    rng = np.random.default_rng(0)
    for n in (1000, 10_000, 100_000):
        vectors = rng.normal(size=(n, 257)) / (1 + np.arange(257)) ** 0.5
        later = np.arange(1, n, 10)
        earlier = (rng.random(len(later)) * later).astype(int) // 10 * 10  # none of them a repeat itself
        vectors[later] = vectors[earlier] + 0.01 * rng.normal(size=(len(later), 257)) / 16
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        begun = time.process_time()
        repeated = repeats(list(vectors[:, None]), 0.5)
        seconds = time.process_time() - begun
        print(f"{n:7} samples: {1e6 * seconds / n:6.0f} us of CPU a sample; found {repeated[later].mean():.2%} of the repeats, "
              f"{repeated.sum() - repeated[later].sum()} others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("separation", "speed", "search"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--extractor", default="lesion")
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    if given.what == "search":
        search()
    elif given.what == "speed":
        speed(given.folder)
    else:
        separation(given.folder, given.size, given.extractor, given.draws)


if __name__ == "__main__":
    main()
