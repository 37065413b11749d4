from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from scipy.stats import ks_2samp

from meddiff import mask_model, shapes
from meddiff.cases import Case, Pixels, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.mask_model import CUT, LEAST_PIXELS, MaskLevels, MaskModel, fit_mask_model
from meddiff.params import MaskModelParams, Params
from meddiff.stages import mask_model as stage
from meddiff.tracking import Unrecorded
from tests.conftest import SHARED_DATA

TINY = MaskModelParams(steps=60, grid=16, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def real() -> list[Pixels]:
    """Lobed lesions: an ellipse has no shape left without its pose."""
    masks = []
    for i in range(12):
        rng = np.random.default_rng(i)
        y, x = np.mgrid[:64, :64] - 64 * rng.uniform(0.35, 0.65, 2)[:, None, None]
        angle = np.arctan2(y, x * rng.uniform(0.6, 1.4))
        lobes = sum(rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4, 5))
        radius = 64 * rng.uniform(0.12, 0.2) * (1 + lobes)
        masks.append((np.hypot(y, x) < radius).astype(np.uint8))
    return masks


@pytest.fixture(scope="module")
def model(real: list[Pixels]) -> MaskModel:
    return fit_mask_model(real, TINY, "cpu")[0]


def poses(masks: Pixels) -> np.ndarray:
    return np.array([shapes.pose_of(mask > 0) for mask in masks])


def test_masks_are_single_whole_lesions_of_the_sizes_learnt(model: MaskModel, real: list[Pixels]) -> None:
    masks = model.sample(range(60), 64)
    assert (masks.shape, masks.dtype) == ((60, 64, 64), np.uint8)
    assert set(np.unique(masks)) == {0, 1}
    areas = [mask.mean() for mask in real]
    for mask in masks:
        assert ndimage.label(mask)[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
        assert mask.sum() >= LEAST_PIXELS
        assert 0.93 * min(areas) / 1.15 <= mask.mean() <= 1.02 * max(areas) * 1.15  # 3 percent cut off, and whole pixels
    assert len({mask.tobytes() for mask in masks}) == 60


def test_poses_are_distributed_like_those_learnt(model: MaskModel, real: list[Pixels]) -> None:
    ours, theirs = poses(model.sample(range(200), 64)), model.poses
    spread = theirs.std(axis=0)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 0.4 * spread).all()
    assert (ours.std(axis=0) > 0.6 * spread).all()
    assert (ours.std(axis=0) < 1.4 * spread + 0.03).all()
    assert np.linalg.norm(ours[:, None, :3] - theirs[None, :, :3], axis=2).min(axis=1).mean() > 0.005, "jittered, not copied"


def test_a_seed_gives_the_same_mask_alone_and_in_any_batch(model: MaskModel) -> None:
    together = model.sample([3, 4, 5], 64)
    assert np.array_equal(together, model.sample([3, 4, 5], 64))
    assert (model.sample([5, 9, 3], 64)[[2, 0]] != together[[0, 2]]).sum() <= 2
    for i, seed in enumerate((3, 4, 5)):
        assert (model.sample([seed], 64)[0] != together[i]).sum() <= 1


def test_the_size_of_the_frame_only_scales_a_mask(model: MaskModel) -> None:
    small, large = model.sample([6, 7], 64), model.sample([6, 7], 256)
    assert np.abs(poses(small) - poses(large)).max() < 0.05
    assert (large[:, 2::4, 2::4] != small).mean() < 0.01


def test_with_every_level_off_a_training_pose_holds_always_the_same_shape(model: MaskModel) -> None:
    masks = model.sample(range(6), 128, MaskLevels(False, False, False))
    assert np.abs(poses(masks)[:, None] - model.poses[None]).max(axis=2).min(axis=1).max() < 0.05
    assert shapes.likeness(list(masks), [masks[0]]).min() > 0.93


@pytest.mark.parametrize("level", ["noise", "shape", "pose"])
def test_a_level_alone_changes_with_the_seed_what_it_owns(model: MaskModel, level: str) -> None:
    off = {"noise": False, "shape": False, "pose": False}
    masks = model.sample(range(1, 9), 128, MaskLevels(**(off | {level: True})))
    still = model.sample(range(1, 9), 128, MaskLevels(**off))
    assert all((a != b).any() for a, b in zip(masks, still, strict=True)), "not a switch without effect"
    moved = np.abs(poses(masks) - poses(still)).max(axis=1)
    alike = shapes.likeness(list(masks), list(still)).diagonal()
    if level == "pose":
        assert moved.mean() > 0.02
        assert alike.min() > 0.93
    else:
        assert moved.max() < 0.05
        assert alike.min() < 0.97


@pytest.mark.parametrize("switched", ["noise", "shape", "pose"])
def test_switching_a_level_leaves_the_others_numbers(model: MaskModel, switched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[np.ndarray]] = {}

    def watch(owner: object, method: str) -> None:
        original = getattr(owner, method)

        def noting(*args: object) -> np.ndarray:
            result: np.ndarray = original(*args)
            drawn.setdefault(method, []).append(result[0] if method == "_maps" else result)
            return result

        monkeypatch.setattr(owner, method, noting)

    watch(MaskModel, "_maps")
    watch(mask_model, "elastic")
    watch(MaskModel, "_pose")
    model.sample([11], 64)
    full = {method: values[0] for method, values in drawn.items()}
    drawn.clear()
    model.sample([11], 64, MaskLevels(**{level: level != switched for level in ("noise", "shape", "pose")}))
    kept = {"noise": "_maps", "shape": "elastic", "pose": "_pose"}
    changed = kept.pop(switched)
    assert switched == "shape" or not np.array_equal(drawn[changed][0], full[changed])
    assert all(np.array_equal(drawn[method][0], full[method]) for method in kept.values())


def test_a_pose_that_the_frame_would_cut_is_drawn_again(model: MaskModel) -> None:
    edge = model.poses.copy()
    edge[:8, 1:3] = 0.03  # most training lesions in a corner: half of them would be cut off
    cornered = MaskModel(model.unet, edge, model.roughness)
    for seed in range(10):
        shape = cornered._shape(cornered._maps([seed], True)[0], seed, True)
        mask = cornered.sample([seed], 64)[0]
        assert any(np.array_equal(shape.draw(pose, 64), mask) and shape.cut(pose) <= CUT
                   for pose in (cornered._pose(np.random.default_rng([seed, 3, attempt]), True) for attempt in range(50)))
    filling = MaskModel(model.unet, np.repeat([[0.5, 0.5, 0.5, 0, 0]], 5, axis=0), model.roughness)
    with pytest.raises(MeddiffError, match="one of 50 drawn poses"):
        filling.sample([1], 64)


def test_few_or_equal_training_lesions_still_vary(real: list[Pixels]) -> None:
    twins = fit_mask_model([real[0], real[0]], TINY.model_copy(update={"steps": 2}), "cpu")[0]
    masks = twins.sample(range(8), 64)
    assert len({mask.tobytes() for mask in masks}) == 8
    assert np.isfinite(poses(masks)).all()


def test_training_learns_and_resumes(real: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    whole, losses = fit_mask_model(real, TINY, "cpu")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])

    def stop(done: int, total: int, values: Mapping[str, float]) -> None:
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


@pytest.mark.parametrize("damage", ["folder", "poses.json", "diffusion_pytorch_model.safetensors", "config.json", "cut", "old"])
def test_a_missing_or_damaged_model_is_named(model: MaskModel, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "mask_model"
    if damage != "folder":
        folder.mkdir()
        model.save(folder)
    if damage == "cut":
        weights = folder / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "old":
        (folder / "poses.json").write_text("[[0, 0, 0]]")
    elif damage != "folder":
        (folder / damage).unlink()
    with pytest.raises(MeddiffError, match=r"mask_model: an intact mask model.*`dvc repro mask_model`"):
        MaskModel.load(folder)


def test_missing_lesions_are_named() -> None:
    with pytest.raises(MeddiffError, match="at least two"):
        fit_mask_model([np.zeros((32, 32), np.uint8)] * 5, TINY, "cpu")


class Noted(Unrecorded):
    """Keeps what the stage tells."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.files: list[tuple[str, str]] = []

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.values |= values

    def file(self, path: Path, folder: str = "") -> None:
        assert path.is_file()
        self.files.append((path.name, folder))


def test_stage_leaves_model_loss_and_comparison(tmp_path: Path, tiny: Params, cases: Callable[..., list[Case]],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHECKED", 20)
    layout, tracker = Layout(tmp_path), Noted()
    folder = layout.cases("train")
    lines = ["id,group,labelled,image_sha256,mask_sha256"]
    for case in cases(8):
        write_image(folder / f"images/{case.id}.png", case.image)
        write_mask(folder / f"masks/{case.id}.png", case.mask)
        lines.append(f"{case.id},{case.group},1,,")
    (folder / "cases.csv").write_text("\n".join(lines))
    stage.run(layout, tiny, tracker)
    assert {path.name for path in layout.mask_model.iterdir()} >= {"poses.json", "loss.csv", "comparison.csv", "masks.png"}
    assert len(pd.read_csv(layout.mask_model / "loss.csv")) == tiny.mask_model.steps
    compared = pd.read_csv(layout.mask_model / "comparison.csv")["statistic"]
    assert set(compared) == {"area", "compactness", "axis_ratio", "centre_y", "centre_x"}
    assert tracker.values.keys() >= {"loss", "seconds", "nearest_iou_mean", "nearest_iou_real_mean", "ks_p_area"}
    assert 0 < tracker.values["nearest_iou_mean"] <= tracker.values["nearest_iou_max"] <= 1
    assert ("masks.png", "pictures") in tracker.files
    MaskModel.load(layout.mask_model).sample([1], 32)


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real datasets aren't here")
@pytest.mark.parametrize("name", ["busi", "isic2017"])
def test_poses_of_real_lesions_are_matched(name: str) -> None:
    """Place and size don't need the network, so few steps do; contours are judged by the stage's own statistics."""
    from meddiff.cases import read_mask

    paths = sorted((SHARED_DATA / name / "masks").glob("*.png"))[::7][:40]
    masks = [read_mask(path)[::4, ::4] for path in paths]
    model = fit_mask_model(masks, MaskModelParams(steps=20), "cpu")[0]
    ours, theirs = (shapes.statistics(list(some)) for some in (model.sample(range(100), 64), masks))
    for statistic in ("area", "axis_ratio", "centre_y", "centre_x"):
        assert ks_2samp(ours[statistic], theirs[statistic]).pvalue > 0.01, statistic
