import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy import ndimage

from meddiff.cases import Case
from meddiff.datasets.demo import make_phantoms
from meddiff.diffusion.inpainting import encode_images, to_tensor
from meddiff.errors import MeddiffError
from meddiff.painting.painter import Painter, lesion_distances, load_painter
from meddiff.painting.sampler import SCHEDULERS, background_change, guiding_mask, predicted_clean
from meddiff.params import GenerateParams
from meddiff.pretrained import FOUNDATION
from tests.pipelines import embedded, stable_diffusion

PREDICTIONS = ["epsilon", "sample", "v_prediction"]


@pytest.fixture(params=["embedded", "stable diffusion"])
def painter(request: pytest.FixtureRequest, cases: Callable[..., list[Case]]) -> Painter:
    images = torch.stack([to_tensor(case.image) for case in cases(8)])
    return Painter.of(embedded(images) if request.param == "embedded" else stable_diffusion(), ["a photo of hta"])


def _paint(painter: Painter, seeds: list[int], cases: Callable[..., list[Case]], **settings: object) -> tuple[list, list, list]:
    params = GenerateParams.model_validate({"steps": 4, **settings})
    grounds = [case.image for case in cases(6, seed=1, lesion=False)]
    masks = [case.mask for case in cases(6, seed=2)]
    chosen = [s % 6 for s in seeds]
    grounds, masks = [grounds[i] for i in chosen], [masks[i] for i in chosen]
    return grounds, masks, painter.paint(grounds, masks, seeds, params)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bits_of_a_sample_do_not_depend_on_those_beside_it(precision: str) -> None:
    """Alone, among two and among all, and in batches of any size from four on."""
    painter = Painter.of(load_painter(FOUNDATION, "cpu").pipeline, ["a photo of hta"])
    masks = [case.mask for case in make_phantoms(6, True, 64, "ultrasound", 77) if case.mask is not None]
    grounds = [case.image for case in make_phantoms(6, False, 64, "ultrasound", 77)]
    settings = GenerateParams(steps=8).model_copy(update={"precision": precision})
    together = painter.paint(grounds, masks, list(range(6)), settings)
    for some, size in (([0], 4), ([5, 3], 16), ([1, 2, 4], 16), ([0, 1, 2, 3, 5], 4)):
        given = settings.model_copy(update={"batch_size": size})
        found = painter.paint([grounds[i] for i in some], [masks[i] for i in some], some, given)
        assert all(np.array_equal(image, together[i]) for i, image in zip(some, found, strict=True)), (some, size)


@pytest.mark.parametrize("rim", [0, 1, 3])
def test_pixels_outside_mask_and_rim_are_the_backgrounds(painter: Painter, cases: Callable[..., list[Case]], rim: int) -> None:
    for ground, mask, image in zip(*_paint(painter, list(range(6)), cases, rim=rim), strict=True):
        outside = ndimage.distance_transform_edt(mask == 0) > rim
        assert np.array_equal(image[outside], ground[outside])
        assert not np.array_equal(image[mask > 0], ground[mask > 0])


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("zero_snr", [True, False])
def test_a_model_that_knows_the_image_paints_it(
    cases: Callable[..., list[Case]],
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
    strength: float,
    prediction: str,
    zero_snr: bool,
) -> None:
    """Whatever the scheduler, the prediction and the start, and with noise alone at the first time (zero terminal SNR)."""
    known = cases(8)
    pipeline = embedded(torch.stack([to_tensor(case.image) for case in known]))
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type=prediction, rescale_betas_zero_snr=zero_snr
    )
    clean = encode_images(pipeline.vae, to_tensor(known[0].image)[None])

    def perfect(pipeline: object, inputs: torch.Tensor, t: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        z, signal = inputs[:, :48], DDIMScheduler.from_config(painter.pipeline.scheduler.config).alphas_cumprod[int(t)]
        noise = (z - signal.sqrt() * clean) / (1 - signal).sqrt()
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        return {"epsilon": noise, "sample": clean.expand_as(z), "v_prediction": velocity}[prediction]

    monkeypatch.setattr("meddiff.painting.painter.predict", perfect)
    painter, ground = Painter.of(pipeline, ["x"]), cases(1, lesion=False)[0].image
    settings = GenerateParams(steps=5, scheduler=scheduler, strength=strength, guidance_scale=1.0)
    if prediction == "epsilon" and zero_snr and strength == 1:
        with pytest.raises(MeddiffError, match="noise"):
            painter.paint([ground], [known[0].mask], [3], settings)
        return
    (image,) = painter.paint([ground], [known[0].mask], [3], settings)
    inside = known[0].mask > 0
    assert np.abs(image[inside].astype(int) - known[0].image[inside]).max() <= 2


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_scheduler_strength_and_prediction_stays_finite(
    cases: Callable[..., list[Case]], scheduler: str, strength: float, prediction: str
) -> None:
    painter = Painter.of(stable_diffusion(prediction=prediction), ["x"])
    *_, images = _paint(painter, [0, 1], cases, scheduler=scheduler, strength=strength, guidance_scale=3.0)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 and image.std() > 1 for image in images)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predicted_clean_inverts_what_the_network_is_trained_on(prediction: str) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction)
    clean, noise, t = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor(400)
    z = scheduler.add_noise(clean, noise, t)
    output = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, t)}[prediction]
    assert torch.allclose(predicted_clean(scheduler, output, z, t), clean, atol=1e-4)


@pytest.mark.parametrize("patch", [4, 16])
def test_sides_that_are_no_power_of_two(cases: Callable[..., list[Case]], patch: int) -> None:
    images, mask = [case.image for case in cases(4, size=48)], cases(1, size=48)[0].mask
    painter = Painter.of(embedded(torch.stack([to_tensor(image) for image in images]), patch), ["x"])
    (image,) = painter.paint(images[:1], [mask], [0], GenerateParams(steps=2))
    assert image.shape == (48, 48, 3)


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
        painter = Painter.of(embedded(images), ["x"])
        seen: list[torch.Tensor] = []
        predict = Painter._predict

        def watched(self: Painter, inputs: torch.Tensor, *rest, shift=shift, seen=seen, predict=predict) -> torch.Tensor:
            seen.append(inputs[:, :48].clone())
            return predict(self, inputs, *rest) + shift

        monkeypatch.setattr(Painter, "_predict", watched)
        painter.paint([cases(1, lesion=False)[0].image], [mask], [7], GenerateParams(steps=4, mask_widening=0.0, batch_size=1))
        monkeypatch.setattr(Painter, "_predict", predict)
        inputs.append(seen)
    latent_mask = (
        torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(mask).float()[None, None], (8, 8)).bool().expand(1, 48, 8, 8)
    )
    for one, other in zip(inputs[0][1:], inputs[1][1:], strict=True):
        assert torch.equal(one[~latent_mask], other[~latent_mask])
        assert not torch.equal(one[latent_mask], other[latent_mask])


def test_guiding_mask_narrows_to_the_exact_one() -> None:
    near = _near((12, 20))
    sums = [float(guiding_mask(near, width).sum()) for width in (1.0, 0.5, 0.0)]
    assert sums[0] > sums[1] > sums[2] == 64
    assert (guiding_mask(near, 1.0)[near == 0] == 1).all()


def test_guiding_mask_reaches_farther_around_a_larger_lesion() -> None:
    mask = np.zeros((64, 64), bool)
    mask[4:8, 4:8] = mask[30:54, 30:54] = True
    guide = guiding_mask(torch.from_numpy(lesion_distances(mask))[None, None], 0.5)[0, 0].numpy()
    around_small, around_large = (guide[:20, :20] > 0) & ~mask[:20, :20], (guide[20:, 20:] > 0) & ~mask[20:, 20:]
    reach = [ndimage.distance_transform_edt(~mask)[part].max() for part in (np.s_[:20, :20], np.s_[20:, 20:])]
    assert 0 < around_small.sum() < around_large.sum()
    assert min(reach) > 7
    assert guide[4, 12] == 0
    assert guide[40, 58] > 0


def test_guiding_mask_widens_only_where_the_prediction_leaves_the_background() -> None:
    near, clean = _near((12, 20)), torch.randn(1, 4, 32, 32)
    predicted = clean + 0.1 * torch.randn(1, 4, 32, 32)
    predicted[..., 12:20, 12:20] += 3
    predicted[..., 12:20, 20:26] += 3  # spills over to the right
    change = background_change(predicted, clean, near)
    adaptive, static = guiding_mask(near, 1.0, change), guiding_mask(near, 1.0)
    assert (adaptive[near == 0] == 1).all()
    assert (adaptive <= static).all()
    assert torch.allclose(adaptive[..., 15:17, 20:23], static[..., 15:17, 20:23], atol=0.05)
    assert adaptive[..., 15:17, 6:11].max() < 0.2 < static[..., 15:17, 10].min()
    assert torch.equal(guiding_mask(near, 0.0, change), (near == 0).float())


def _near(span: tuple[int, int]) -> torch.Tensor:
    mask = np.zeros((32, 32), bool)
    mask[slice(*span), slice(*span)] = True
    return torch.from_numpy(lesion_distances(mask)).float()[None, None]


def test_each_class_is_painted_with_its_prompt_on_the_class_before(
    cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = Painter.of(embedded(torch.stack([to_tensor(case.image) for case in cases(8)])), ["one", "two"])
    ground, both, first = cases(1, lesion=False)[0].image, np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    both[4:12, 4:12] = first[4:12, 4:12] = 1
    both[18:28, 16:28] = 2
    settings = GenerateParams(steps=2, guidance_scale=1.0, batch_size=1)  # no company
    used: list[torch.Tensor] = []
    real = Painter._predict
    monkeypatch.setattr(Painter, "_predict", lambda self, z, t, p, g: used.append(p) or real(self, z, t, p, g))
    image, alone, untouched = painter.paint([ground] * 3, [both, first, both * 0], [5, 5, 5], settings)
    assert np.array_equal(untouched, ground)
    assert np.array_equal(image[:14], alone[:14])
    assert np.array_equal(alone[15:], ground[15:])
    assert not np.array_equal(image[both == 2], ground[both == 2])
    assert [len(prompts) for prompts in used] == [2, 2, 1, 1]  # class 1 of both samples, then class 2 of one
    assert torch.equal(used[0][0], painter.prompts[1])
    assert torch.equal(used[-1][0], painter.prompts[2])
    with pytest.raises(MeddiffError, match="class 3"):
        painter.paint([ground], [both + (both == 2)], [5], settings)


def test_each_class_has_noise_of_its_own_and_the_first_that_of_the_seed(
    cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = Painter.of(embedded(torch.stack([to_tensor(case.image) for case in cases(8)])), ["one", "two", "three"])
    starts: list[torch.Tensor] = []
    real = Painter._predict
    monkeypatch.setattr(Painter, "_predict", lambda self, z, *rest: starts.append(z[:, :48].clone()) or real(self, z, *rest))
    ground, mask = cases(1, lesion=False)[0].image, cases(1)[0].mask
    for label in (1, 2, 3):
        painter.paint([ground] * 2, [mask * np.uint8(label)] * 2, [5, 6], GenerateParams(steps=1, guidance_scale=1.0))
    first = torch.randn(48, 8, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(starts[0][0], first)
    noises = [start[i].flatten() for start in starts for i in range(2)]
    alike = torch.corrcoef(torch.stack(noises)) - torch.eye(len(noises))
    assert alike.abs().max() < 0.1


def test_erase_uses_the_empty_prompt_alone(cases: Callable[..., list[Case]], monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter.of(embedded(torch.stack([to_tensor(case.image) for case in cases(8)])), [])
    used: list[tuple[torch.Tensor, float]] = []
    real = Painter._predict
    monkeypatch.setattr(Painter, "_predict", lambda self, z, t, p, g: used.append((p, g)) or real(self, z, t, p, g))
    case = cases(1)[0]
    image, same = painter.erase([case.image] * 2, [case.mask * 2, case.mask * 0], [1, 2], GenerateParams(steps=2, batch_size=1))
    assert np.array_equal(same, case.image)
    assert not np.array_equal(image[case.mask > 0], case.image[case.mask > 0])
    far = ndimage.distance_transform_edt(case.mask == 0) > 1
    assert np.array_equal(image[far], case.image[far])
    assert all(torch.equal(p, painter.prompts[:1]) and g == 1 for p, g in used)
    with pytest.raises(MeddiffError, match="0 classes"):
        painter.paint([case.image], [case.mask], [1], GenerateParams(steps=2))


def test_a_gray_background_gives_a_gray_image(painter: Painter, cases: Callable[..., list[Case]]) -> None:
    ground, mask = cases(1, lesion=False)[0].image, cases(1)[0].mask
    tinted = ground.copy()
    tinted[..., 0] //= 2
    gray, colour = painter.paint([ground, tinted], [mask] * 2, [1, 2], GenerateParams(steps=2))
    assert (gray == gray[..., :1]).all()
    assert (colour[mask > 0].std(axis=1) > 0).any()


def test_texture_and_feather_change_the_lesion_alone_and_can_be_off(cases: Callable[..., list[Case]]) -> None:
    pipeline = embedded(torch.stack([to_tensor(case.image) for case in cases(8)]))
    painter = Painter.of(pipeline, ["x"], texture=[4.0, 4.0], seams=[-9.0])
    plain = Painter.of(pipeline, ["x"])
    ground, mask = cases(1, lesion=False)[0].image, cases(1)[0].mask
    off = GenerateParams(steps=2, feather=False, texture=0.0)
    (reference,) = plain.paint([ground], [mask], [1], off)
    assert np.array_equal(painter.paint([ground], [mask], [1], off)[0], reference)
    for settings in ({"texture": 1.0}, {"feather": True}):
        (image,) = painter.paint([ground], [mask], [1], off.model_copy(update=settings))
        assert not np.array_equal(image, reference)
        outside = ndimage.distance_transform_edt(mask == 0) > 1
        assert np.array_equal(image[outside], ground[outside])


def test_a_generator_folder_brings_its_prompts_texture_and_seams(cases: Callable[..., list[Case]], tmp_path: Path) -> None:
    embedded(torch.stack([to_tensor(case.image) for case in cases(8)])).save_pretrained(tmp_path)
    assert len(load_painter(tmp_path, "cpu").prompts) == 1
    (tmp_path / "meddiff.json").write_text(json.dumps({"prompt": "x"}))
    assert len(load_painter(tmp_path, "cpu").prompts) == 2
    (tmp_path / "meddiff.json").write_text(
        json.dumps({"prompt": "x", "prompts": ["x a", "x b"], "texture": [0.5, 0.7], "seams": [1.0, 2.0]})
    )
    painter = load_painter(tmp_path, "cpu")
    assert len(painter.prompts) == 3
    assert painter.texture == (0.5, 0.7)
    assert painter.seams == (1.0, 2.0)
