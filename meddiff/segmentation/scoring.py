"""Segmenters on validation and test cases: what they predict, and a row of scores for each case, class, arm and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from meddiff.cases import Case, Pixels
from meddiff.progress import Report, silent
from meddiff.segmentation.decision import Findings
from meddiff.segmentation.ensemble import Ensemble
from meddiff.segmentation.metrics import Metric, case_scores, detect, dice
from meddiff.segmentation.segmenter import Segmenter
from meddiff.segmentation.validation import validation_scores, within_frame

_Predictions = Mapping[tuple[str, int], Findings]    # by arm and seed


def predict_cases(segmenter: Segmenter | Ensemble, cases: Sequence[Case]) -> Findings:
    """What a segmenter finds in N cases of one size, within their frames."""
    findings = segmenter.findings(np.stack([case.image for case in cases]))
    masks = [within_frame(prediction, case) for prediction, case in zip(findings.masks, cases, strict=True)]
    return replace(findings, masks=np.stack(masks))


def validate_cases(segmenter: Segmenter, cases: Sequence[Case], arm: str, seed: int) -> pd.DataFrame:
    """One row a validation case: the columns of `validation_cases.csv`."""
    findings = predict_cases(segmenter, cases)
    return pd.DataFrame({"case": [case.id for case in cases], "group": [case.group for case in cases], "arm": arm, "seed": seed,
                         "dice": validation_scores(findings.decided, cases, segmenter.architecture.classes),
                         "silent": [int(not mask.any()) for mask in findings.decided]})


def reference_of(case: Case) -> Pixels:
    """The mask `[S, S]` of a case, empty where it has none."""
    return np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask


def score_predictions(predictions: _Predictions, cases: Sequence[Case], strata: Sequence[str], tolerance: float,
                      classes: Sequence[str], report: Report = silent, own: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """One row a case, class, arm and seed: the columns of `per_case.csv`.

    Args:
        predictions: masks within the frames.
        strata: of each case by the size of all its lesions.
        tolerance: of the normalised surface distance [pixels].
        classes: their names.
        report: called after each arm and seed.
        own: further scores by their columns.
    """
    rows, masks = [], [reference_of(case) for case in cases]
    for done, ((arm, seed), findings) in enumerate(predictions.items(), start=1):
        for case, mask, stratum, prediction, raw in zip(cases, masks, strata, findings.decided, findings.masks, strict=True):
            for label, name in enumerate(classes, start=1):
                scores = case_scores(prediction == label, mask == label, tolerance, case.id)
                rows.append({"case": case.id, "group": case.group, "class": name, "arm": arm, "seed": seed,
                             **asdict(scores), **asdict(detect(prediction == label, mask == label)),
                             "lesion_area": float((mask == label).mean()), "stratum": stratum,
                             "dice_undecided": dice(raw == label, mask == label),
                             **{column: score(prediction == label, mask == label) for column, score in (own or {}).items()}})
        report(done, len(predictions), {})
    return pd.DataFrame(rows)
