"""The sampler as a function of tensors: steps told to a callback, the background kept outside."""

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from meddiff.painting.sampler import Step, sample
from meddiff.params import GenerateParams


def test_each_step_is_told_and_the_last_leaves_the_background_outside() -> None:
    levels = DDIMScheduler(prediction_type="sample", clip_sample=False)
    clean = torch.zeros(2, 3, 4, 4)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    near = torch.full((2, 1, 4, 4), 0.2)
    near[:, :, 1:3, 1:3] = 0
    seen: list[Step] = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(z)

    z = sample(network, levels, clean, noise, near, GenerateParams(steps=5, mask_widening=0.5, adaptive=False), seen.append)
    assert [step.index for step in seen] == list(range(5))
    assert {step.count for step in seen} == {5}
    assert [step.t for step in seen] == sorted((step.t for step in seen), reverse=True)
    assert torch.equal(seen[-1].z, z)
    assert bool((seen[0].guide[near > 0] > 0).any()), "the first mask is wider"
    assert torch.equal(seen[-1].guide, (near == 0).float()), "the last is exact"
    torch.testing.assert_close(z, (near == 0).float().expand_as(z))
