"""Segmenters learn, repeat themselves, resume, and differ between arms in nothing but the cases."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from meddiff.cases import Case, Frame
from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.segmentation import validation as validating
from meddiff.segmentation.metrics import class_dice, dice
from meddiff.segmentation.networks import WIDTHS
from meddiff.segmentation.segmenter import Segmenter, train_segmenter
from meddiff.segmentation.validation import within_frame

SHORT = SegmentParams(steps=4, batch_size=4)


def images_of(cases) -> np.ndarray:
    return np.stack([case.image for case in cases])


def weights_of(segmenter: Segmenter) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in segmenter.network.parameters()])


@pytest.mark.parametrize("network", ["unet", "segresnet"])
def test_a_segmenter_learns_dark_ellipses(cases, network):
    params = SegmentParams(network=network, steps=50)
    segmenter = train_segmenter(cases(24), [], params, seed=0, validation=cases(6, seed=1))
    unseen = cases(8, seed=2)
    probability = segmenter.predict(images_of(unseen), batch_size=3)
    assert probability.shape == (8, 32, 32)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1
    assert np.mean([dice(p > 0.5, case.mask) for p, case in zip(probability, unseen, strict=True)]) > 0.75
    assert segmenter.validation_dice > 0.75
    assert np.mean(segmenter.losses[-5:]) < 0.8 * np.mean(segmenter.losses[:5])


@pytest.mark.parametrize("network", sorted(WIDTHS))
@pytest.mark.parametrize("classes", [1, 2])
def test_files_give_the_same_predictions(cases, network, classes, tmp_path):
    images, made = images_of(cases(3, 64)), two_classes if classes > 1 else lambda cases, n, **more: cases(n, **more)
    real, validation = ([replace(case, image=np.tile(case.image, (2, 2, 1)), mask=np.tile(case.mask, (2, 2)))
                         for case in made(cases, n, seed=seed)] for n, seed in ((4, 0), (2, 1)))
    segmenter = train_segmenter(real, [], SHORT.model_copy(update={"network": network}), 0, validation, classes=classes)
    segmenter.save(tmp_path / "model")
    loaded = Segmenter.load(tmp_path / "model")
    assert loaded.architecture == segmenter.architecture
    assert np.array_equal(segmenter.predict(images), loaded.predict(images))
    assert np.array_equal(segmenter.segment(images), loaded.segment(images))
    assert loaded.predict(images).shape == (3, 64, 64)
    assert loaded.validation_dice == segmenter.validation_dice
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("network", ["unet", "segresnet"])
def test_files_give_the_same_features(cases, network, tmp_path):
    images, segmenter = images_of(cases(3, 64)), train_segmenter(cases(4), [], SHORT.model_copy(update={"network": network}), 0)
    segmenter.save(tmp_path)
    assert segmenter.features(images).shape == (3, 64, 8, 8)
    assert torch.equal(segmenter.features(images), Segmenter.load(tmp_path).features(images))


def test_files_without_validation_hold_no_nan(cases, tmp_path):
    train_segmenter(cases(4), [], SHORT, 0).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["validation_dice"] is None
    assert np.isnan(Segmenter.load(tmp_path).validation_dice)


@pytest.mark.parametrize("spoil", [lambda f: (f / "config.json").unlink(), lambda f: (f / "config.json").write_text("{}"),
                                   lambda f: (f / "model.safetensors").write_bytes(b"no")])
def test_a_broken_folder_is_named(cases, tmp_path, spoil):
    train_segmenter(cases(4), [], SHORT, 0).save(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(MeddiffError, match=r"model: a trained segmenter must be there"):
        Segmenter.load(tmp_path / "model")


def test_the_seed_decides_everything(cases):
    real = cases(6)
    first, again, other = (weights_of(train_segmenter(real, [], SHORT, seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("network", ["unet", "attention_unet"])
def test_an_interrupted_run_ends_with_the_same_weights(cases, network, tmp_path, monkeypatch):
    """The running means of batch norm, which an attention U-Net has, too."""
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    real, validation, params = cases(6), cases(4, seed=1), SegmentParams(steps=10, batch_size=4, network=network)
    whole = train_segmenter(real, [], params, 0, validation)

    def kill(done, total, values):
        if done == 7:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(real, [], params, 0, validation, checkpoint=checkpoint, report=kill)
    steps = []
    resumed = train_segmenter(real, [], params, 0, validation, checkpoint=checkpoint, report=lambda done, *_: steps.append(done))
    assert 1 < steps[0] <= 7
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert resumed.validation_dice == whole.validation_dice
    assert resumed.losses == pytest.approx(whole.losses)


def test_a_resume_remembers_better_weights_from_before(cases, tmp_path, monkeypatch):
    """The best look may lie before the interruption; then its weights must come back."""
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    scores = iter([0.2, 0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr(validating, "class_dice", lambda prediction, reference, classes: next(scores))
    real, validation, params = cases(6), cases(1, seed=1), SegmentParams(steps=10, batch_size=4)
    seen = {}

    def kill(done, total, values):
        seen[done] = values.get("dice")
        if done == 6:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(real, [], params, 0, validation, checkpoint=checkpoint, report=kill)
    assert seen == {1: None, 2: 0.2, 3: 0.2, 4: 0.9, 5: 0.9, 6: 0.9}
    scores = iter([0.1] * 5)
    resumed = train_segmenter(real, [], params, 0, validation, checkpoint=checkpoint)
    assert resumed.validation_dice == 0.9
    at_four = train_segmenter(real, [], params.model_copy(update={"steps": 10}), 0, checkpoint=None)
    assert not torch.equal(weights_of(resumed), weights_of(at_four))


class Spy:
    """Records the batches that reach the augmentation, and the seed it is given."""

    def __init__(self):
        self.batches, self.seeds = [], []

    def __call__(self, images, masks, generator, vertical_flips):
        self.batches.append(images.clone())
        self.seeds.append(generator.initial_seed())
        return images, masks


def gray(value: int, i: int) -> Case:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    return Case(f"c{i}", np.full((32, 32, 3), value + i, np.uint8), mask)


def test_arms_differ_only_in_the_share_of_synthetic_cases():
    real, synthetic = [gray(0, i) for i in range(10)], [gray(200, i) for i in range(50)]
    params = SegmentParams(steps=5, batch_size=8, share=0.33, ratio=0.5)
    spy = Spy()
    lone = train_segmenter(real, [], params, 1, augmentation=spy)
    mixed = train_segmenter(real, synthetic, params, 1, augmentation=spy)
    plain, mixture = spy.batches[:5], spy.batches[5:]
    assert [len(b) for b in spy.batches] == [8] * 10
    assert spy.seeds[:5] == spy.seeds[5:]
    values = [(b[:, 0, 0, 0] + 1) * 127.5 for b in mixture]
    assert all(int((v > 100).sum()) == 3 for v in values)
    for alone, together in zip(plain, mixture, strict=True):
        assert torch.equal(alone[:5], together[:5])
    used = {round(float(x)) for v in values for x in v if x > 100}
    assert len(used) <= 5  # ratio 0.5 of ten real cases
    assert not torch.equal(weights_of(lone), weights_of(mixed))
    assert len(lone.losses) == len(mixed.losses) == 5


def test_a_share_of_one_leaves_no_real_case_in_a_batch():
    spy = Spy()
    train_segmenter([gray(0, i) for i in range(10)], [gray(200, i) for i in range(50)],
                    SegmentParams(steps=3, batch_size=8, share=1.0), 1, augmentation=spy)
    assert all(len(batch) == 8 and (batch > 0).all() for batch in spy.batches)


def test_the_pool_is_picked_by_the_seed():
    real, synthetic = [gray(0, i) for i in range(4)], [gray(200, i) for i in range(50)]
    params = SegmentParams(steps=8, batch_size=4, share=0.5, ratio=1.0)

    def used(seed: int) -> set[int]:
        spy = Spy()
        train_segmenter(real, synthetic, params, seed, augmentation=spy)
        return {round(float((x + 1) * 127.5)) for b in spy.batches for x in b[:, 0, 0, 0]} - set(range(10))

    assert len(used(0)) == 4
    assert used(0) == used(0) != used(1)


def test_fewer_cases_than_a_batch_are_repeated_evenly():
    spy = Spy()
    train_segmenter([gray(0, i) for i in range(3)], [], SegmentParams(steps=2, batch_size=6), 0, augmentation=spy)
    for batch in spy.batches:
        assert sorted(round(float((x + 1) * 127.5)) for x in batch[:, 0, 0, 0]) == [0, 0, 1, 1, 2, 2]


def test_the_callers_random_numbers_are_left_alone(cases):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_segmenter(cases(4), [], SHORT, 0)
    assert torch.equal(torch.rand(1), expected)


def test_unfit_cases_are_named(cases):
    good = cases(3)
    with pytest.raises(MeddiffError, match="at least one annotated case"):
        train_segmenter([], good, SHORT, 0)
    with pytest.raises(MeddiffError, match=r"case odd.*multiples of 16"):
        train_segmenter([Case("odd", np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8))], [], SHORT, 0)
    for network, least in (("swin_unetr", 64), ("encoder_unet", 64)):
        params = SHORT.model_copy(update={"network": network})
        with pytest.raises(MeddiffError, match=rf"case_6.*multiples of 32 from {least} on for {network}, these are 48 x 48"):
            train_segmenter(cases(2, 48, seed=6), [], params, 0)
    with pytest.raises(MeddiffError, match=r"from 64 on for swin_unetr, these are 32 x 32\. Set prepare\.size"):
        train_segmenter(good, [], SHORT.model_copy(update={"network": "swin_unetr"}), 0)
    with pytest.raises(MeddiffError, match=r"case_5.*the size 32 x 32"):
        train_segmenter(good, cases(1, 64, seed=5), SHORT, 0)
    with pytest.raises(MeddiffError, match="case bare"):
        train_segmenter([*good, Case("bare", good[0].image, None)], [], SHORT, 0)


def two_classes(cases, n: int, seed: int = 0) -> list[Case]:
    """Dark ellipses are class 1, bright ones class 2; every third image is a dark and a bright one side by side."""
    made = []
    for i, (dark, other) in enumerate(zip(cases(n, seed=seed), cases(n, seed=seed + 100), strict=True)):
        image, mask = (dark.image.copy(), dark.mask.copy()) if i % 2 else (255 - dark.image, 2 * dark.mask)
        if i % 3 == 0:
            half, bright = np.s_[:, 16:], i % 2
            image[half] = (255 - other.image if bright else other.image)[half]
            mask[half] = (other.mask * (2 if bright else 1))[half]
        made.append(Case(dark.id, image, mask))
    return made


@pytest.mark.parametrize("network", ["unet", "segresnet"])
def test_two_classes_are_learned_saved_and_told_apart(cases, network, tmp_path):
    params = SegmentParams(network=network, steps=80)
    segmenter = train_segmenter(two_classes(cases, 24), [], params, 0, two_classes(cases, 6, 1), classes=2)
    segmenter.save(tmp_path)
    loaded, unseen = Segmenter.load(tmp_path), two_classes(cases, 8, 2)
    assert loaded.architecture.classes == 2
    predicted, probability = loaded.segment(images_of(unseen)), loaded.predict(images_of(unseen), batch_size=3)
    assert np.array_equal(predicted, segmenter.segment(images_of(unseen), batch_size=5))
    assert predicted.dtype == np.uint8
    assert probability.shape == predicted.shape == (8, 32, 32)
    assert set(np.unique(predicted).tolist()) == {0, 1, 2}
    assert np.mean([class_dice(p, case.mask, 2) for p, case in zip(predicted, unseen, strict=True)]) > 0.6
    lesions = np.stack([case.mask for case in unseen]) > 0
    assert probability[lesions].mean() > probability[~lesions].mean() + 0.3
    assert loaded.features(images_of(unseen)).shape[1] == 64
    assert segmenter.validation_dice > 0.5


def test_one_class_takes_all_lesions_together(cases):
    plain, classed = cases(4), [Case(c.id, c.image, c.mask * np.uint8(1 + i % 2)) for i, c in enumerate(cases(4))]
    assert torch.equal(weights_of(train_segmenter(plain, [], SHORT, 0)), weights_of(train_segmenter(classed, [], SHORT, 0)))
    with pytest.raises(MeddiffError, match="case_0_000: its mask holds class 3, there are 2"):
        train_segmenter([Case(c.id, c.image, c.mask * np.uint8(3)) for c in plain], [], SHORT, 0, classes=2)


def test_a_segmenter_of_before_the_classes_loads(cases, tmp_path):
    train_segmenter(cases(4), [], SHORT, 0).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("classes") == 1
    assert not config.pop("encoder")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Segmenter.load(tmp_path).segment(images_of(cases(2))).max() <= 1


def test_what_is_predicted_on_the_bars_does_not_count():
    everywhere = np.full((8, 8), 2, np.uint8)
    case = Case("c", np.zeros((8, 8, 3), np.uint8), None, frame=Frame(2, 0, 4, 8))
    assert within_frame(everywhere, case).sum() == 2 * 32
    assert not within_frame(everywhere, case)[:2].any()
    assert within_frame(everywhere, Case("c", case.image, None)).all()


def test_bfloat16_changes_the_losses_little(cases):
    exact, fast = (train_segmenter(cases(8), [], SegmentParams(steps=6, batch_size=4, precision=precision), 0)
                   for precision in ("float32", "bfloat16"))
    assert fast.losses != exact.losses
    assert fast.losses == pytest.approx(exact.losses, rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in fast.network.state_dict().values())
