from collections.abc import Callable

import numpy as np
import pytest
import torch

from meddiff.cases import Case
from meddiff.inpainting import diffusion_loss, embed_prompts, encode, model_input, to_tensor
from tests.pipelines import embedded, stable_diffusion


def test_mask_channels_of_both_kinds(cases: Callable[..., list[Case]]) -> None:
    images = torch.stack([to_tensor(case.image) for case in cases(4)])
    masks = torch.from_numpy(np.stack([case.mask for case in cases(4)])).float()[:, None]
    for pipeline in (embedded(images), stable_diffusion()):
        condition = model_input(pipeline, images, masks)
        assert condition.shape[1] + encode(pipeline.vae, images).shape[1] == pipeline.unet.config.in_channels
    exact = model_input(embedded(images), images, masks)[:, :16]
    assert torch.equal(torch.nn.functional.pixel_shuffle(exact, 4), masks)


def test_loss_weights_choose_inside_or_outside(cases: Callable[..., list[Case]]) -> None:
    images = torch.stack([to_tensor(case.image) for case in cases(4)])
    masks = torch.zeros(4, 1, 32, 32)
    masks[..., :16] = 1
    pipeline = embedded(images)
    latents, condition = encode(pipeline.vae, images), model_input(pipeline, images, masks)
    prompts = embed_prompts(pipeline, ["x"]).expand(4, -1, -1)
    losses = []
    for inside, outside in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        with torch.no_grad():
            losses.append(
                float(
                    diffusion_loss(
                        pipeline, latents, condition, prompts, masks, inside, outside, torch.Generator().manual_seed(0)
                    )
                )
            )
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
