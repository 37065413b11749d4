"""Speed settings change no result beyond a tolerance, and the benchmark measures what it says."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.counts import Hollow, learning, memory, painting
from benchmarks.floors import Work, count, exact
from benchmarks.published import SIZES, Sizes, build, published_images, published_step
from benchmarks.speed import generation, settled, training, training_settings
from benchmarks.table import Variant, compare
from meddiff.cases import Case
from meddiff.diffusion.finetuning import finetune
from meddiff.diffusion.inpainting import embed_prompts, move_pipeline, predict
from meddiff.painting.painter import Painter
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
    move_pipeline(pipeline, "cpu")
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


def test_texts_are_moved_to_where_the_images_are(cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With offload the text encoder answers from where it was before, at first the CPU."""
    pipeline, case = stable_diffusion(), cases(1)[0]

    class Elsewhere:
        def __init__(self, texts: torch.Tensor) -> None:
            self.texts = texts

        def to(self, device: torch.device) -> torch.Tensor:
            return self.texts

    monkeypatch.setattr("benchmarks.published.embed_prompts", lambda *given: Elsewhere(embed_prompts(*given)))
    assert published_images(pipeline, [case.image] * 2, [case.mask] * 2, [1, 2], steps=2).shape == (2, 3, 32, 32)


def test_operations_and_bytes_of_products_and_attention() -> None:
    a, b = torch.zeros(8, 16), torch.zeros(16, 4)
    assert count(lambda: torch.relu(a @ b)) == Work(2 * 8 * 16 * 4, 0, 4 * (8 * 16 + 16 * 4 + 8 * 4))
    query, key = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 6, 8, requires_grad=True)
    forward = count(lambda: nn.functional.scaled_dot_product_attention(query, key, key))
    assert forward.products == 2 * 2 * 2 * 3 * 10 * 6 * 8
    both = count(lambda: nn.functional.scaled_dot_product_attention(query, key, key).sum().backward())
    assert both.products > 3 * forward.products
    image, kernel = torch.zeros(1, 3, 8, 8), torch.zeros(5, 3, 3, 3)
    assert count(lambda: nn.functional.conv2d(image, kernel, padding=1)).convolutions == 2 * 5 * 3 * 9 * 64


def test_counts_without_values_are_those_with_them() -> None:
    pipeline = build("tiny")
    inputs, texts = torch.zeros(2, 9, 16, 16), torch.zeros(2, 77, 32)
    with torch.no_grad():
        real = count(lambda: predict(pipeline, inputs, torch.tensor(0), texts))
    twice, once = (painting(Hollow.of("tiny"), 32, 1, steps, guided=True) for steps in (2, 1))
    assert twice.bytes == once.bytes + real.bytes
    assert (twice.products - once.products, twice.convolutions - once.convolutions) == (real.products, real.convolutions)
    params = FinetuneParams()
    bare, encoded = (learning(Hollow.of("tiny", params), 32, 1, encoded) for encoded in (False, True))
    assert encoded.convolutions > bare.convolutions > 2 * real.convolutions / 2


def test_memory_by_count() -> None:
    weights = sum(p.numel() for p in build("tiny").unet.parameters())
    needs = {name: memory("tiny", 64, settled(4, settings)) for name, settings in training_settings().items()
             if "compiled" not in name and "full" not in name}
    whole, lora = needs["meddiff"], needs["meddiff, lora, bfloat16"]
    assert (whole.trained, whole.moments) == (4 * weights, 12 * weights)
    assert whole.passing > 4 * weights, "gradients at the least"
    assert lora.frozen < whole.frozen + 4 * weights / 1.8
    assert needs["meddiff, lora, bfloat16, checkpointing"].passing < lora.passing / 1.5
    assert needs["meddiff, lora, bfloat16, batch 2"].passing < lora.passing


def _rows(told: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith(("| (", "| meddiff"))]


@pytest.mark.parametrize(("ways", "references", "number"), [(training, 3, 8), (generation, 5, 6)])
def test_variants_are_held_against_float32_in_one_table(
    ways: Callable[..., list[Variant]], references: int, number: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.table.machine", lambda device: _Able())
    variants = [v for v in ways("tiny", "cpu", 32, 2, 2) if "compiled" not in v.name]
    compare("title", variants, "cpu", 1)
    rows = _rows(capsys.readouterr().out)
    assert len(rows) == len(variants) >= number
    assert [row[4] for row in rows[:references]] == ["reference"] * references
    assert all(0 < float(row[4]) < TOLERANCE for row in rows[references:])
    assert any("lora" in row[0] for row in rows) == (ways is training)


class _Able:
    """A machine that takes a second for everything."""

    def floors(self, work: Work, precision: str) -> tuple[float, float]:
        return 1.0, 1.0


def test_what_does_not_fit_loses_its_own_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def large() -> list[float]:
        raise torch.OutOfMemoryError

    def wrong() -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("benchmarks.table.machine", lambda device: _Able())
    variants = [Variant("meddiff, small", lambda: [9.0, 2.0, 2.0], 2, Work), Variant("meddiff, large", large, 2, Work),
                Variant("meddiff, alone", lambda: [9.0, 1.0], 2, Work, error=wrong)]
    compare("title", variants, "cpu", 2)
    small, lost, alone = _rows(capsys.readouterr().out)
    assert (small[1], lost[1:], alone[2], alone[4]) == ("1.00", ["does not fit"], "2.00", "the reference does not fit")


def test_exact_products_are_for_a_while() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_variant_paints_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", Sizes((8,), (8,), 16, 1, 1, 2, 4))  # the compiler takes a minute even so
    found = {variant.name: variant for variant in generation("tiny", "cpu", 16, 2, 1)}
    compiled = found["meddiff, 20 steps, no guidance, bfloat16, compiled"]
    compiled.run()
    assert 0 < compiled.error() < TOLERANCE


@pytest.mark.parametrize("kind", ["tiny", "embedded"])
def test_pipelines_of_the_benchmark_take_latents_mask_and_masked_latents(kind: str) -> None:
    pipeline = build(kind)
    assert pipeline.unet.config.in_channels == 2 * pipeline.vae.config.latent_channels + (1 if kind == "tiny" else 16)
