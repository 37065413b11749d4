"""Stage `foundation`: leave one diffusers inpainting pipeline folder, whatever it came from."""

import time

import torch

from meddiff.diffusion.embedded import build_embedded, pretrain
from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import to_tensor
from meddiff.environment import use_machine
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.tables import LOSSES, write_losses
from meddiff.params import Params
from meddiff.pretrained import FOUNDATION
from meddiff.progress import bar
from meddiff.services.tracking import StageRun
from meddiff.stages.resume import checkpoint_file


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Load `params.foundation.source`; the embedded one, or a new one of its kind, also learns the images without masks."""
    params = use_machine(params)
    begun, device, settings = time.monotonic(), params.compute.device, params.foundation
    losses: list[float] = []
    images = [case.image for case in read_cases(layout.cases("train"), labelled=False)]
    if settings.source == "scratch":
        pipeline = build_embedded(settings, torch.stack([to_tensor(image) for image in images]))
    else:
        pipeline = load_foundation(str(FOUNDATION) if settings.source == "embedded" else settings.source, settings.revision)
    if settings.source in ("embedded", "scratch") and settings.steps:
        checkpoint = checkpoint_file(layout, "foundation", settings, layout.cases("train"))
        with bar("train foundation") as report:
            losses = pretrain(pipeline, images, settings, device, checkpoint, report)
    with replacing(layout.foundation) as folder:
        pipeline.to("cpu").save_pretrained(folder, safe_serialization=True)
        if losses:
            write_losses(folder, losses)
    if losses:
        tracker.metrics({"loss": sum(losses[-50:]) / len(losses[-50:])})
        tracker.file(layout.foundation / LOSSES.name)
    tracker.metrics(
        {"parameters": float(sum(p.numel() for p in pipeline.unet.parameters())), "seconds_total": time.monotonic() - begun}
    )
