"""The stage on folders as `prepare` and `foundation` leave them, and its generator as the next stages read it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from meddiff.cases import Case, write_image, write_mask
from meddiff.diffusion.inpainting import to_tensor
from meddiff.layout import Layout
from meddiff.painting.painter import load_painter
from meddiff.params import GenerateParams, Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages import finetune
from tests.conftest import make_cases
from tests.pipelines import embedded, stable_diffusion, stable_diffusion_xl


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Six labelled cases of two classes, and an image without annotation."""
    layout, rows = Layout(tmp_path), []
    folder = layout.cases("train")
    for i, case in enumerate(make_cases(7)):
        assert case.mask is not None
        write_image(folder / f"images/{case.id}.png", case.image)
        if i < 6:
            write_mask(folder / f"masks/{case.id}.png", case.mask * np.uint8(1 + i % 2), classes=2)
        rows.append({"id": case.id, "group": case.group, "labelled": str(int(i < 6)), "image_sha256": "", "mask_sha256": ""})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return layout


def _params(**settings: Any) -> Params:
    return Params.model_validate({
        "prepare": {"classes": ["benign", "malignant"]},
        "finetune": {"steps": 2, "batch_size": 4} | settings,
        "compute": {"threads": 1, "device": "cpu"},
    })


@pytest.mark.parametrize(("kind", "settings", "prompt"), [
    ("embedded", {}, "a photo of hta"),
    ("stable diffusion", {"mode": "token"}, "a photo of <hta>"),
    ("xl", {"mode": "lora"}, "a photo of hta"),
])
def test_the_generator_paints_each_class_by_its_prompt(layout: Layout, kind: str, settings: dict[str, Any], prompt: str) -> None:
    cases: list[Case] = make_cases(6)
    pipeline = {
        "embedded": lambda: embedded(torch.stack([to_tensor(case.image) for case in cases])),
        "stable diffusion": stable_diffusion,
        "xl": stable_diffusion_xl,
    }[kind]()
    pipeline.save_pretrained(layout.foundation)
    finetune.run(layout, _params(**settings), Unrecorded())
    about = json.loads((layout.generator / "meddiff.json").read_text())
    assert about["prompt"] == prompt
    assert about["classes"] == ["benign", "malignant"]
    assert about["prompts"] == [f"{prompt} benign", f"{prompt} malignant"]
    assert len(about["texture"]) > 0
    assert about["seams"] == sorted(about["seams"]) != []
    assert len(pd.read_csv(layout.generator / "loss.csv")) == 2
    assert not [path for path in layout.generator.rglob("*") if path.suffix in (".bin", ".pt")]
    painter = load_painter(layout.generator, "cpu")
    assert len(painter.prompts) == 3
    ground, mask = make_cases(1, seed=1, lesion=False)[0].image, cases[0].mask
    assert mask is not None
    first, second = painter.paint([ground] * 2, [mask, mask * np.uint8(2)], [0, 0], GenerateParams(steps=2, guidance_scale=2.0))
    assert not np.array_equal(first[mask > 0], ground[mask > 0])
    assert np.array_equal(first[0], ground[0])
    assert not np.array_equal(first, second)
