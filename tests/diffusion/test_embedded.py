import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from meddiff.cases import Case, write_image
from meddiff.datasets.demo import make_phantoms
from meddiff.diffusion.embedded import LESION, build_embedded, pretrain, random_shapes
from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import to_tensor
from meddiff.painting.painter import Painter, load_painter
from meddiff.params import FoundationParams, GenerateParams
from meddiff.pretrained import FOUNDATION
from meddiff.pretrained.pretraining import gather


def test_embedded_pipeline_is_saved_and_loaded_exactly(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    images = [case.image for case in cases(6)]
    params = FoundationParams(channels=(32, 32), steps=3, batch_size=4)
    pipeline = build_embedded(params, torch.stack([to_tensor(i) for i in images]))
    losses = pretrain(pipeline, images, params, "cpu")
    assert len(losses) == 3
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(again, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt")]


def test_pretraining_lowers_the_loss(cases: Callable[..., list[Case]]) -> None:
    images = [case.image for case in cases(8)]
    params = FoundationParams(channels=(32, 32), steps=60, batch_size=8, learning_rate=3e-3)
    losses = pretrain(build_embedded(params, torch.stack([to_tensor(i) for i in images])), images, params, "cpu")
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_random_shapes_are_binary_and_repeatable() -> None:
    shapes = random_shapes(20, 32, torch.Generator().manual_seed(5))
    assert shapes.shape == (20, 1, 32, 32)
    assert set(shapes.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(shapes, random_shapes(20, 32, torch.Generator().manual_seed(5)))


def test_the_shipped_foundation_tells_lesion_from_no_lesion() -> None:
    """Painted into its phantoms, the lesion prompt gives darker regions than the empty prompt does."""
    painter = load_painter(FOUNDATION, "cpu")
    painter = Painter.of(painter.pipeline, [LESION])
    cases = make_phantoms(8, True, 64, "ultrasound", 77)
    grounds = [case.image for case in make_phantoms(8, False, 64, "ultrasound", 77)]
    masks, seeds, params = [case.mask for case in cases if case.mask is not None], list(range(8)), GenerateParams(steps=10)
    lesions, fills = painter.paint(grounds, masks, seeds, params), painter.erase(grounds, masks, seeds, params)
    darker = [float(fill[mask > 0].mean()) - float(lesion[mask > 0].mean())
              for fill, lesion, mask in zip(fills, lesions, masks, strict=True)]
    assert np.mean(darker) > 10
    assert np.mean([abs(float(fill[mask > 0].mean()) - float(ground[mask > 0].mean()))
                    for fill, ground, mask in zip(fills, grounds, masks, strict=True)]) < 25


def test_the_shipped_foundation_is_small_and_says_what_it_saw() -> None:
    assert sum(path.stat().st_size for path in FOUNDATION.rglob("*")) < 20e6
    facts = json.loads((FOUNDATION / "training.json").read_text())
    assert len(facts["photographs"]) > 1000
    assert all(len(digest) == 64 for digest in facts["photographs"].values())
    assert not [path for path in FOUNDATION.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_pretraining_views_hide_what_their_prompt_says(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    for case in cases(3):
        write_image(tmp_path / f"{case.id}.png", case.image)
    material = gather(sorted(tmp_path.iterdir()), 4)
    assert material.photographs.shape == (3, 3, 128, 128)
    assert len(material.phantoms) == 2 * (4 + 1)
    seen: set[int] = set()
    for seed in range(12):
        drawn = material.draw(torch.Generator().manual_seed(seed), 8)
        assert drawn.pixels.shape[1:] in {(3, 64, 64), (3, 128, 128)}
        assert set(drawn.masks.unique().tolist()) <= {0.0, 1.0}
        assert (drawn.masks.mean(dim=(1, 2, 3)) > 0).all()
        seen |= set(drawn.prompts.tolist())
        again = material.draw(torch.Generator().manual_seed(seed), 8)
        assert torch.equal(drawn.pixels, again.pixels)
        assert torch.equal(drawn.masks, again.masks)
    assert seen == {0, 1, 2}
