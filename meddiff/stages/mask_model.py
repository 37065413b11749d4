"""Stage `mask_model`: learn the shapes and poses of the few annotated lesions."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from meddiff.cases import Pixels, read_cases
from meddiff.layout import Layout, replacing
from meddiff.lesions import shapes
from meddiff.lesions.fields import imaged_field
from meddiff.masks import model as mask_model
from meddiff.masks import placement
from meddiff.masks import statistics as mask_statistics
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.services.tracking import StageRun
from meddiff.stages import checkpoint_file, use_machine

CHECKED = 200  # invented masks that are compared with the real ones


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train on the masks of the annotated training cases, and record how the invented masks compare with them."""
    params = use_machine(params)
    device = params.compute.device
    train = layout.cases("train")
    pairs = [(case.mask, imaged_field(case.image)) for case in read_cases(train) if case.mask is not None and case.mask.any()]
    masks, fields = [mask for mask, _ in pairs], [field for _, field in pairs]
    # The modules belong to the key: weights of an earlier network can't be trained on.
    checkpoint = checkpoint_file(layout, "mask_model", params.mask_model, train / "cases.csv", train / "masks",
                                 *(Path(str(module.__file__)) for module in (mask_model, placement, shapes)))
    begun = time.monotonic()
    with bar("train mask model") as report:
        model, losses = mask_model.fit_mask_model(masks, params.mask_model, device, checkpoint, report, fields)
    seconds = time.monotonic() - begun
    around = [fields[i % len(fields)] for i in range(CHECKED)]
    invented = model.invent(range(2**30, 2**30 + CHECKED), params.prepare.size, fields=around)
    table = mask_statistics.comparison(masks, list(invented.masks))
    with replacing(layout.mask_model) as folder:
        model.save(folder)
        pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(folder / "loss.csv", index=False)
        table.to_csv(folder / "comparison.csv", index=False)
        _contact_sheet(masks, list(invented.masks)).save(folder / "masks.png")
    among = model.alike
    tracker.metrics({"loss": float(np.mean(losses[-50:])), "seconds": seconds,
                     "nearest_iou_mean": float(invented.alike.mean()), "nearest_iou_max": float(invented.alike.max()),
                     "nearest_iou_real_mean": float(among.mean()), "nearest_iou_real_max": float(among.max()),
                     "copies_drawn_again": float(invented.redrawn), "copies_left": float(invented.copies),
                     "outside_field": mask_statistics.outside(invented.masks, around),
                     "outside_field_real": mask_statistics.outside(masks, fields)}
                    | {f"ks_p_{row.statistic}": float(row.ks_p_value) for row in table.itertuples()})
    tracker.file(layout.mask_model / "comparison.csv")
    tracker.file(layout.mask_model / "masks.png", "pictures")


def _contact_sheet(real: list[Pixels], invented: list[Pixels]) -> Image.Image:
    """Two rows of real masks above three rows of invented ones; classes in gray levels."""
    size, columns, classes = real[0].shape[0], 12, max(int(mask.max()) for mask in real)
    sheet = np.full((5 * (size + 4) + 8, columns * (size + 4)), 90, np.uint8)
    for first, masks, rows in ((0, real, 2), (2, invented, 3)):
        for i, mask in enumerate(masks[: rows * columns]):
            y, x = (first + i // columns) * (size + 4) + (8 if first else 0), i % columns * (size + 4)
            sheet[y:y + size, x:x + size] = mask * (255 // classes)
    return Image.fromarray(sheet)
