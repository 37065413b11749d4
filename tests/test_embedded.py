from collections.abc import Callable
from pathlib import Path

import torch

from meddiff.cases import Case
from meddiff.embedded import build_embedded, pretrain, random_shapes
from meddiff.foundation import load_foundation
from meddiff.inpainting import to_tensor
from meddiff.params import FoundationParams


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
