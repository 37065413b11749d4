"""Stage `generate`: synthetic pairs in batches; a batch that is finished is never made again."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.cases import read_image, read_mask, write_image, write_mask
from meddiff.layout import Layout, replacing
from meddiff.lesions.seams import seam
from meddiff.painting.synthesizer import Request, Sample, Synthesizer, bundle
from meddiff.params import GenerateParams, Params
from meddiff.progress import bar, told
from meddiff.services.tracking import StageRun
from meddiff.stages import use_machine, work_key


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `params.generate.n` samples with the seeds that follow `prepare.seed`."""
    params = use_machine(params)
    settings, begun = params.generate, time.monotonic()
    synthesizer = Synthesizer.load(layout.generator, layout.mask_model, layout.backgrounds, params.compute.device)
    if params.compute.compile:
        synthesizer.painter.pipeline.unet.compile()
    model = work_key(layout.generator, layout.mask_model)
    work = layout.work / "generate" / work_key(settings, model, layout.backgrounds)
    classes = len(synthesizer.painter.prompts) - 1
    first, batches = settings.seed * 1_000_000, dict[Path, range]()
    for number, start in enumerate(range(0, settings.n, settings.samples_per_batch)):
        batches[work / f"b{number:04d}"] = range(first + start, first + min(start + settings.samples_per_batch, settings.n))
    missing = [folder for folder in batches if not folder.is_dir()]
    done = settings.n - sum(len(batches[folder]) for folder in missing)
    stream = synthesizer.stream(([Request(seed) for seed in batches[folder]] for folder in missing), settings)
    with bar("generate") as report, ThreadPoolExecutor(1) as writer, closing(stream):
        written: Future[None] | None = None  # a batch is written while the next one is painted
        report(done, settings.n, {})
        for folder, samples in zip(missing, stream, strict=True):
            if written:
                written.result()
            written = writer.submit(_write, folder, samples, settings, model, classes)
            done += len(batches[folder])
            report(done, settings.n, {})
        if written:
            written.result()
    with replacing(layout.synthetic) as fresh:
        shutil.copytree(work, fresh, dirs_exist_ok=True)
    shutil.rmtree(work)
    with replacing(layout.work / "bundle") as folder:
        bundle(folder, layout.generator, layout.mask_model, layout.backgrounds, settings)
        tracker.generator(folder)
    table = pd.concat(pd.read_parquet(path) for path in sorted(layout.synthetic.glob("*/batch.parquet")))
    tracker.dataset(table, "synthetic", "generated")
    tracker.metrics({"samples": float(len(table)), "seconds_per_image": (time.monotonic() - begun) / len(table)})
    alike = table["mask_likeness"]
    tracker.metrics({"mask_likeness_mean": float(alike.mean()), "mask_likeness_max": float(alike.max())})
    if len(replaced := table["site_iou"].dropna()):
        tracker.metrics({"site_iou_mean": float(replaced.mean()), "site_iou_max": float(replaced.max())})
    tracker.metrics(_seams(layout.synthetic, table, synthesizer, settings.rim))


def _seams(folder: Path, table: pd.DataFrame, synthesizer: Synthesizer, rim: int) -> dict[str, float]:
    """Seams at the lesions' borders: mean and 95th percentile, and the mean of the real lesions beside them."""
    found = [
        seam(read_image(folder / row.batch / f"images/{row.id}.png"), read_mask(folder / row.batch / f"masks/{row.id}.png"),
             synthesizer.backgrounds[row.background], rim)
        for row in told("seams", len(table), table.itertuples())
    ]
    known = np.array([value for value in found if np.isfinite(value)])
    painted = {"seam": float(known.mean()), "seam_p95": float(np.quantile(known, 0.95))} if len(known) else {}
    real = synthesizer.painter.seams
    return painted | ({"seam_real": float(np.mean(real))} if real else {})


def _write(folder: Path, made: Callable[[], list[Sample]], settings: GenerateParams, model: str, classes: int) -> None:
    samples = made()
    rows = [{"id": s.id, "batch": folder.name, "seed": s.seed, "background": s.background, "area": float((s.mask > 0).mean()),
             "mask_likeness": s.likeness, "site_iou": s.site_iou,
             "guidance_scale": settings.guidance_scale, "steps": settings.steps, "generator": model} for s in samples]
    with replacing(folder) as fresh:
        for sample in samples:
            write_image(fresh / "images" / f"{sample.id}.png", sample.image)
            write_mask(fresh / "masks" / f"{sample.id}.png", sample.mask, classes)
        pd.DataFrame(rows).to_parquet(fresh / "batch.parquet", index=False)
