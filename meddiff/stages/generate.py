"""Stage `generate`: synthetic pairs in batches; a batch that is finished is never made again."""

import math
import shutil
import time
from functools import partial

from meddiff.cluster import share_out
from meddiff.environment import use_machine
from meddiff.finished import forget
from meddiff.layout import Layout, replacing
from meddiff.lesions.seams import seam
from meddiff.outputs.samples import read_pair, read_samples
from meddiff.outputs.tables import SAMPLES
from meddiff.painting.counts import count_samples
from meddiff.painting.synthesizer import bundle, model_hash
from meddiff.params import GenerateParams, Params
from meddiff.progress import bar, with_progress
from meddiff.services.tracking import StageRun
from meddiff.stages.batches import load_synthesizer, make_batches
from meddiff.stages.resume import work_folder

_LEAST, _MOST = 25, 400  # samples of a batch, and batches, where the settings leave it open


def seeds_of(settings: GenerateParams) -> dict[str, range]:
    """The batches by their names: the seeds of each one's samples."""
    size, first = settings.samples_per_batch or max(_LEAST, math.ceil(settings.n / _MOST)), settings.seed * 1_000_000
    return {f"b{number:04d}": range(first + start, first + min(start + size, settings.n))
            for number, start in enumerate(range(0, settings.n, size))}


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `params.generate.n` samples with the seeds that follow `prepare.seed`."""
    params, layout, done = use_machine(params), Layout(layout.root.resolve()), 0
    settings, begun, parts = params.generate, time.monotonic(), (layout.generator, layout.mask_model, layout.backgrounds)
    synthesizer = load_synthesizer(params, *parts)
    work = work_folder(layout, "generate", settings, *parts)
    batches = {work / name: seeds for name, seeds in seeds_of(settings).items()}
    with bar("generate") as report:
        def count(made: int) -> None:
            nonlocal done
            done += made
            report(done, settings.n, {})

        load = partial(load_synthesizer, params, *parts)
        make = partial(make_batches, settings, model_hash(layout.generator, layout.mask_model))
        share_out(list(batches.items()), load, make, count, params.compute, synthesizer)
    with replacing(layout.synthetic) as fresh:
        shutil.copytree(work, fresh, dirs_exist_ok=True)
    forget(work.parent, [work])  # this stays: whatever ends the stage or DVC from here on costs no batch
    with replacing(layout.work / "bundle") as folder:
        bundle(folder, *parts, settings)
        tracker.generator(folder)
    table = read_samples(layout.synthetic, *SAMPLES.columns)
    tracker.dataset(table, "synthetic", "generated")
    tracker.metrics({"seconds_per_image": (time.monotonic() - begun) / len(table)})
    seams = [seam(*read_pair(layout.synthetic, row.batch, row.id), synthesizer.backgrounds[row.background], settings.rim)
             for row in with_progress("seams", len(table), table.itertuples())]
    tracker.metrics(count_samples(table, seams, synthesizer.painter.seams))
