"""Stage `mask_model`: learn the shapes and poses of the few annotated lesions."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import ks_2samp

from meddiff import mask_model, shapes
from meddiff.cases import Pixels, read_cases
from meddiff.layout import Layout, replacing
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.stages import checkpoint_file, use_machine
from meddiff.tracking import StageRun

CHECKED = 200  # invented masks that are compared with the real ones


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train on the masks of the annotated training cases, and record how the invented masks compare with them."""
    device = use_machine(params.compute)
    train = layout.cases("train")
    masks = [case.mask for case in read_cases(train) if case.mask is not None and case.mask.any()]
    # The modules belong to the key: weights of an earlier network can't be trained on.
    checkpoint = checkpoint_file(layout, "mask_model", params.mask_model, train / "cases.csv", train / "masks",
                                 *(Path(str(module.__file__)) for module in (mask_model, shapes)))
    begun = time.monotonic()
    with bar("train mask model") as report:
        model, losses = mask_model.fit_mask_model(masks, params.mask_model, device, checkpoint, report)
    seconds = time.monotonic() - begun
    invented = list(model.sample(range(2**30, 2**30 + CHECKED), params.prepare.size))
    table = _comparison(masks, invented)
    with replacing(layout.mask_model) as folder:
        model.save(folder)
        pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(folder / "loss.csv", index=False)
        table.to_csv(folder / "comparison.csv", index=False)
        _contact_sheet(masks, invented).save(folder / "masks.png")
    tracker.metrics({"loss": float(np.mean(losses[-50:])), "seconds": seconds} | _novelty(masks, invented)
                    | {f"ks_p_{row.statistic}": float(row.ks_p_value) for row in table.itertuples()})
    tracker.file(layout.mask_model / "comparison.csv")
    tracker.file(layout.mask_model / "masks.png", "pictures")


def _comparison(real: list[Pixels], invented: list[Pixels]) -> pd.DataFrame:
    """One row a statistic: both medians, and the two-sample Kolmogorov-Smirnov test."""
    ours, theirs = shapes.statistics(invented), shapes.statistics(real)
    return pd.DataFrame([{"statistic": name, "real_median": theirs[name].median(), "invented_median": ours[name].median(),
                          "ks_p_value": ks_2samp(theirs[name], ours[name]).pvalue} for name in theirs])


def _novelty(real: list[Pixels], invented: list[Pixels]) -> dict[str, float]:
    """Overlap of each invented mask with the most alike real one, beside that of the real ones among themselves."""
    nearest = shapes.likeness(invented, real).max(axis=1)
    among = shapes.likeness(real[:CHECKED], real)
    np.fill_diagonal(among, 0)
    return {"nearest_iou_mean": float(nearest.mean()), "nearest_iou_max": float(nearest.max()),
            "nearest_iou_real_mean": float(among.max(axis=1).mean()), "nearest_iou_real_max": float(among.max())}


def _contact_sheet(real: list[Pixels], invented: list[Pixels]) -> Image.Image:
    """Two rows of real masks above three rows of invented ones."""
    size, columns = real[0].shape[0], 12
    sheet = np.full((5 * (size + 4) + 8, columns * (size + 4)), 90, np.uint8)
    for first, masks, rows in ((0, real, 2), (2, invented, 3)):
        for i, mask in enumerate(masks[: rows * columns]):
            y, x = (first + i // columns) * (size + 4) + (8 if first else 0), i % columns * (size + 4)
            sheet[y:y + size, x:x + size] = mask * 255
    return Image.fromarray(sheet)
