"""Batches of samples, painted and written: the units of the stage `generate`."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from meddiff.environment import use_machine
from meddiff.layout import replacing
from meddiff.outputs.rows import SampleRow
from meddiff.outputs.samples import write_batch
from meddiff.painting.synthesizer import Request, Sample, Synthesizer
from meddiff.params import GenerateParams, Params


def load_synthesizer(params: Params, generator: Path, mask_model: Path, backgrounds: Path) -> Synthesizer:
    """The synthesizer of three stages, on the device of this process."""
    params = use_machine(params)
    synthesizer = Synthesizer.load(generator, mask_model, backgrounds, params.compute.device)
    if params.compute.compile:
        synthesizer.painter.pipeline.unet.compile()
    return synthesizer


def make_batches(settings: GenerateParams, model: str, synthesizer: Synthesizer, batches: Sequence[tuple[Path, range]],
                 count: Callable[[int], None]) -> None:
    """Paint and write the batches that aren't there, and count the samples of each: one is written while the next is painted."""
    for _, seeds in ((folder, seeds) for folder, seeds in batches if folder.is_dir()):  # of a worker that died after it
        count(len(seeds))
    batches = [(folder, seeds) for folder, seeds in batches if not folder.is_dir()]
    classes = len(synthesizer.painter.prompts) - 1
    stream = synthesizer.stream(([Request(seed) for seed in seeds] for _, seeds in batches), settings)
    with ThreadPoolExecutor(1) as writer, closing(stream):
        written = deque[Future[int]]()
        for (folder, _), samples in zip(batches, stream, strict=True):
            if written:
                count(written.popleft().result())
            written.append(writer.submit(keep_batch, folder, samples, settings, model, classes))
        if written:
            count(written.popleft().result())


def keep_batch(folder: Path, made: Callable[[], list[Sample]], settings: GenerateParams, model: str, classes: int) -> int:
    """Write a batch of samples, swapped in whole; returns their number."""
    samples = made()
    rows = (SampleRow(
        sample.id, folder.name, sample.seed, sample.background, float((sample.mask > 0).mean()), sample.likeness,
        sample.site_iou, settings.guidance_scale, settings.steps, model) for sample in samples)
    with replacing(folder) as fresh:
        write_batch(fresh, ((row, sample.image, sample.mask) for row, sample in zip(rows, samples, strict=True)), classes)
    return len(samples)
