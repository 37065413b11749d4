from pathlib import Path

import pytest
import torch

from meddiff.errors import MeddiffError
from meddiff.foundation import load_foundation
from tests.pipelines import stable_diffusion


def test_stable_diffusion_folder_loads(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    assert type(again.vae).__name__ == "AutoencoderKL"
    assert torch.equal(again.unet.conv_in.weight, pipeline.unet.conv_in.weight)


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
