"""The stage on each kind of source, and Stable Diffusion's kind of folder through the stages that follow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from meddiff.cases import read_image, write_image, write_mask
from meddiff.diffusion.foundation import load_foundation
from meddiff.layout import Layout
from meddiff.masks.model import fit_mask_model
from meddiff.outputs.samples import read_pair
from meddiff.params import MaskModelParams, Params
from meddiff.pretrained import FOUNDATION
from meddiff.services.tracking import Unrecorded
from meddiff.stages import finetune, foundation, generate
from tests.conftest import make_cases
from tests.pipelines import stable_diffusion


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four labelled cases, two without annotation, a mask model and two lesion-free images."""
    layout, rows, cases = Layout(tmp_path / "project"), [], make_cases(6)
    folder = layout.cases("train")
    for i, case in enumerate(cases):
        assert case.mask is not None
        write_image(folder / f"images/{case.id}.png", case.image)
        if i < 4:
            write_mask(folder / f"masks/{case.id}.png", case.mask)
        rows.append({"id": case.id, "group": case.group, "labelled": str(int(i < 4)), "image_sha256": "", "mask_sha256": ""})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    masks = [case.mask for case in cases if case.mask is not None]
    fit_mask_model(masks, MaskModelParams(steps=3, grid=16, batch_size=4), "cpu")[0].save(layout.mask_model)
    for case in make_cases(2, seed=1, lesion=False):
        write_image(layout.backgrounds / f"images/{case.id}.png", case.image)
    return layout


def with_foundation(tiny: Params, **settings: Any) -> Params:
    return Params.model_validate(tiny.model_dump() | {"foundation": settings})


def test_the_embedded_foundation_goes_on_learning_the_images(layout: Layout, tiny: Params) -> None:
    foundation.run(layout, with_foundation(tiny, source="embedded", steps=2, batch_size=2), Unrecorded())
    before, after = load_foundation(str(FOUNDATION)), load_foundation(str(layout.foundation))
    moved = [not torch.equal(a, b) for a, b in zip(before.unet.parameters(), after.unet.parameters(), strict=True)]
    assert np.mean(moved) > 0.9
    assert all(bool(parameter.isfinite().all()) for parameter in after.unet.parameters())
    for name in ("vae", "text_encoder"):
        ours, theirs = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"{name} stays"
    assert len(pd.read_csv(layout.foundation / "loss.csv")) == 2
    assert not [path for path in layout.foundation.rglob("*") if path.suffix in (".bin", ".pt")]

    foundation.run(layout, with_foundation(tiny, source="embedded", steps=0), Unrecorded())
    same = load_foundation(str(layout.foundation))
    assert all(torch.equal(a, b) for a, b in zip(before.unet.parameters(), same.unet.parameters(), strict=True))
    assert not (layout.foundation / "loss.csv").exists()


def test_a_folder_of_stable_diffusions_kind_goes_through_to_samples(layout: Layout, tiny: Params, tmp_path: Path) -> None:
    pipeline, source = stable_diffusion(), tmp_path / "stable-diffusion"
    pipeline.save_pretrained(source)
    params = with_foundation(tiny, source=str(source))
    foundation.run(layout, params, Unrecorded())
    taken = load_foundation(str(layout.foundation))
    assert all(torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), taken.unet.parameters(), strict=True))

    finetune.run(layout, params, Unrecorded())
    tuned = load_foundation(str(layout.generator))
    assert not all(torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), tuned.unet.parameters(), strict=True))
    assert type(tuned.vae).__name__ == "AutoencoderKL"
    assert json.loads((layout.generator / "meddiff.json").read_text())["prompts"] == ["a photo of hta"]

    generate.run(layout, params, Unrecorded())
    table = pd.concat(map(pd.read_parquet, sorted(layout.synthetic.glob("*/batch.parquet"))))
    assert len(table) == tiny.generate.n
    for row in table.itertuples():
        image, mask = read_pair(layout.synthetic, row.batch, row.id)
        mask = mask > 0
        ground = read_image(layout.backgrounds / f"images/{row.background}.png")
        assert (image[mask] != ground[mask]).any()
        assert np.array_equal(image[0], ground[0]) or mask[:2].any()
