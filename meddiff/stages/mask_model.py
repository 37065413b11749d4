"""Stage `mask_model`: learn the shapes and poses of the few annotated lesions."""

import time

import numpy as np

from meddiff.environment import use_machine
from meddiff.layout import Layout, replacing
from meddiff.lesions.fields import imaged_field
from meddiff.masks.model import fit_mask_model
from meddiff.masks.sheet import mask_sheet
from meddiff.masks.statistics import comparison, outside
from meddiff.outputs.cases import read_cases
from meddiff.outputs.tables import CASES, COMPARISON, write_losses
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.services.tracking import StageRun
from meddiff.stages.resume import checkpoint_file

CHECKED = 100  # invented masks that are compared with the real ones


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train on the masks of the annotated training cases, and record how the invented masks compare with them."""
    params = use_machine(params)
    device, train = params.compute.device, layout.cases("train")
    pairs = [(case.mask, imaged_field(case.image)) for case in read_cases(train) if case.mask is not None and case.mask.any()]
    masks, fields = [mask for mask, _ in pairs], [field for _, field in pairs]
    checkpoint = checkpoint_file(layout, "mask_model", params.mask_model, train / CASES.name, train / "masks")
    begun = time.monotonic()
    with bar("train mask model") as report:
        model, losses = fit_mask_model(masks, params.mask_model, device, checkpoint, report, fields)
    seconds = time.monotonic() - begun
    around = [fields[i % len(fields)] for i in range(CHECKED)]
    invented = model.invent(range(2**30, 2**30 + CHECKED), params.prepare.size, fields=around)
    with replacing(layout.mask_model) as folder:
        model.save(folder)
        write_losses(folder, losses)
        table = COMPARISON.write(folder, comparison(masks, list(invented.masks)))
        mask_sheet(masks, list(invented.masks)).save(folder / "masks.png")
    among = model.alike
    tracker.metrics({"loss": float(np.mean(losses[-50:])), "seconds": seconds,
                     "nearest_iou_mean": float(invented.alike.mean()), "nearest_iou_max": float(invented.alike.max()),
                     "nearest_iou_real_mean": float(among.mean()), "nearest_iou_real_max": float(among.max()),
                     "copies_drawn_again": float(invented.redrawn), "copies_left": float(invented.copies),
                     "outside_field": outside(invented.masks, around), "outside_field_real": outside(masks, fields)}
                    | {f"ks_p_{name}": float(p) for name, p in zip(table["statistic"], table["ks_p_value"], strict=True)})
    tracker.file(layout.mask_model / COMPARISON.name)
    tracker.file(layout.mask_model / "masks.png", "pictures")
