from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from scipy.stats import ks_2samp

from meddiff.cases import Case, Pixels, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.lesions import shapes
from meddiff.lesions.shapes import Bits, Floats
from meddiff.masks import model as mask_model
from meddiff.masks import statistics as mask_statistics
from meddiff.masks.model import MaskModel, fit_mask_model
from meddiff.masks.placement import LEAST_PIXELS, Lesions, MaskLevels
from meddiff.masks.statistics import compactness
from meddiff.params import MaskModelParams, Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages import mask_model as stage
from tests.conftest import SHARED_DATA

LEVELS = ("noise", "condition", "shape", "pose", "placement")
OFF = dict.fromkeys(LEVELS, False)
TINY = MaskModelParams(steps=60, grid=16, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def real() -> list[Pixels]:
    """Lobed lesions: an ellipse has no shape left without its pose."""
    masks = []
    for i in range(16):
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


@pytest.fixture(scope="module")
def several(real: list[Pixels]) -> MaskModel:
    """Trained on two lesions of two classes in every other mask, one of them in the rest."""
    masks = []
    for i, mask in enumerate(real):
        both = np.zeros_like(mask)
        both[24:56, 24:56] = mask[::2, ::2]
        both[:32, :32] = np.maximum(both[:32, :32], mask[::2, ::2] * 2 * (i % 2))
        masks.append(both)
    return fit_mask_model(masks, TINY.model_copy(update={"steps": 20}), "cpu")[0]


def poses(masks: Pixels) -> np.ndarray:
    return np.array([shapes.pose_of(mask > 0) for mask in masks])


def alike(some: Pixels, others: Pixels) -> np.ndarray:
    ours, theirs = (np.stack([mask_statistics.polar_outline(shapes.Shape.of(shapes.canonical_fine(mask > 0, 32)))
                              for mask in masks]) for masks in (some, others))
    return mask_statistics.likeness(ours, theirs)


def test_masks_are_single_whole_lesions_of_the_sizes_learnt(model: MaskModel, real: list[Pixels]) -> None:
    masks = model.sample(range(60), 64)
    assert (masks.shape, masks.dtype) == ((60, 64, 64), np.uint8)
    assert set(np.unique(masks)) == {0, 1}
    areas = [mask.mean() for mask in real]
    for mask in masks:
        assert len(shapes.parts(mask)) == 1
        assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
        assert mask.sum() >= LEAST_PIXELS
        assert 0.93 * min(areas) / 1.15 <= mask.mean() <= 1.02 * max(areas) * 1.15  # 3 percent cut off, and whole pixels
    assert len({mask.tobytes() for mask in masks}) == 60


def test_poses_are_distributed_like_those_learnt(model: MaskModel, real: list[Pixels]) -> None:
    ours, theirs = poses(model.sample(range(200), 64)), model.lesions.poses
    spread = theirs.std(axis=0)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 0.4 * spread).all()
    assert (ours.std(axis=0) > 0.6 * spread).all()
    assert (ours.std(axis=0) < 1.4 * spread + 0.03).all()
    assert np.linalg.norm(ours[:, None, :3] - theirs[None, :, :3], axis=2).min(axis=1).mean() > 0.005, "jittered, not copied"


def test_several_lesions_keep_number_class_and_distance(several: MaskModel) -> None:
    masks = several.sample(range(60), 64)
    numbers = [len(shapes.parts(mask)) for mask in masks]
    assert set(numbers) == {1, 2}
    assert 0.3 < np.mean(np.array(numbers) == 2) < 0.7
    for mask in masks:
        found = shapes.parts(mask)
        if len(found) == 2:
            assert {part.label for part in found} == {1, 2}
            near = ndimage.binary_dilation(found[0].where, np.ones((3, 3)), 1)
            assert not (near & found[1].where).any(), "apart by the gap"
        else:
            assert found[0].label == 1
    assert np.bincount(masks.ravel())[2] > 0


def test_the_network_is_conditioned_on_class_and_size(several: MaskModel, real: list[Pixels]) -> None:
    assert sorted(set(several.lesions.condition)) == [0, 1, 3], "sixteen lesions of class 1 in two sizes, eight of class 2"
    wanted = [mask_model._Wanted(1, 0, int(np.flatnonzero(several.lesions.condition == c)[0])) for c in (0, 3)]
    first, second = several._maps(wanted, True, 0)
    assert np.abs(first - second).max() > 1e-4


def test_a_seed_gives_the_same_mask_alone_and_in_any_batch(several: MaskModel) -> None:
    together = several.sample([3, 4, 5], 64)
    assert np.array_equal(together, several.sample([3, 4, 5], 64))
    assert (several.sample([5, 9, 3], 64)[[2, 0]] != together[[0, 2]]).sum() <= 2
    for i, seed in enumerate((3, 4, 5)):
        assert (several.sample([seed], 64)[0] != together[i]).sum() <= 1


def test_the_size_of_the_frame_only_scales_a_mask(model: MaskModel) -> None:
    small, large = model.sample([6, 7], 64), model.sample([6, 7], 256)
    assert np.abs(poses(small) - poses(large)).max() < 0.05
    assert (large[:, 2::4, 2::4] != small).mean() < 0.01


def test_lesions_stay_within_the_imaged_field(model: MaskModel) -> None:
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    left, disc = x < 0.5, np.hypot(y - 0.5, x - 0.5) < 0.3
    for field in (left, disc):
        masks = model.sample(range(30), 64, fields=[field] * 30)
        assert all((mask[~field] > 0).sum() <= 0.06 * mask.sum() for mask in masks), "3 percent, and whole pixels"
        assert mask_statistics.outside(model.sample(range(30), 64), [field] * 30) > 0.02
    masks = model.sample([1, 2], 64, fields=[np.ones((64, 64), bool), left])
    assert np.array_equal(masks[0], model.sample([1], 64)[0]), "a mask depends on its own field alone"


def test_with_every_level_off_each_mask_is_the_same(model: MaskModel) -> None:
    masks = model.sample(range(6), 128, MaskLevels(**OFF))
    assert (masks == masks[0]).all()
    ordinary = model.lesions.poses[model.lesions.lent(0, False)[0]]
    assert np.abs(poses(masks[:1])[0] - ordinary).max() < 0.05


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_alone_changes_with_the_seed_what_it_owns(model: MaskModel, level: str) -> None:
    masks = model.sample(range(1, 9), 128, MaskLevels(**(OFF | {level: True})))
    still = model.sample(range(1, 9), 128, MaskLevels(**OFF))
    assert sum((a != b).any() for a, b in zip(masks, still, strict=True)) > 5, "not a switch without effect"
    moved = np.abs(poses(masks) - poses(still)).max(axis=0)
    if level in ("noise", "shape"):
        assert moved.max() < 0.05
        assert alike(masks, still).diagonal().min() < 0.97
    elif level == "pose":
        assert moved[[0, 3, 4]].min() > 0.02
        assert moved[[1, 2]].max() < 0.03
    elif level == "placement":
        assert moved[[1, 2]].min() > 0.02
        assert moved[[0, 3, 4]].max() < 0.05
    else:
        assert len({mask.tobytes() for mask in masks}) > 3
        assert np.abs(poses(masks)[:, None] - model.lesions.poses[None]).max(axis=2).min(axis=1).max() < 0.05, "training poses"


@pytest.mark.parametrize("switched", LEVELS)
def test_switching_a_level_leaves_the_others_numbers(model: MaskModel, switched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, object] = {}

    def watch(owner: object, method: str) -> None:
        original = getattr(owner, method)

        def noting(*args: object) -> object:
            result = original(*args)
            drawn.setdefault(method, result)
            return result

        monkeypatch.setattr(owner, method, noting)

    watch(mask_model, "noise")
    watch(mask_model, "elastic")
    watch(Lesions, "lent")
    watch(Lesions, "pose")

    def numbers(levels: MaskLevels) -> dict[str, np.ndarray]:
        drawn.clear()
        model.sample([11], 64, levels)
        generator, lent, pose = drawn["noise"], drawn["lent"], drawn["pose"]
        assert isinstance(generator, torch.Generator)
        jitter = np.asarray(pose) - model.lesions.poses[lent[0]]  # type: ignore[index]
        return {"noise": np.array(generator.initial_seed()), "condition": np.array(lent), "pose": jitter[[0, 3, 4]],
                "placement": jitter[[1, 2]]} | ({"shape": np.asarray(drawn["elastic"])} if "elastic" in drawn else {})

    full, without = numbers(MaskLevels()), numbers(MaskLevels(**{level: level != switched for level in LEVELS}))
    started = {"pose", "placement"} if switched == "condition" else set()  # they start from what is lent
    kept = set(LEVELS) - {switched} - started
    assert all(np.array_equal(full[level], without[level]) for level in kept)
    assert switched == "shape" or not np.array_equal(full[switched], without[switched])
    assert ("shape" in without) == (switched != "shape")


def test_copies_of_training_lesions_are_drawn_again(model: MaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    free = model.invent(range(20), 64)
    assert len(free.alike) == 20
    assert free.alike.max() <= max(mask_model.COPY, model.alike.max()) or free.copies
    strict = replace(model, outlines=np.concatenate([model.outlines] * 2)[:len(model.outlines)])
    bound = float(np.median(free.alike))
    monkeypatch.setattr(mask_model, "COPY", bound)
    monkeypatch.setattr(MaskModel, "alike", property(lambda self: np.r_[np.zeros(18), 1, 1]))  # a lesion is there twice
    again = strict.invent(range(20), 64)
    assert again.redrawn == (free.alike > bound).sum()
    assert again.copies == (again.alike > bound).sum()
    assert again.copies < again.redrawn
    assert (again.alike <= free.alike + 1e-6).all(), "the least alike of the tries is kept"
    unchanged = free.alike <= bound
    assert np.array_equal(again.masks[unchanged], free.masks[unchanged])
    still = strict.invent(range(4), 64, MaskLevels(noise=False, shape=False))
    assert still.redrawn == 0, "without randomness another try would be the same"


@pytest.mark.parametrize("n", [2, 3, 10])
def test_few_or_equal_training_lesions_still_vary(real: list[Pixels], n: int) -> None:
    for masks in ([real[0]] * n, real[:n]):
        few = fit_mask_model(masks, TINY.model_copy(update={"steps": 2}), "cpu")[0]
        invented = few.sample(range(8), 64)
        assert len({mask.tobytes() for mask in invented}) == 8
        assert np.isfinite(poses(invented)).all()


def test_lesions_cut_off_by_the_frame_teach_no_shape_but_their_place(real: list[Pixels]) -> None:
    cut = [np.roll(mask, 24, axis=0) * (np.arange(64) > 24)[:, None].astype(np.uint8) for mask in real[:4]]
    cut = [np.where(mask.any(), mask, real[0]).astype(np.uint8) for mask in cut]
    model = fit_mask_model([*real[4:], *cut], TINY.model_copy(update={"steps": 2}), "cpu")[0]
    assert len(model.lesions.poses) == len(real)
    assert len(model.sample([1, 2], 64)) == 2
    only: list[Bits] = [mask > 0 for mask in cut if shapes.cut_off(mask > 0)]
    if len(only) >= 2:
        fit_mask_model([lesion.astype(np.uint8) for lesion in only], TINY.model_copy(update={"steps": 2}), "cpu")


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


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("damage", ["folder", "lesions.safetensors", WEIGHTS, "config.json", "cut", "old"])
def test_a_missing_or_damaged_model_is_named(model: MaskModel, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "mask_model"
    if damage != "folder":
        folder.mkdir()
        model.save(folder)
    if damage == "cut":
        weights = folder / WEIGHTS
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "old":
        from safetensors.numpy import save_file

        save_file({"poses": model.lesions.poses}, folder / "lesions.safetensors")
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
    written = {path.name for path in layout.mask_model.iterdir()}
    assert written >= {"lesions.safetensors", "loss.csv", "comparison.csv", "masks.png"}
    assert len(pd.read_csv(layout.mask_model / "loss.csv")) == tiny.mask_model.steps
    compared = pd.read_csv(layout.mask_model / "comparison.csv")["statistic"]
    assert set(compared) == {"area", "lesions", "compactness", "axis_ratio", "centre_y", "centre_x"}
    assert tracker.values.keys() >= {"loss", "seconds", "nearest_iou_mean", "nearest_iou_real_mean", "ks_p_area", "ks_p_lesions",
                                     "copies_drawn_again", "copies_left", "outside_field", "outside_field_real"}
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
    ours, theirs = (mask_statistics.mask_statistics(list(some)) for some in (model.sample(range(100), 64), masks))
    for statistic in ("area", "axis_ratio", "centre_y", "centre_x"):
        assert ks_2samp(ours[statistic], theirs[statistic]).pvalue > 0.01, statistic


def test_redrawn_lesions_are_as_irregular_as_they_were() -> None:
    angle = np.arctan2(*(np.mgrid[:128, :128] - 64))
    for teeth, wave in ((0.0, 0), (0.03, 18), (0.06, 18), (0.1, 12)):
        y, x = np.mgrid[:128, :128] - 64
        lesion = np.hypot(y, x) < 38 * (1 + teeth * np.sin(wave * angle))
        fine, pose, aim = shapes.canonical_fine(lesion, 32), shapes.pose_of(lesion), compactness(lesion)
        smooth, wanted = shapes.finer(shapes.coarse(fine)), mask_model._matched_roughness(lesion, fine)

        def drawn(amount: float, fine: Floats = smooth, pose: Floats = pose) -> float:
            rough = [shapes.roughened(fine, amount, np.random.default_rng(seed)) for seed in range(6)]
            return float(np.median([compactness(shapes.Shape.of(one).draw(pose, 128) > 0) for one in rough]))

        assert abs(drawn(wanted) - aim) < 0.08
        if wave == 18:
            assert drawn(shapes.roughness(fine)) > aim + 0.03, "the same amount in random phase is less"
