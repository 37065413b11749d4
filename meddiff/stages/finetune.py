"""Stage `finetune`: the foundation learns to paint the lesions of the few annotated cases."""

import json

import pandas as pd

from meddiff.cases import read_cases
from meddiff.diffusion.finetuning import finetune
from meddiff.diffusion.foundation import load_foundation
from meddiff.layout import Layout, replacing
from meddiff.lesions.seams import real_seams
from meddiff.lesions.texture import texture_ratios
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.services.tracking import StageRun
from meddiff.stages import checkpoint_file, use_machine


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Fine-tune `models/foundation` into `models/generator`, with prompts, classes, real texture and seams in `meddiff.json`."""
    params = use_machine(params)
    device = params.compute.device
    cases = read_cases(layout.cases("train"))
    pipeline = load_foundation(str(layout.foundation.resolve()))
    if params.compute.compile:
        pipeline.unet.compile()
    checkpoint = checkpoint_file(
        layout,
        "finetune",
        params.finetune,
        json.dumps(params.prepare.classes),
        layout.foundation,
        *(layout.cases("train") / name for name in ("cases.csv", "masks")),
    )
    with bar("fine-tune generator") as report:
        result = finetune(pipeline, cases, params.finetune, device, checkpoint, report, params.prepare.classes)
    losses = result.losses
    images, masks = [case.image for case in cases], [case.mask for case in cases if case.mask is not None]
    with replacing(layout.generator) as folder:
        pipeline.to("cpu").save_pretrained(folder, safe_serialization=True)
        pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(folder / "loss.csv", index=False)
        about = {
            "prompt": result.prompt,
            "classes": list(params.prepare.classes),
            "prompts": result.prompts,
            "texture": texture_ratios(images, masks),
            "seams": real_seams(images, masks),
        }
        (folder / "meddiff.json").write_text(json.dumps(about, indent=1))
    for step in range(0, len(losses), max(1, len(losses) // 50)):
        tracker.metrics({"loss": losses[step]}, step)
    tracker.file(layout.generator / "loss.csv")
