import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from meddiff.diffusion.foundation import load_foundation
from meddiff.errors import MeddiffError
from tests.pipelines import stable_diffusion, stable_diffusion_xl

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_stable_diffusion_folder_loads(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    assert type(again.vae).__name__ == "AutoencoderKL"
    assert torch.equal(again.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    again.save_pretrained(tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*.json") if str(tmp_path) in path.read_text()]


def test_parts_that_are_not_used_and_classes_that_are_gone_do_no_harm(tmp_path: Path) -> None:
    """The published folders name a safety checker and a feature extractor, some by a class that transformers dropped."""
    stable_diffusion().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    }
    del index["image_encoder"], index["requires_safety_checker"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipeline = load_foundation(str(tmp_path))
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None


def test_no_scheduler_will_clip_latents(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    assert DDIMScheduler.from_config(pipeline.scheduler.config).config.clip_sample
    pipeline.save_pretrained(tmp_path / "a")
    loaded = load_foundation(str(tmp_path / "a"))
    loaded.save_pretrained(tmp_path / "b")
    for scheduler in (loaded.scheduler, load_foundation(str(tmp_path / "b")).scheduler):
        assert not DDIMScheduler.from_config(scheduler.config).config.clip_sample


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    stable_diffusion().to(torch.float16, silence_dtype_warnings=True).save_pretrained(tmp_path)
    pipeline = load_foundation(str(tmp_path))
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}


def test_stable_diffusion_xl_folder_loads(tmp_path: Path) -> None:
    pipeline = stable_diffusion_xl()
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    assert type(again) is type(pipeline)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(("source", "revision", "rule"), [
    ("/nowhere/model", None, "the model folder must be there"),
    ("someone/model", None, "needs foundation.revision"),
    ("someone/model", "main", "a commit of 40 hexadecimal digits, not 'main'"),
    ("someone/model", COMMIT, "must load"),
])
def test_missing_model_is_one_clear_error(source: str, revision: str | None, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MeddiffError, match=rule):
        load_foundation(source, revision)


def test_folder_without_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"model_index\.json"):
        load_foundation(str(tmp_path))


def test_pipeline_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxFillPipeline"}')
    with pytest.raises(MeddiffError, match="this is a FluxFillPipeline"):
        load_foundation(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(MeddiffError, match="safetensors"):
        load_foundation(str(tmp_path))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


def name_code(folder: Path) -> None:
    """The UNet's class in a file of the folder, as hubs hold them: no code of others is run."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["mine", "Mine"]}))
    (folder / "unet/mine.py").write_text("raise SystemExit('this code must not run')")


@pytest.mark.parametrize(("spoil", "rule"), [
    (lambda folder: [file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167540\n")
                     for file in folder.rglob("*.safetensors")], r"\.safetensors is a pointer of Git LFS.*git lfs pull"),
    (lambda folder: cut(folder / "unet/diffusion_pytorch_model.safetensors"), "must load"),
    (lambda folder: shutil.rmtree(folder / "unet"), "must load"),
    (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"PK\3\4" * 9), "must load"),
    (lambda folder: (folder / "model_index.json").write_text("[]"), "this is a None"),
    (lambda folder: (folder / "model_index.json").write_text('{"_class_name": ["mine", "Pipeline"]}'), "a foundation is a"),
    (lambda folder: (folder / "model_index.json").write_bytes(b"\xff"), "must load"),
    (name_code, "must load"),
])
def test_a_folder_that_is_not_intact_is_one_clear_error(tmp_path: Path, spoil: Callable[[Path], object], rule: str) -> None:
    stable_diffusion().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(MeddiffError, match=rule) as caught:
        load_foundation(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_variant_alone_is_told(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(MeddiffError, match=r"fp16\.safetensors is of the variant `fp16`.*save it anew without"):
        load_foundation(str(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias[0] = float("nan")
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(MeddiffError, match="weights must be finite numbers, some of `vae` aren't"):
        load_foundation(str(tmp_path))


def test_text_to_image_model_is_refused(tmp_path: Path) -> None:
    stable_diffusion(in_channels=4).save_pretrained(tmp_path)
    with pytest.raises(MeddiffError, match="inpainting UNet"):
        load_foundation(str(tmp_path))
