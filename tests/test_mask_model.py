from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from meddiff.cases import Case, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.mask_model import MaskLevels, MaskModel, fit_mask_model
from meddiff.params import MaskModelParams, Params
from meddiff.shapes import canonical
from meddiff.stages import mask_model as stage
from meddiff.tracking import Unrecorded
from tests.conftest import make_cases

TINY = MaskModelParams(steps=30, grid=16, batch_size=8)


@pytest.fixture(scope="module")
def real() -> list[np.ndarray]:
    return [case.mask for case in make_cases(12, size=64) if case.mask is not None]


@pytest.fixture(scope="module")
def model(real: list[np.ndarray]) -> MaskModel:
    return fit_mask_model(real, TINY, "cpu")[0]


def test_masks_are_single_lesions_within_the_sizes_learnt(model: MaskModel, real: list[np.ndarray]) -> None:
    masks = model.sample(range(40), 64)
    assert masks.shape == (40, 64, 64)
    assert set(np.unique(masks)) == {0, 1}
    areas = [mask.mean() for mask in real]
    for mask in masks:
        assert ndimage.label(mask)[1] == 1
        assert min(areas) / 1.16 <= mask.mean() <= max(areas) * 1.16
    assert len({mask.tobytes() for mask in masks}) == 40


def test_a_seed_gives_the_same_mask_alone_and_in_any_batch(model: MaskModel) -> None:
    together = model.sample([3, 4, 5], 64)
    assert np.array_equal(together, model.sample([3, 4, 5], 64))
    for i, seed in enumerate((3, 4, 5)):
        assert (model.sample([seed], 64)[0] != together[i]).sum() <= 1


def test_each_level_has_its_own_switch_and_stream(model: MaskModel) -> None:
    everything_off = model.sample([1, 2], 64, MaskLevels(False, False, False))
    shapes = [canonical(mask > 0, 32) > 0 for mask in everything_off]
    assert (shapes[0] != shapes[1]).mean() < 0.05, "without noise and shape the canonical lesion is one and the same"
    full, without_noise = model.sample([1], 64)[0], model.sample([1], 64, MaskLevels(noise=False))[0]
    without_shape, without_pose = model.sample([1], 64, MaskLevels(shape=False))[0], model.sample([1], 64, MaskLevels(pose=False))[0]
    for other in (without_noise, without_shape, without_pose):
        assert not np.array_equal(full, other)
    for other in (without_noise, without_shape):  # the pose's random numbers are untouched by the other levels
        assert np.abs(np.subtract(ndimage.center_of_mass(full), ndimage.center_of_mass(other))).max() < 2.5


def test_training_learns_and_resumes(real: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    whole, losses = fit_mask_model(real, TINY, "cpu")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])

    def stop(done: int, total: int, values: object) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_mask_model(real, TINY, "cpu", tmp_path / "c.safetensors", stop)
    again, repeated = fit_mask_model(real, TINY, "cpu", tmp_path / "c.safetensors")
    assert repeated == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.unet.parameters(), again.unet.parameters(), strict=True))


def test_saved_and_loaded_model_is_equal(model: MaskModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert np.array_equal(MaskModel.load(tmp_path).sample([7, 8], 64), model.sample([7, 8], 64))
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


def test_missing_model_and_missing_lesions_are_named(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="dvc repro mask_model"):
        MaskModel.load(tmp_path)
    with pytest.raises(MeddiffError, match="at least two"):
        fit_mask_model([np.zeros((32, 32), np.uint8)] * 5, TINY, "cpu")


def test_stage_leaves_model_loss_and_comparison(tmp_path: Path, tiny: Params, cases: Callable[..., list[Case]]) -> None:
    layout = Layout(tmp_path)
    folder = layout.cases("train")
    lines = ["id,group,labelled,image_sha256,mask_sha256"]
    for case in cases(8):
        write_image(folder / f"images/{case.id}.png", case.image)
        write_mask(folder / f"masks/{case.id}.png", case.mask)
        lines.append(f"{case.id},{case.group},1,,")
    (folder / "cases.csv").write_text("\n".join(lines))
    stage.run(layout, tiny, Unrecorded())
    assert {path.name for path in layout.mask_model.iterdir()} >= {"poses.json", "loss.csv", "comparison.csv", "masks.png"}
    MaskModel.load(layout.mask_model).sample([1], 32)
