"""Stage `foundation`: leave one diffusers inpainting pipeline folder, whatever it came from."""

import time

import pandas as pd
import torch

from meddiff.cases import read_cases
from meddiff.embedded import build_embedded, pretrain
from meddiff.foundation import load_foundation
from meddiff.inpainting import to_tensor
from meddiff.layout import Layout, replacing
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.stages import checkpoint_file, use_machine
from meddiff.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Load `params.foundation.source`, or build the embedded pipeline and pretrain it on the training images without masks."""
    begun, device, losses = time.monotonic(), use_machine(params.compute), []
    if params.foundation.source != "embedded":
        pipeline = load_foundation(params.foundation.source, params.foundation.revision)
    else:
        images = [case.image for case in read_cases(layout.cases("train"), labelled=False)]
        pipeline = build_embedded(params.foundation, torch.stack([to_tensor(image) for image in images]))
        checkpoint = checkpoint_file(layout, "foundation", params.foundation, layout.cases("train"))
        with bar("pretrain foundation") as report:
            losses = pretrain(pipeline, images, params.foundation, device, checkpoint, report)
    with replacing(layout.foundation) as folder:
        pipeline.to("cpu").save_pretrained(folder, safe_serialization=True)
        if losses:
            pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(folder / "loss.csv", index=False)
    if losses:
        tracker.metrics({"loss": sum(losses[-50:]) / len(losses[-50:])})
        tracker.file(layout.foundation / "loss.csv")
    tracker.metrics(
        {"parameters": float(sum(p.numel() for p in pipeline.unet.parameters())), "seconds_total": time.monotonic() - begun}
    )
