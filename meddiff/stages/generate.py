"""Stage `generate`: synthetic pairs in batches; a batch that is finished is never made again."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from meddiff.cases import write_image, write_mask
from meddiff.environment import use_machine
from meddiff.layout import Layout, replacing
from meddiff.lesions.seams import seam
from meddiff.outputs.rows import SampleRow
from meddiff.outputs.samples import read_pair, read_samples
from meddiff.outputs.tables import SAMPLES
from meddiff.painting.counts import count_samples
from meddiff.painting.synthesizer import Request, Sample, Synthesizer, bundle, model_hash
from meddiff.params import GenerateParams, Params
from meddiff.progress import bar, with_progress
from meddiff.services.tracking import StageRun
from meddiff.stages.resume import work_folder


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `params.generate.n` samples with the seeds that follow `prepare.seed`."""
    params = use_machine(params)
    settings, begun, parts = params.generate, time.monotonic(), (layout.generator, layout.mask_model, layout.backgrounds)
    synthesizer = Synthesizer.load(*parts, params.compute.device)
    if params.compute.compile:
        synthesizer.painter.pipeline.unet.compile()
    work, first = work_folder(layout, "generate", settings, *parts), settings.seed * 1_000_000
    batches = {work / f"b{number:04d}": range(first + start, first + min(start + settings.samples_per_batch, settings.n))
               for number, start in enumerate(range(0, settings.n, settings.samples_per_batch))}
    _make(synthesizer, batches, settings, model_hash(layout.generator, layout.mask_model))
    with replacing(layout.synthetic) as fresh:
        shutil.copytree(work, fresh, dirs_exist_ok=True)
    shutil.rmtree(work)
    with replacing(layout.work / "bundle") as folder:
        bundle(folder, *parts, settings)
        tracker.generator(folder)
    table = read_samples(layout.synthetic, *SAMPLES.columns)
    tracker.dataset(table, "synthetic", "generated")
    tracker.metrics({"seconds_per_image": (time.monotonic() - begun) / len(table)})
    seams = [seam(*read_pair(layout.synthetic, row.batch, row.id), synthesizer.backgrounds[row.background], settings.rim)
             for row in with_progress("seams", len(table), table.itertuples())]
    tracker.metrics(count_samples(table, seams, synthesizer.painter.seams))


def _make(synthesizer: Synthesizer, batches: dict[Path, range], settings: GenerateParams, model: str) -> None:
    """Paint and write the batches that aren't there."""
    missing = [folder for folder in batches if not folder.is_dir()]
    done, classes = settings.n - sum(len(batches[folder]) for folder in missing), len(synthesizer.painter.prompts) - 1
    stream = synthesizer.stream(([Request(seed) for seed in batches[folder]] for folder in missing), settings)
    with bar("generate") as report, ThreadPoolExecutor(1) as writer, closing(stream):
        written: Future[None] | None = None  # a batch is written while the next one is painted
        report(done, settings.n, {})
        for folder, samples in zip(missing, stream, strict=True):
            if written:
                written.result()
            written = writer.submit(write_batch, folder, samples, settings, model, classes)
            done += len(batches[folder])
            report(done, settings.n, {})
        if written:
            written.result()


def write_batch(folder: Path, made: Callable[[], list[Sample]], settings: GenerateParams, model: str, classes: int) -> None:
    """Write a batch of samples, swapped in whole."""
    samples = made()
    with replacing(folder) as fresh:
        for sample in samples:
            write_image(fresh / "images" / f"{sample.id}.png", sample.image)
            write_mask(fresh / "masks" / f"{sample.id}.png", sample.mask, classes)
        SAMPLES.write(fresh, (
            SampleRow(sample.id, folder.name, sample.seed, sample.background, float((sample.mask > 0).mean()), sample.likeness,
                      sample.site_iou, settings.guidance_scale, settings.steps, model) for sample in samples))
