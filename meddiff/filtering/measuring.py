"""All samples against the real cases: their files' facts, for the checks of batches, and their scores, for decisions on each."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from meddiff.cases import Case, Pixels
from meddiff.filtering.checks import COMPONENTS
from meddiff.filtering.decisions import Scores, fitted, score
from meddiff.filtering.features import Extractor, load_extractor
from meddiff.filtering.similarity import RealLesions, measure_real
from meddiff.params import FilterParams
from meddiff.progress import Report, silent
from meddiff.segmentation.segmenter import Segmenter

_EIGHT = np.ones((3, 3))  # pixels that touch at a corner are of one part
SampleBatch = tuple[str, list[str]]  # its name, and the ids of its samples
BatchScores = tuple[pd.DataFrame, Scores]  # facts and scores of a batch


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of N samples, in the order of their ids.

    Attributes:
        facts: one row a sample: id, batch, image_sha256, mode, sizes, image_range, components (parts of the mask).
        scores: see `decisions.Scores`.
    """

    facts: pd.DataFrame
    scores: Scores


@dataclass(frozen=True, eq=False)
class Judge:
    """What batches are measured by.

    Attributes:
        cases: annotated training cases.
        extractor: of the feature space.
        inspector: see `decisions.score`.
        read: batch and id -> image `[H, W, 3]` uint8 RGB and mask `[h, w]` uint8 of 0 to K; called from several threads.
        mode_of: batch and id -> Pillow's pixel format of the image; likewise.
    """

    cases: Sequence[Case]
    extractor: Extractor
    inspector: Segmenter
    read: Callable[[str, str], tuple[Pixels, Pixels]]
    mode_of: Callable[[str, str], str]

    @classmethod
    def load(cls, folder: Path, cases: Sequence[Case], settings: FilterParams, device: str,
             read: Callable[[str, str], tuple[Pixels, Pixels]], mode_of: Callable[[str, str], str]) -> "Judge":
        """With the inspector of a folder, and the extractor of the settings.

        Raises:
            MeddiffError: the inspector is missing, or the extractor doesn't load.
        """
        inspector = Segmenter.load(folder, device, "backgrounds")
        extractor = load_extractor(settings.extractor, settings.extractor_revision, device, inspector)
        return cls(cases, extractor, inspector, read, mode_of)

    @cached_property
    def real(self) -> RealLesions:
        """The cases' lesions."""
        return measure_real(self.cases, self.extractor)

    @property
    def size(self) -> int:
        """S of the training cases; samples of another size are resampled for their scores, and the checks tell."""
        return len(self.cases[0].image)

    def measure(self, batches: Sequence[SampleBatch], receive: Callable[[BatchScores], None]) -> None:
        """Facts and scores, a batch a thread: small networks gain less from threads of their own, and decoding gains nothing."""
        threads, real = torch.get_num_threads(), self.real

        def work(batch: SampleBatch) -> BatchScores:
            name, ids = batch
            pairs = [self.read(name, id) for id in ids]
            images, masks = (np.stack([fitted(pixels, self.size) for pixels in each]) for each in zip(*pairs, strict=True))
            described = [_facts(id, self.mode_of(name, id), *pair) for id, pair in zip(ids, pairs, strict=True)]
            return pd.DataFrame(described).assign(batch=name), score(images, masks, real, self.inspector)

        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as workers:
            for part in workers.map(work, batches):
                receive(part)
        torch.set_num_threads(threads)


def measure_samples(samples: pd.DataFrame, measure: Callable[[Sequence[SampleBatch], Callable[[BatchScores], None]], None],
                    report: Report = silent) -> Measured:
    """Facts and scores of all samples, batch by batch.

    Args:
        samples: id and batch of each.
        measure: `Judge.measure` here, or of many in other processes.
        report: called with the number of samples that are measured.
    """
    parts, done = list[BatchScores](), 0

    def receive(part: BatchScores) -> None:
        nonlocal done
        parts.append(part)
        done += len(part[0])
        report(done, len(samples), {})

    measure([(str(batch), rows["id"].tolist()) for batch, rows in samples.groupby("batch")], receive)
    table = pd.concat([facts for facts, _ in parts], ignore_index=True)
    identity = [own for _, scores in parts for own in scores.identity]
    order = np.argsort(table["id"].to_numpy(str), kind="stable")
    measured = pd.concat([scores.table for _, scores in parts], ignore_index=True).iloc[order].reset_index(drop=True)
    return Measured(table.iloc[order].reset_index(drop=True), Scores(measured, [identity[i] for i in order]))


def greatest_components(cases: Sequence[Case]) -> int:
    """The greatest number of parts of a training mask, or what a mask of one lesion may have if that is more."""
    return max(COMPONENTS, *(int(ndimage.label(case.mask, _EIGHT)[1]) for case in cases if case.mask is not None))


def _facts(id: str, mode: str, image: Pixels, mask: Pixels) -> dict[str, object]:
    (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
    return {"id": id, "image_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "mode": mode,
            "width": width, "height": height, "mask_width": mask_width, "mask_height": mask_height,
            "image_range": int(image.max()) - int(image.min()), "components": ndimage.label(mask, _EIGHT)[1]}
