"""How a project grows with its synthetic pairs: time, memory and disk of its stages and of DVC, and the catalogue's.

    python benchmarks/growth.py pairs N ...              # in a clone whose chain has run; its params.yaml and outputs change
    python benchmarks/growth.py files N ...              # what DVC takes for the same pictures as two files a pair
    python benchmarks/growth.py catalogue N ...          # rows alone, in the database of MEDDIFF_CATALOG_URL

Pairs are phantoms, drawn and not painted: `generate` finds their batches finished, as a worker that died leaves them, and does
all else. Seconds are of the wall and of the processor; memory is the peak of the largest process.
"""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.cases import write_image, write_mask
from meddiff.datasets.demo import make_phantoms
from meddiff.environment import quiet, use_machine
from meddiff.layout import Layout
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.rows import SampleRow
from meddiff.outputs.samples import write_batch
from meddiff.outputs.shards import write_shard
from meddiff.outputs.tables import BACKGROUNDS, DECISIONS, SAMPLES
from meddiff.painting.synthesizer import model_hash
from meddiff.params.file import load_params, write_params
from meddiff.services import catalog
from meddiff.stages.generate import seeds_of
from meddiff.stages.resume import work_folder

_SIDE, _OTHERS = 64, 10**6  # the demo's phantoms have small seeds, and a test case among the pairs would be a leak


def measured(*words: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak memory [MB] of a command."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    told = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, told[-2000:]
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def disk(*folders: Path) -> tuple[int, float]:
    """Files and megabytes."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files) / 1e6


def draw_batch(job: tuple[Path, range], model: str, backgrounds: Sequence[str]) -> None:
    """Phantoms of a batch, one a seed, as `stages.batches` writes samples."""
    folder, seeds = job
    cases = make_phantoms(len(seeds), True, _SIDE, "mixed", _OTHERS + seeds.start)
    write_batch(folder, ((SampleRow(f"s{seed:010d}", folder.name, seed, backgrounds[seed % len(backgrounds)],
                                    float((case.mask > 0).mean()), math.nan, math.nan, 1.0, 20, model),
                          case.image, np.asarray(case.mask)) for seed, case in zip(seeds, cases, strict=True)))


def plant(layout: Layout, n: int) -> None:
    """Set `generate.n`, and leave all its batches as finished."""
    write_params(layout.params, {"generate": {"n": n}})
    params = use_machine(load_params(layout.params))
    parts = layout.generator, layout.mask_model, layout.backgrounds
    work = work_folder(layout, "generate", params.generate, *parts)
    grounds = [row.id for row in BACKGROUNDS.rows(layout.backgrounds)]
    jobs = [(work / name, seeds) for name, seeds in seeds_of(params.generate).items()]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(draw_batch, model=model_hash(*parts[:2]), backgrounds=grounds), jobs, chunksize=4))


def pairs(n: int) -> None:
    """The stages that touch every pair, DVC, and the reading of the accepted ones."""
    layout = Layout(Path.cwd())
    plant(layout, n)
    rows = {f"`{stage}`": measured("meddiff", stage) for stage in ("generate", "filter")}
    rows["`dvc commit`"] = measured("dvc", "commit", "-f", "-q", "generate", "filter")
    rows["`dvc repro`: segment, evaluate"] = measured("dvc", "repro", "-q")
    rows["`dvc repro`, nothing to do"] = measured("dvc", "repro", "-q")
    rows["`meddiff catalog rebuild`"] = measured("meddiff", "catalog", "rebuild")
    begun = time.monotonic()
    accepted = list_accepted(layout)
    listed = time.monotonic() - begun
    chosen = [accepted[i] for i in sorted(np.random.default_rng(0).permutation(len(accepted))[:400])]
    begun = time.monotonic()
    for pair in chosen:
        pair.read()
    each = (time.monotonic() - begun) / len(chosen)
    files, size = disk(layout.synthetic, layout.filtered)
    for name, (wall, cpu, memory) in rows.items():
        print(f"| {n} | {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    print(f"| {n} | list {len(accepted)} accepted | {listed:.2f} | | |\n| {n} | read one | {each:.4f} | | |\n"
          f"| {n} | synthetic and filtered: {files} files, {size:.0f} MB | | | |", flush=True)


def files(n: int) -> None:
    """DVC with two files a pair."""
    folder = Path("as_files")
    for start in range(0, n, 1000):
        for case in make_phantoms(min(1000, n - start), True, _SIDE, "mixed", start):
            write_image(folder / f"images/{start}_{case.id}.png", case.image)
            write_mask(folder / f"masks/{start}_{case.id}.png", np.asarray(case.mask))
    rows = {"`dvc add`": measured("dvc", "add", "-q", str(folder)),
            "`dvc status`, nothing to do": measured("dvc", "status", "-q", f"{folder}.dvc")}
    for name, (wall, cpu, memory) in rows.items():
        print(f"| {n} | as files: {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    shutil.rmtree(folder)
    Path(f"{folder}.dvc").unlink()


def catalogue(n: int) -> None:
    """Load N samples with their decisions into the database of MEDDIFF_CATALOG_URL, and ask."""
    layout, project = Layout(Path(".work/growth").resolve()), Layout(Path.cwd())
    for folder in ("data", "backgrounds"):
        shutil.copytree(folder, layout.root / folder, dirs_exist_ok=True)
    params, grounds = load_params(project.params), [row.id for row in BACKGROUNDS.rows(layout.backgrounds)]
    settings, decisions = params.generate.model_copy(update={"n": n}), []
    for name, seeds in seeds_of(settings).items():
        rows = SAMPLES.table(SampleRow(f"s{seed:010d}", name, seed, grounds[seed % len(grounds)], 0.1, 0.5, 0.5, 1.0, 20, "made")
                             for seed in seeds)
        write_shard(layout.synthetic / name / SAMPLES.name, rows, {})
        decisions.append(rows[["id", "batch", "area"]])
    layout.filtered.mkdir(exist_ok=True)
    drawn = np.random.default_rng(0).random(n)
    DECISIONS.write(layout.filtered, pd.concat(decisions, ignore_index=True).assign(
        similarity=drawn, nearest="case", agreement=drawn, contrast=9.0, reason=np.where(drawn < 0.7, "", "agreement"),
        verdict=np.where(drawn < 0.7, "accepted", "rejected")))
    checked = {name: {"passed": True, "reasons": []} for name in seeds_of(settings)}
    (layout.filtered / "batches.json").write_text(json.dumps(checked))
    asked: dict[str, Callable[[], object]] = {
        "load": lambda: catalog.rebuild(layout, params), "one sample": lambda: catalog.show(layout, params, f"s{n // 2:010d}"),
        "50 rejected samples": lambda: catalog.find(layout, params, "rejected"),
        "what a patient's images became": lambda: catalog.painted_into(layout, params, "nobody")}
    for name, ask in asked.items():
        seconds = []
        for _ in range(1 if name == "load" else 5):
            begun, cpu = time.monotonic(), time.process_time()
            ask()
            seconds.append(time.monotonic() - begun)
        print(f"| {n} | catalogue: {name} | {np.median(seconds):.3f} | {time.process_time() - cpu:.3f} | "
              f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |", flush=True)
    shutil.rmtree(layout.root)


def main() -> None:
    """A table's rows."""
    kind, *rest = sys.argv[1:]
    print("| pairs | | seconds | of the processor | MB |\n|---|---|---|---|---|", flush=True)
    for n in rest:
        {"pairs": pairs, "files": files, "catalogue": catalogue}[kind](int(n))


if __name__ == "__main__":
    quiet()
    main()
