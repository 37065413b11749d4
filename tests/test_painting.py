from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from meddiff.cases import Case
from meddiff.inpainting import to_tensor
from meddiff.painting import Painter, _guiding_mask
from meddiff.params import GenerateParams
from tests.pipelines import embedded, stable_diffusion


@pytest.fixture(params=["embedded", "stable diffusion"])
def painter(request: pytest.FixtureRequest, cases: Callable[..., list[Case]]) -> Painter:
    images = torch.stack([to_tensor(case.image) for case in cases(8)])
    return Painter.of(embedded(images) if request.param == "embedded" else stable_diffusion(), "a photo of hta")


def _paint(painter: Painter, seeds: list[int], cases: Callable[..., list[Case]], **settings: object) -> tuple[list, list, list]:
    params = GenerateParams.model_validate({"steps": 4, **settings})
    grounds = [case.image for case in cases(6, seed=1, lesion=False)]
    masks = [case.mask for case in cases(6, seed=2)]
    chosen = [s % 6 for s in seeds]
    grounds, masks = [grounds[i] for i in chosen], [masks[i] for i in chosen]
    return grounds, masks, painter.paint(grounds, masks, seeds, params)


@pytest.mark.parametrize("rim", [0, 1, 3])
def test_pixels_outside_mask_and_rim_are_the_backgrounds(painter: Painter, cases: Callable[..., list[Case]], rim: int) -> None:
    for ground, mask, image in zip(*_paint(painter, list(range(6)), cases, rim=rim), strict=True):
        outside = ndimage.distance_transform_edt(mask == 0) > rim
        assert np.array_equal(image[outside], ground[outside])
        assert not np.array_equal(image[mask > 0], ground[mask > 0])


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_scheduler_and_strength_paints(
    painter: Painter, cases: Callable[..., list[Case]], scheduler: str, strength: float
) -> None:
    *_, images = _paint(painter, [0, 1], cases, scheduler=scheduler, strength=strength)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in images)


def test_a_seed_gives_the_same_image_alone_and_in_any_batch(painter: Painter, cases: Callable[..., list[Case]]) -> None:
    *_, together = _paint(painter, [0, 1, 2, 3], cases)
    *_, again = _paint(painter, [0, 1, 2, 3], cases)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))
    *_, reversed_order = _paint(painter, [3, 2, 1, 0], cases)
    for seed in range(4):
        *_, (alone,) = _paint(painter, [seed], cases)
        assert np.abs(alone.astype(int) - together[seed]).max() <= 1
        assert np.abs(reversed_order[3 - seed].astype(int) - together[seed]).max() <= 1


def test_seeds_and_guidance_change_the_image(painter: Painter, cases: Callable[..., list[Case]]) -> None:
    ground, mask = cases(1, lesion=False)[0].image, cases(1)[0].mask
    first, second = painter.paint([ground] * 2, [mask] * 2, [1, 2], GenerateParams(steps=4))
    assert not np.array_equal(first, second)
    guided, _ = painter.paint([ground] * 2, [mask] * 2, [1, 2], GenerateParams(steps=4, guidance_scale=8.0))
    assert not np.array_equal(first, guided)


def test_latents_outside_the_guiding_mask_are_the_noised_backgrounds(
    cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blend is exact at every step: what the UNet is given outside the mask never depends on what it predicted."""
    images = torch.stack([to_tensor(case.image) for case in cases(8)])
    inputs: list[list[torch.Tensor]] = []
    mask = cases(1)[0].mask
    for shift in (0.0, 5.0):
        painter = Painter.of(embedded(images), "x")
        seen: list[torch.Tensor] = []
        predict = Painter._predict
        monkeypatch.setattr(
            Painter, "_predict", lambda self, z, *a, s=shift, seen=seen, p=predict: seen.append(z.clone()) or p(self, z, *a) + s
        )
        painter.paint([cases(1, lesion=False)[0].image], [mask], [7], GenerateParams(steps=4, mask_widening=0.0))
        monkeypatch.setattr(Painter, "_predict", predict)
        inputs.append(seen)
    latent_mask = (
        torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(mask).float()[None, None], (8, 8)).bool().expand(1, 48, 8, 8)
    )
    for one, other in zip(inputs[0][1:], inputs[1][1:], strict=True):
        assert torch.equal(one[~latent_mask], other[~latent_mask])
        assert not torch.equal(one[latent_mask], other[latent_mask])


def test_guiding_mask_narrows_to_the_exact_one() -> None:
    exact = torch.zeros(1, 1, 32, 32)
    exact[..., 12:20, 12:20] = 1
    distances = torch.from_numpy(ndimage.distance_transform_edt(exact[0, 0].numpy() == 0)).float()[None, None]
    sums = [float(_guiding_mask(exact, distances, 1.0, remaining, torch.Size((32, 32))).sum()) for remaining in (1.0, 0.5, 0.0)]
    assert sums[0] > sums[1] > sums[2] == 64
