"""Numbers by which painted samples are judged before any filter."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def count_samples(table: pd.DataFrame, seams: Sequence[float], real: Sequence[float]) -> dict[str, float]:
    """How many, how alike their masks are to what they should not repeat, and how visible their borders are.

    Args:
        table: one row a sample: `mask_likeness` and `site_iou`, see `synthesizer.Sample`.
        seams: of the samples, see `lesions.seams.seam`; NaN where there is none.
        real: seams of real lesions.
    """
    alike, replaced = table["mask_likeness"], table["site_iou"].dropna()
    known = np.array([value for value in seams if np.isfinite(value)])
    numbers = {"samples": float(len(table)), "mask_likeness_mean": float(alike.mean()), "mask_likeness_max": float(alike.max())}
    if len(replaced):
        numbers |= {"site_iou_mean": float(replaced.mean()), "site_iou_max": float(replaced.max())}
    if len(known):
        numbers |= {"seam": float(known.mean()), "seam_p95": float(np.quantile(known, 0.95))}
    return numbers | ({"seam_real": float(np.mean(real))} if real else {})
