from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from meddiff.cases import Case
from meddiff.errors import MeddiffError
from meddiff.foundation import build_embedded, load_foundation, pretrain, random_shapes
from meddiff.inpainting import to_tensor
from meddiff.params import FoundationParams
from tests.pipelines import stable_diffusion


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


def test_stable_diffusion_folder_loads(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    assert type(again.vae).__name__ == "AutoencoderKL"
    assert torch.equal(again.unet.conv_in.weight, pipeline.unet.conv_in.weight)


def test_random_shapes_are_binary_and_repeatable() -> None:
    shapes = random_shapes(20, 32, torch.Generator().manual_seed(5))
    assert shapes.shape == (20, 1, 32, 32)
    assert set(shapes.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(shapes, random_shapes(20, 32, torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(("source", "revision", "rule"), [
    ("/nowhere/model", None, "the model folder must be there"),
    ("someone/model", None, "needs foundation.revision"),
    ("someone/model", "0123abc", "must load"),
])
def test_missing_model_is_one_clear_error(source: str, revision: str | None, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MeddiffError, match=rule):
        load_foundation(source, revision)


def test_folder_without_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"model_index\.json"):
        load_foundation(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(MeddiffError, match="safetensors"):
        load_foundation(str(tmp_path))


def test_text_to_image_model_is_refused(tmp_path: Path) -> None:
    stable_diffusion(in_channels=4).save_pretrained(tmp_path)
    with pytest.raises(MeddiffError, match="inpainting UNet"):
        load_foundation(str(tmp_path))
