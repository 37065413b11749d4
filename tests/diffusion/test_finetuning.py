from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from meddiff.cases import Case
from meddiff.diffusion.finetuning import finetune
from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import embed_prompts, predict, to_tensor
from meddiff.errors import MeddiffError
from meddiff.params import FinetuneParams
from tests.pipelines import embedded, stable_diffusion, stable_diffusion_xl

KINDS = ("embedded", "stable diffusion", "xl")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def _pipeline(kind: str, cases: Callable[..., list[Case]]) -> StableDiffusionInpaintPipeline:
    if kind == "embedded":
        return embedded(torch.stack([to_tensor(case.image) for case in cases(6)]))
    return stable_diffusion() if kind == "stable diffusion" else stable_diffusion_xl()


def _params(**settings: Any) -> FinetuneParams:
    return FinetuneParams.model_validate({"steps": 3, "batch_size": 2, "learning_rate": 1e-2} | settings)


def _weights(pipeline: StableDiffusionInpaintPipeline) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: value.clone() for key, value in getattr(pipeline, name).state_dict().items()}
        for name in PARTS
        if hasattr(pipeline, name)
    }


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key in before if before[key].shape != after[key].shape or not torch.equal(before[key], after[key])}


def _reload(pipeline: StableDiffusionInpaintPipeline, folder: Path) -> StableDiffusionInpaintPipeline:
    """What the next stage sees; equal weights and equal predictions."""
    pipeline.save_pretrained(folder)
    again = load_foundation(str(folder))
    for name, weights in _weights(pipeline).items():
        assert not _changed(weights, _weights(again)[name])
    return again


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_only_the_unet_changes_and_its_layers_stay_the_same(
    kind: str, mode: str, cases: Callable[..., list[Case]], tmp_path: Path
) -> None:
    pipeline = _pipeline(kind, cases)
    before = _weights(pipeline)
    result = finetune(pipeline, cases(6), _params(mode=mode, accumulation=2), "cpu")
    assert len(result.losses) == 3
    assert result.prompts == [result.prompt] == ["a photo of hta"]
    changed = {name: _changed(weights, _weights(pipeline)[name]) for name, weights in before.items()}
    assert changed.pop("unet")
    assert not any(changed.values())
    if mode == "lora":
        assert all(".to_" in key for key in _changed(before["unet"], _weights(pipeline)["unet"]))
    _reload(pipeline, tmp_path)


@pytest.mark.parametrize("kind", ["embedded", "stable diffusion"])
def test_token_mode_changes_one_row_of_the_embeddings(kind: str, cases: Callable[..., list[Case]], tmp_path: Path) -> None:
    pipeline = _pipeline(kind, cases)
    before, words = _weights(pipeline), len(pipeline.tokenizer)
    result = finetune(pipeline, cases(6), _params(mode="token", token_learning_rate=1e-2), "cpu")
    assert result.prompt == "a photo of <hta>"
    after = _weights(pipeline)
    assert not _changed(before["unet"], after["unet"])
    assert not _changed(before["vae"], after["vae"])
    (table,) = _changed(before["text_encoder"], after["text_encoder"])
    assert torch.equal(after["text_encoder"][table][:words], before["text_encoder"][table])
    pieces = pipeline.tokenizer("hta", add_special_tokens=False).input_ids
    start = before["text_encoder"][table][pieces].mean(dim=0)
    moved = (after["text_encoder"][table][words] - start).abs()
    assert 1e-3 < moved.max() < 5e-2  # three steps of Adam at the token's own rate
    again = _reload(pipeline, tmp_path)
    assert torch.equal(embed_prompts(again, result.prompts), embed_prompts(pipeline, result.prompts))


def test_a_token_may_learn_with_the_unet(cases: Callable[..., list[Case]], tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    before = _weights(pipeline)
    result = finetune(pipeline, cases(6), _params(mode="lora", token="photo", learning_rate=1e-3), "cpu")
    assert result.prompt == "a <photo> of hta"
    assert _changed(before["unet"], _weights(pipeline)["unet"])
    assert len(_changed(before["text_encoder"], _weights(pipeline)["text_encoder"])) == 1
    assert len(_reload(pipeline, tmp_path).tokenizer) == 515


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_lora_predicts_what_its_adapter_did(kind: str, cases: Callable[..., list[Case]]) -> None:
    pipeline = _pipeline(kind, cases)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, pipeline.unet.config.in_channels, 8, 8, generator=generator)
    prompts = embed_prompts(pipeline, ["", "a photo of hta"])

    @torch.no_grad()
    def output() -> torch.Tensor:
        return predict(pipeline, inputs, torch.tensor(300), prompts)

    seen = [output()]
    params = _params(mode="lora", ema_decay=0.0, learning_rate=5e-2)
    finetune(pipeline, cases(6), params, "cpu", report=lambda done, total, values: seen.append(output()))
    assert torch.allclose(output(), seen[-1], atol=1e-4)
    assert (output() - seen[0]).abs().max() > 1e-2


def test_frozen_weights_in_half_precision_change_nothing(
    cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, kinds = [], set()
    for halved in (True, False):
        pipeline = stable_diffusion()
        params = _params(mode="lora", precision="bfloat16", ema_decay=0.0, gradient_checkpointing=True)
        if not halved:
            monkeypatch.setattr("meddiff.diffusion.finetuning.halved", lambda network: nullcontext())

        def seen(done: int, total: int, values: object, unet: torch.nn.Module = pipeline.unet, halved: bool = halved) -> None:
            kinds.update((halved, p.requires_grad, p.dtype) for p in unet.parameters() if p.ndim > 1)

        losses = finetune(pipeline, cases(6), params, "cpu", report=seen).losses
        found.append((losses, _weights(pipeline)["unet"]))
    assert found[0][0] == found[1][0]
    assert not _changed(found[0][1], found[1][1])
    assert all(value.dtype == torch.float32 for value in found[0][1].values())
    half, whole = torch.bfloat16, torch.float32
    assert kinds == {(True, False, half), (True, True, whole), (False, False, whole), (False, True, whole)}


@pytest.mark.parametrize(("settings", "idle"), [
    ({}, {"text_encoder"}), ({"prompt_dropout": 0.0}, {"text_encoder", "vae"}), ({"token": "hta"}, set())
])
def test_what_has_nothing_left_to_encode_waits_on_the_cpu(
    settings: dict[str, Any], idle: set[str], cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, moved = stable_diffusion(), set()
    for name in ("vae", "text_encoder", "unet"):
        part = getattr(pipeline, name)
        monkeypatch.setattr(part, "to", lambda *to, name=name, **kinds: moved.add(name) if to == ("cpu",) else None)
    monkeypatch.setattr("meddiff.diffusion.finetuning.move_pipeline", lambda pipeline, device: None)
    finetune(pipeline, cases(6), _params(**settings), "cpu")
    assert moved == idle


@pytest.mark.parametrize("settings", [
    {},
    {"mode": "lora"},
    {"mode": "token", "token_learning_rate": 0.02},
    {"precision": "bfloat16", "gradient_checkpointing": True},
], ids=["full", "lora", "token", "bfloat16"])
def test_the_loss_falls(settings: dict[str, Any], cases: Callable[..., list[Case]]) -> None:
    """The same examples and noise in every step, so that only learning changes the loss."""
    pipeline = stable_diffusion()
    if settings.get("mode") == "token":  # an untrained UNet hardly listens to the text
        torch.nn.init.normal_(pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_out[0].weight, std=3.0)
    params = _params(steps=12, batch_size=8, accumulation=1, ema_decay=0.0, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddiff.training.step_generator", lambda seed, step: torch.Generator().manual_seed(5))
        losses = finetune(pipeline, cases(6), params, "cpu").losses
    assert min(losses[-3:]) < losses[0] * (0.999 if settings.get("mode") == "token" else 0.98)


def test_gradient_checkpointing_changes_no_result(cases: Callable[..., list[Case]]) -> None:
    losses = []
    for checkpointing in (False, True):
        pipeline = stable_diffusion()
        losses.append(finetune(pipeline, cases(6), _params(gradient_checkpointing=checkpointing), "cpu").losses)
        assert not pipeline.unet.is_gradient_checkpointing
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("mode", ["full", "lora", "token"])
def test_resumes_from_its_checkpoint(
    mode: str, cases: Callable[..., list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    params = _params(mode=mode, steps=6)
    whole = stable_diffusion()
    expected = finetune(whole, cases(6), params, "cpu")

    def stop(done: int, total: int, values: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(stable_diffusion(), cases(6), params, "cpu", tmp_path / "c.safetensors", stop)
    again, steps = stable_diffusion(), []
    result = finetune(again, cases(6), params, "cpu", tmp_path / "c.safetensors", lambda done, *_: steps.append(done))
    assert result == expected
    assert steps[0] > 1
    for name, weights in _weights(whole).items():
        assert not _changed(weights, _weights(again)[name])


def test_each_class_has_its_prompt(cases: Callable[..., list[Case]]) -> None:
    two = [Case(c.id, c.image, c.mask * np.uint8(1 + i % 2)) for i, c in enumerate(cases(4))]
    params = _params(mode="token")
    result = finetune(stable_diffusion(), two, params, "cpu", classes=("benign", "malignant"))
    assert result.prompt == "a photo of <hta>"
    assert result.prompts == ["a photo of <hta> benign", "a photo of <hta> malignant"]


@pytest.mark.parametrize(("settings", "message"), [
    ({"inside_weight": 0.0, "outside_weight": 0.0}, "the loss needs weight"),
    ({"mode": "token", "token": "sks"}, r"finetune\.token: `sks` must be a word of the prompt `a photo of hta`"),
    ({"mode": "token", "prompt": ""}, r"finetune\.token"),
    ({"token": "phot"}, r"finetune\.token"),
    ({"prompt": ""}, r"finetune\.prompt.*differ"),
    ({"learning_rate": 1e30, "ema_decay": 0.0}, r"finetune\.learning_rate.*finite"),
])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str, cases: Callable[..., list[Case]]) -> None:
    with pytest.raises(MeddiffError, match=message):
        finetune(stable_diffusion(), cases(4), _params().model_copy(update=settings), "cpu")


def test_classes_must_differ_within_the_tokens_that_the_encoder_sees(cases: Callable[..., list[Case]]) -> None:
    long = "a photo of hta and so on and so on and on"
    with pytest.raises(MeddiffError, match=r"finetune\.prompt.*within 32 tokens.*malignant"):
        finetune(stable_diffusion(), cases(4), _params(prompt=long), "cpu", classes=("benign", "malignant"))
