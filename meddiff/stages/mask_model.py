"""Stage `mask_model`: learn the shapes and poses of the few annotated lesions."""

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import ks_2samp

from meddiff.cases import Pixels, read_cases
from meddiff.layout import Layout, replacing
from meddiff.mask_model import fit_mask_model
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.shapes import novelty, statistics
from meddiff.stages import checkpoint_file, use_machine
from meddiff.tracking import StageRun

CHECKED = 100  # invented masks that are compared with the real ones


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train on the masks of the annotated training cases, and record how the invented masks compare with them."""
    device = use_machine(params.compute)
    masks = [case.mask for case in read_cases(layout.cases("train")) if case.mask is not None and case.mask.any()]
    checkpoint = checkpoint_file(layout, "mask_model", params.mask_model, layout.cases("train") / "cases.csv", layout.cases("train") / "masks")
    with bar("train mask model") as report:
        model, losses = fit_mask_model(masks, params.mask_model, device, checkpoint, report)
    invented = list(model.sample(range(2**30, 2**30 + CHECKED), params.prepare.size))
    with replacing(layout.mask_model) as folder:
        model.save(folder)
        pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(folder / "loss.csv", index=False)
        real, made = statistics(masks), statistics(invented)
        table = pd.DataFrame([{"statistic": name, "real_median": real[name].median(), "invented_median": made[name].median(),
                               "ks_p_value": ks_2samp(real[name], made[name]).pvalue} for name in real])
        table.to_csv(folder / "comparison.csv", index=False)
        _contact_sheet(masks, invented).save(folder / "masks.png")
    nearest = novelty(invented, masks)
    tracker.metrics({"loss": float(np.mean(losses[-50:])), "nearest_iou_mean": float(nearest.mean()), "nearest_iou_max": float(nearest.max())}
                    | {f"ks_p_{row.statistic}": float(row.ks_p_value) for row in table.itertuples()})
    tracker.file(layout.mask_model / "comparison.csv")
    tracker.file(layout.mask_model / "masks.png", "pictures")


def _contact_sheet(real: list[Pixels], invented: list[Pixels]) -> Image.Image:
    """Two rows of real masks above three rows of invented ones."""
    size, columns = real[0].shape[0], 12
    sheet = np.full((5 * (size + 4) + 8, columns * (size + 4)), 90, np.uint8)
    for first, masks, rows in ((0, real, 2), (2, invented, 3)):
        for i, mask in enumerate(masks[: rows * columns]):
            y, x = (first + i // columns) * (size + 4) + (8 if first else 0), i % columns * (size + 4)
            sheet[y:y + size, x:x + size] = mask * 255
    return Image.fromarray(sheet)
