from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from meddiff.cases import Case
from meddiff.diffusion.inpainting import (
    diffusion_loss,
    embed_prompts,
    encode_images,
    model_input,
    predict,
    text_embeddings,
    time_weights,
    to_tensor,
)
from tests.pipelines import embedded, stable_diffusion, stable_diffusion_xl


def _tensors(cases: list[Case]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([to_tensor(case.image) for case in cases])
    return images, torch.from_numpy(np.stack([case.mask for case in cases])).float()[:, None]


def test_mask_channels_of_every_kind(cases: Callable[..., list[Case]]) -> None:
    images, masks = _tensors(cases(4))
    for pipeline in (embedded(images), stable_diffusion(), stable_diffusion_xl()):
        condition = model_input(pipeline, images, masks)
        assert condition.shape[1] + encode_images(pipeline.vae, images).shape[1] == pipeline.unet.config.in_channels
    exact = model_input(embedded(images), images, masks)[:, :16]
    assert torch.equal(torch.nn.functional.pixel_shuffle(exact, 4), masks)


def test_embeddings_are_the_text_encoders_and_carry_no_graph() -> None:
    pipeline = stable_diffusion()
    tokens = pipeline.tokenizer(["", "a photo"], padding="max_length", max_length=32, return_tensors="pt").input_ids
    found = embed_prompts(pipeline, ["", "a photo"])
    assert torch.equal(found, pipeline.text_encoder(tokens)[0])
    assert not found.requires_grad
    assert text_embeddings(pipeline, ["x"]).requires_grad


def test_xl_gets_pooled_text_and_sizes_as_its_own_pipeline_gives_them() -> None:
    pipeline = stable_diffusion_xl()
    inputs, time = torch.randn(2, 9, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    texts, _, pooled, _ = pipeline.encode_prompt(["a photo", ""], device="cpu", do_classifier_free_guidance=False)
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 2)
    with torch.no_grad():
        expected = pipeline.unet(inputs, time, texts, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        found = predict(pipeline, inputs, time, embed_prompts(pipeline, ["a photo", ""]))
    assert torch.equal(found, expected)
    assert not torch.equal(found[0], predict(pipeline, inputs, time, embed_prompts(pipeline, ["b", ""]))[0])


def test_loss_weights_choose_inside_or_outside(cases: Callable[..., list[Case]]) -> None:
    images, _ = _tensors(cases(4))
    masks = torch.zeros(4, 1, 32, 32)
    masks[..., :16] = 1
    pipeline = embedded(images)
    losses = [_loss(pipeline, images, masks, *weights) for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(
    cases: Callable[..., list[Case]], prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The targets, solved from the noisy latents by their definitions: z = √ᾱ x + √(1-ᾱ) ε, v = √ᾱ ε - √(1-ᾱ) x."""
    images, masks = _tensors(cases(4))
    pipeline = stable_diffusion(prediction=prediction)
    latents = encode_images(pipeline.vae, images)
    signal = DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod

    def perfect(pipeline: object, inputs: torch.Tensor, times: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        a, b = signal[times].sqrt()[:, None, None, None], (1 - signal[times]).sqrt()[:, None, None, None]
        noise = (inputs[:, :4] - a * latents) / b
        return {"epsilon": noise, "sample": latents, "v_prediction": a * noise - b * latents}[prediction]

    assert _loss(pipeline, images, masks, 1.0, 1.0) > 1e-3
    monkeypatch.setattr("meddiff.diffusion.inpainting.predict", perfect)
    assert _loss(pipeline, images, masks, 1.0, 1.0) < 1e-6


def _loss(pipeline, images: torch.Tensor, masks: torch.Tensor, inside: float, outside: float) -> float:
    latents, condition = encode_images(pipeline.vae, images), model_input(pipeline, images, masks)
    prompts = embed_prompts(pipeline, ["x"]).expand(len(images), -1, -1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        return float(diffusion_loss(pipeline, latents, condition, prompts, masks, inside, outside, generator))


def test_min_snr_weighs_every_time_and_none_above_gamma() -> None:
    for kind, at_noise, at_signal in (("sample", 1.0, 5.0), ("epsilon", 1.0, 0.0), ("v_prediction", 1.0, 0.0)):
        scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind, rescale_betas_zero_snr=True)
        noise, signal = time_weights(scheduler, torch.tensor([999, 0]), 5.0).tolist()
        assert noise == pytest.approx(at_noise, abs=1e-3)
        assert signal == pytest.approx(at_signal, abs=0.05)
        if kind == "sample":
            assert time_weights(scheduler, torch.tensor([0]), 0.5).tolist() == [0.5]


def test_errors_weigh_by_their_channels_share_of_the_picture(cases: Callable[..., list[Case]]) -> None:
    codec = embedded(torch.stack([to_tensor(case.image) for case in cases(4)])).vae
    assert float(codec.importance.mean()) == pytest.approx(1.0)
    assert int(codec.importance.argmax()) == 0  # the mean gray of a patch
