"""Segmenters on the test cases: what they predict, and a row of scores for each case, class, arm and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from meddiff.cases import Case, Pixels
from meddiff.progress import Report, silent
from meddiff.segmentation.ensemble import Ensemble
from meddiff.segmentation.metrics import Metric, case_scores, detect
from meddiff.segmentation.segmenter import Segmenter, within_frame

_Predictions = Mapping[tuple[str, int], Pixels]    # `[N, S, S]` of 0 to K by arm and seed


def predict_cases(segmenter: Segmenter | Ensemble, cases: Sequence[Case]) -> Pixels:
    """Masks `[N, S, S]` of 0 to K that a segmenter predicts within the frames of N cases of one size."""
    predicted = segmenter.segment(np.stack([case.image for case in cases]))
    return np.stack([within_frame(prediction, case) for prediction, case in zip(predicted, cases, strict=True)])


def reference_of(case: Case) -> Pixels:
    """The mask `[S, S]` of a case, empty where it has none."""
    return np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask


def score_predictions(predictions: _Predictions, cases: Sequence[Case], strata: Sequence[str], tolerance: float,
                      classes: Sequence[str], report: Report = silent, own: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """One row a case, class, arm and seed: the columns of `per_case.csv`.

    Args:
        strata: of each case by the size of all its lesions.
        tolerance: of the normalised surface distance [pixels].
        classes: their names.
        report: called after each arm and seed.
        own: further scores by their columns.
    """
    rows, masks = [], [reference_of(case) for case in cases]
    for done, ((arm, seed), predicted) in enumerate(predictions.items(), start=1):
        for case, mask, stratum, prediction in zip(cases, masks, strata, predicted, strict=True):
            for label, name in enumerate(classes, start=1):
                scores = case_scores(prediction == label, mask == label, tolerance, case.id)
                rows.append({"case": case.id, "group": case.group, "class": name, "arm": arm, "seed": seed,
                             **asdict(scores), **asdict(detect(prediction == label, mask == label)),
                             "lesion_area": float((mask == label).mean()), "stratum": stratum,
                             **{column: score(prediction == label, mask == label) for column, score in (own or {}).items()}})
        report(done, len(predictions), {})
    return pd.DataFrame(rows)
