"""Speed settings change no result beyond a tolerance, and the benchmark measures what it says."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.speed import build, compare, count, published_images, published_step, training
from meddiff.cases import Case
from meddiff.finetuning import finetune
from meddiff.inpainting import embed_prompts, place, predict
from meddiff.painting import Painter
from meddiff.params import FinetuneParams, GenerateParams
from meddiff.training import Schedule, train
from tests.pipelines import stable_diffusion

TOLERANCE = 0.02  # of bfloat16: root mean square difference over root mean square


def _painted(cases: list[Case], compiled: bool = False, **settings: object) -> np.ndarray:
    pipeline = stable_diffusion()
    if compiled:
        pipeline.unet.compile(backend="eager")
    painter = Painter.of(pipeline, ["a photo of hta"])
    params = GenerateParams.model_validate({"steps": 4, "rim": 0, "feather": False} | settings)
    images = painter.paint([case.image for case in cases], [case.mask for case in cases], list(range(len(cases))), params)
    return np.stack(images)[np.stack([case.mask for case in cases]) > 0].astype(float)


def _relative(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(values - expected).mean() / np.square(expected).mean()))


def test_precision_changes_lesions_little_and_compiling_nothing(cases: Callable[..., list[Case]]) -> None:
    few = cases(2)
    expected = _painted(few)
    assert 0 < _relative(_painted(few, precision="bfloat16"), expected) < TOLERANCE
    assert np.array_equal(_painted(few, compiled=True), expected)


def test_a_compiled_unet_learns_the_same_and_is_saved_as_usual(cases: Callable[..., list[Case]], tmp_path: Path) -> None:
    losses, params = [], FinetuneParams(steps=3, batch_size=2)
    for compiled in (False, True):
        pipeline = stable_diffusion()
        names = list(pipeline.unet.state_dict())
        if compiled:
            pipeline.unet.compile(backend="eager")
        losses.append(finetune(pipeline, cases(4), params, "cpu").losses)
        pipeline.save_pretrained(tmp_path / str(compiled))
        assert list(pipeline.unet.state_dict()) == names
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    half = finetune(stable_diffusion(), cases(4), params.model_copy(update={"precision": "bfloat16"}), "cpu").losses
    assert half != losses[0]
    assert half == pytest.approx(losses[0], rel=TOLERANCE)


def test_channels_last_predicts_the_same() -> None:
    pipeline = stable_diffusion()
    inputs = torch.randn(2, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    texts = embed_prompts(pipeline, ["", "a photo of hta"])
    with torch.no_grad():
        before = predict(pipeline, inputs, torch.tensor(500), texts)
        pipeline.unet.to(memory_format=torch.channels_last)
        assert torch.allclose(predict(pipeline, inputs, torch.tensor(500), texts), before, atol=1e-5)
    place(pipeline, "cpu")
    assert not pipeline.vae.use_slicing


def test_a_fused_optimizer_learns_and_resumes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that lie channels last, as on a GPU, where checkpoints hold them contiguous."""
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)

    def learned(steps: int, checkpoint: Path | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        train(layer.parameters(), lambda rng: layer(torch.rand(1, 3, 8, 8, generator=rng)).square().mean(),
              Schedule(steps, 1e-2, 0), checkpoint)
        return layer.weight.detach().clone()

    plain, adam = learned(6), torch.optim.AdamW

    def fused(*args: object, **settings: object) -> torch.optim.Optimizer:
        return adam(*args, **settings | {"fused": True})

    monkeypatch.setattr("torch.optim.AdamW", fused)
    whole = learned(6)
    assert torch.allclose(whole, plain, atol=1e-6)
    learned(3, tmp_path / "c.safetensors")
    assert torch.equal(learned(6, tmp_path / "c.safetensors"), whole)


def test_the_published_sampler_is_that_of_diffusers(cases: Callable[..., list[Case]]) -> None:
    pipeline, case = stable_diffusion(), cases(1)[0]
    pipeline.set_progress_bar_config(disable=True)
    ours = published_images(pipeline, [case.image], [case.mask], [5], steps=4)
    images, masks = torch.from_numpy(case.image[None]).permute(0, 3, 1, 2) / 255, torch.from_numpy(case.mask[None, None]).float()
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    pipeline.vae.encode = _mode(pipeline.vae.encode)
    theirs = pipeline("a photo of hta", image=images, mask_image=masks, height=32, width=32, num_inference_steps=4,
                      guidance_scale=7.5, latents=noise, output_type="pt").images
    assert torch.allclose(theirs * 2 - 1, ours, atol=1e-3)


def _mode(encode: Callable[..., object]) -> Callable[..., object]:
    """The mean of the latents, where the pipeline would draw from them."""

    def encoded(images: torch.Tensor) -> object:
        output = encode(images)
        output.latent_dist.std = torch.zeros_like(output.latent_dist.std)
        return output

    return encoded


def test_published_training_computes_everything_in_every_pass(monkeypatch: pytest.MonkeyPatch,
                                                              cases: Callable[..., list[Case]]) -> None:
    pipeline, calls = stable_diffusion(), {"encode": 0, "text": 0}
    encode, text = pipeline.vae.encode, pipeline.encode_prompt

    def counted(name: str, work: Callable[..., object], *args: object, **settings: object) -> object:
        calls[name] += 1
        return work(*args, **settings)

    monkeypatch.setattr(pipeline.vae, "encode", partial(counted, "encode", encode))
    monkeypatch.setattr(pipeline, "encode_prompt", partial(counted, "text", text))
    before = pipeline.unet.conv_in.weight.detach().clone()
    assert np.isfinite(published_step(pipeline, cases(4), 1, 2)())
    assert calls == {"encode": 4, "text": 2}
    assert not torch.equal(pipeline.unet.conv_in.weight, before)


def test_operations_and_bytes_of_a_product() -> None:
    a, b = torch.zeros(8, 16), torch.zeros(16, 4)
    assert count(lambda: torch.relu(a @ b)) == (2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4))


def test_variants_are_held_against_float32_in_one_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.speed.machine", lambda device: ({torch.float32: 1e11, torch.bfloat16: 1e11}, 1e10))
    variants = [v for v in training("tiny", "cpu", 32, 2, 2) if not {"compiled", "lora,"} & set(v.name.split())]
    compare("title", variants, "cpu", 1)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| (", "| meddiff"))]
    assert [row[4] for row in rows[:3]] == ["reference"] * 3
    assert 0 < float(rows[3][4]) < TOLERANCE
    assert len(rows) == 4


@pytest.mark.parametrize("kind", ["tiny", "embedded"])
def test_pipelines_of_the_benchmark_take_latents_mask_and_masked_latents(kind: str) -> None:
    pipeline = build(kind)
    assert pipeline.unet.config.in_channels == 2 * pipeline.vae.config.latent_channels + (1 if kind == "tiny" else 16)
