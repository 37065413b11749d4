"""All samples against the real cases: their files' facts, for the checks of batches, and their scores, for decisions on each."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from meddiff.cases import Case, Pixels
from meddiff.filtering.checks import COMPONENTS
from meddiff.filtering.decisions import Scores, fitted, score
from meddiff.filtering.similarity import RealLesions
from meddiff.lesions.appearance import Scalars
from meddiff.progress import Report, silent
from meddiff.segmentation.segmenter import Segmenter

_EIGHT = np.ones((3, 3))  # pixels that touch at a corner are of one part


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of N samples, in the order of their ids.

    Attributes:
        facts: one row a sample: id, batch, image_sha256, mode, sizes, image_range, components (parts of the mask).
        scores: see `decisions.Scores`.
    """

    facts: pd.DataFrame
    scores: Scores


def measure_samples(samples: pd.DataFrame, read: Callable[[str, str], tuple[Pixels, Pixels]], mode_of: Callable[[str, str], str],
                    real: RealLesions, inspector: Segmenter, size: int, report: Report = silent) -> Measured:
    """Facts and scores of all samples, batch by batch.

    Args:
        samples: id and batch of each.
        read: batch and id -> image `[H, W, 3]` uint8 RGB and mask `[h, w]` uint8 of 0 to K; called from several threads.
        mode_of: batch and id -> Pillow's pixel format of the image file; likewise.
        size: S of the training cases; samples of another size are resampled for their scores, and the checks tell.
        report: called with the number of samples that are measured.
    """
    facts, tables, identity = [], [], list[Scalars]()
    batches, threads = [(str(batch), rows["id"].tolist()) for batch, rows in samples.groupby("batch")], torch.get_num_threads()

    def work(batch: tuple[str, list[str]]) -> tuple[pd.DataFrame, Scores]:
        name, ids = batch
        pairs = [read(name, id) for id in ids]
        images, masks = (np.stack([fitted(pixels, size) for pixels in each]) for each in zip(*pairs, strict=True))
        described = [_facts(id, mode_of(name, id), *pair) for id, pair in zip(ids, pairs, strict=True)]
        return pd.DataFrame(described).assign(batch=name), score(images, masks, real, inspector)

    # A batch a thread: small networks gain less from several threads of their own, and decoding gains nothing.
    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as workers:
        for fact, scores in workers.map(work, batches):
            facts.append(fact)
            tables.append(scores.table)
            identity += scores.identity
            report(len(identity), len(samples), {})
    torch.set_num_threads(threads)
    table, order = pd.concat(facts, ignore_index=True), np.argsort([id for part in facts for id in part["id"]], kind="stable")
    measured = pd.concat(tables, ignore_index=True).iloc[order].reset_index(drop=True)
    return Measured(table.iloc[order].reset_index(drop=True), Scores(measured, [identity[i] for i in order]))


def greatest_components(cases: Sequence[Case]) -> int:
    """The greatest number of parts of a training mask, or what a mask of one lesion may have if that is more."""
    return max(COMPONENTS, *(int(ndimage.label(case.mask, _EIGHT)[1]) for case in cases if case.mask is not None))


def _facts(id: str, mode: str, image: Pixels, mask: Pixels) -> dict[str, object]:
    (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
    return {"id": id, "image_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "mode": mode,
            "width": width, "height": height, "mask_width": mask_width, "mask_height": mask_height,
            "image_range": int(image.max()) - int(image.min()), "components": ndimage.label(mask, _EIGHT)[1]}
