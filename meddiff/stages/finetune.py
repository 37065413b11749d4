"""Stage `finetune`: the foundation learns to paint the lesions of the few annotated cases."""

import json

from meddiff.diffusion.finetuning import finetune
from meddiff.diffusion.foundation import load_foundation
from meddiff.environment import use_machine
from meddiff.layout import Layout, replacing
from meddiff.lesions.seams import real_seams
from meddiff.lesions.texture import texture_ratios
from meddiff.outputs.cases import read_cases
from meddiff.outputs.tables import CASES, LOSSES, write_losses
from meddiff.params import Params
from meddiff.progress import bar
from meddiff.services.tracking import StageRun
from meddiff.stages.resume import checkpoint_file


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Fine-tune `models/foundation` into `models/generator`, with prompts, classes, real texture and seams in `meddiff.json`."""
    params = use_machine(params)
    device = params.compute.device
    cases = read_cases(layout.cases("train"))
    pipeline = load_foundation(str(layout.foundation.resolve()))
    if params.compute.compile:
        pipeline.unet.compile()
    checkpoint = checkpoint_file(layout, "finetune", params.finetune, params.prepare.classes, layout.foundation,
                                 *(layout.cases("train") / name for name in (CASES.name, "masks")))
    with bar("fine-tune generator") as report:
        result = finetune(pipeline, cases, params.finetune, device, checkpoint, report, params.prepare.classes)
    losses = result.losses
    images, masks = [case.image for case in cases], [case.mask for case in cases if case.mask is not None]
    with replacing(layout.generator) as folder:
        pipeline.to("cpu").save_pretrained(folder, safe_serialization=True)
        write_losses(folder, losses)
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
    tracker.file(layout.generator / LOSSES.name)
