"""Stages `segment` and `evaluate` on tiny project folders: arms, resume, and everything the report leaves behind."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from meddiff.cases import Case, mask_png, read_mask, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import nearer_p
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import PairFiles, list_accepted
from meddiff.params import Params
from meddiff.segmentation import pools
from meddiff.segmentation.augmentation import AUGMENTATIONS, augment
from meddiff.segmentation.decision import Findings
from meddiff.segmentation.ensemble import Ensemble, Recipe
from meddiff.segmentation.metrics import dice as dice_of
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import Unrecorded
from meddiff.stages import arms as stage_arms
from meddiff.stages import evaluate, prepare, segment
from tests.conftest import make_cases
from tests.shards import change, mask_ids, put_batch, put_masks
from tests.stages.test_prepare import wide_folder


class Recorded(Unrecorded):
    """Keeps what a stage tells."""

    def __init__(self) -> None:
        self.values, self.headlines, self.points, self.files = {}, {}, [], []

    def metrics(self, values, step=None):
        self.values |= values
        self.points.append((step, dict(values)))

    def headline(self, values):
        self.headlines |= values

    def headline_file(self, path, folder=""):
        assert path.exists()
        self.files.append(path.name)


def put_split(layout: Layout, split: str, cases: list[Case]) -> None:
    folder = layout.cases(split)
    for case in cases:
        write_image(folder / "images" / f"{case.id}.png", case.image)
        write_mask(folder / "masks" / f"{case.id}.png", case.mask)
    pd.DataFrame([{"id": c.id, "group": c.group, "labelled": 1, "image_sha256": "", "mask_sha256": ""} for c in cases]
                 ).to_csv(folder / "cases.csv", index=False)


def put_synthetic(layout: Layout, accepted: int = 3) -> None:
    decisions, masks = [], {}
    for batch, seed in (("b0000", 20), ("b0001", 21)):
        rows, made = [], make_cases(4, seed=seed)
        for i, case in enumerate(made):
            rows.append({"id": case.id, "batch": batch, "seed": i, "background": f"bg{i}", "area": 0.1, "guidance_scale": 1.5,
                         "steps": 3, "generator": "g"})
            good = batch == "b0000" and i < accepted
            bad = ("rejected", "copy") if batch == "b0000" else ("quarantined", "batch: contrast")
            verdict, reason = ("accepted", "") if good else bad
            if good:
                masks[case.id] = case.mask
            write_image(layout.backgrounds / "images" / f"bg{i}.png", case.image)
            decisions.append({"id": case.id, "batch": batch, "similarity": 0.5, "nearest": "case_0_000", "agreement": 0.9,
                              "contrast": 9.0, "area": 0.1, "verdict": verdict, "reason": reason})
        put_batch(layout.synthetic / batch, rows, [(case.image, case.mask) for case in made])
    put_masks(layout, masks)
    pd.DataFrame(decisions).to_parquet(layout.filtered / "decisions.parquet")
    (layout.filtered / "batches.json").write_text(json.dumps({"b0000": {"reasons": []}, "b0001": {"reasons": ["contrast: 0.1"]}}))


def fill(root: Path) -> Layout:
    layout = Layout(root)
    for split, n, seed in (("train", 8, 0), ("val", 4, 1)):
        put_split(layout, split, make_cases(n, seed=seed))
    put_split(layout, "test", [*make_cases(6, seed=2), *make_cases(1, seed=3, lesion=False)])
    put_synthetic(layout)
    layout.normal.mkdir(parents=True)
    (layout.normal / "backgrounds.csv").write_text("id,source,group,sha256\n")
    layout.generator.mkdir(parents=True)
    pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}).to_csv(layout.generator / "loss.csv", index=False)
    return layout


@pytest.fixture
def layout(tmp_path) -> Layout:
    return fill(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Layout:
    """Segmenters of both arms and two seeds; copied by each test that evaluates them."""
    layout = fill(tmp_path_factory.mktemp("trained"))
    segment.run(layout, settings(), Unrecorded())
    return layout


@pytest.fixture
def finished(trained, tmp_path) -> Layout:
    shutil.copytree(trained.root, tmp_path / "project")
    put_backgrounds(Layout(tmp_path / "project"))
    return Layout(tmp_path / "project")


def settings(**changes) -> Params:
    values = {"segment": {"arms": ["real", "synthetic"], "steps": 3, "batch_size": 4, "seeds": [0, 1]},
              "evaluate": {"resamples": 50, "pictures": 3},
              "compute": {"threads": 1, "device": "cpu", "precision": "float32"}}
    for name, section in changes.items():
        values[name] = values.get(name, {}) | section
    return Params.model_validate(values)


def weights(layout: Layout, arm: str, seed: int) -> bytes:
    return (layout.segmenters / arm / str(seed) / "model.safetensors").read_bytes()


def test_segment_leaves_every_arm_and_seed(layout):
    tracker = Recorded()
    segment.run(layout, settings(), tracker)
    table = pd.read_csv(layout.segmenters / "validation.csv")
    assert list(zip(table["arm"], table["seed"], strict=True)) == [("real", 0), ("real", 1), ("synthetic", 0), ("synthetic", 1)]
    assert (table["steps"] == 3).all()
    assert (table["n_real"] == 8).all()
    assert table["n_synthetic"].tolist() == [0, 0, 3, 3]
    for arm, seed, dice in zip(table["arm"], table["seed"], table["dice"], strict=True):
        assert Segmenter.load(layout.segmenters / arm / str(seed)).validation_dice == pytest.approx(dice)
        assert tracker.values[f"val_dice_{arm}_{seed}"] == pytest.approx(dice)
    ensemble = Ensemble.load(layout.segmenters / "synthetic")
    assert (ensemble.recipe, ensemble.seeds) == (Recipe("synthetic", ("lesion",), 32, "pad"), (0, 1))
    assert len({weights(layout, arm, seed) for arm in ("real", "synthetic") for seed in (0, 1)}) == 4
    assert set(tracker.headlines) == {"val_dice_real", "val_dice_synthetic"}
    assert [step for step, values in tracker.points if "loss_real_0" in values] == [1, 2, 3]


def test_every_synthetic_arm_has_as_many_pairs_and_its_own_masks(layout, monkeypatch):
    used, train = {}, stage_arms.train_segmenter

    def spy(real, synthetic, *rest):
        used[len(used)] = {case.id: (case.mask > 0).sum() for case in synthetic}
        return train(real, synthetic, *rest)

    first = min(mask_ids(layout))
    small = mask_png(np.pad(np.ones((2, 2), np.uint8), ((15, 15), (15, 15))))
    change(layout.filtered / "masks.parquet", first, mask=small)
    monkeypatch.setattr(stage_arms, "train_segmenter", spy)
    arms = ["real", "synthetic", "uncorroded", "unfiltered"]
    segment.run(layout, settings(segment={"arms": arms, "seeds": [0]}), Unrecorded())
    assert [len(pairs) for pairs in used.values()] == [0, 3, 3, 3]
    assert used[1].keys() == used[2].keys() != used[3].keys()
    assert used[1][first] == 4 < used[2][first]
    decided = pd.read_parquet(layout.filtered / "decisions.parquet").set_index("id")["verdict"]
    assert set(decided[list(used[3])]) - {"accepted"}
    table = pd.read_csv(layout.segmenters / "validation.csv")
    assert table["arm"].tolist() == arms
    assert table["n_synthetic"].tolist() == [0, 3, 3, 3]
    tracker = Recorded()
    put_backgrounds(layout)
    evaluate.run(layout, settings(), tracker)
    summary = json.loads((layout.report / "summary.json").read_text())
    assert list(summary["arms"]) == arms
    assert list(summary["effects"]) == ["uncorroded", "unfiltered"]
    assert "the same without corrosion" in (layout.report / "report.html").read_text()


def put_backgrounds(layout: Layout) -> None:
    normal = make_cases(4, seed=30, lesion=False)
    for case in normal:
        write_image(layout.backgrounds / "images" / f"{case.id}.png", case.image)
    table = pd.DataFrame({"id": [case.id for case in normal], "source": "normal"})
    table.to_csv(layout.backgrounds / "backgrounds.csv", index=False)


class Trained:
    """Stands in for the training: what each call is given, and the untrained result of one step."""

    def __init__(self, monkeypatch) -> None:
        self.calls, train = [], stage_arms.train_segmenter

        def spy(real, synthetic, settings, seed, validation, device, checkpoint, report, classes, augmentation):
            self.calls.append(SimpleNamespace(real=real, pairs=synthetic, settings=settings, seed=seed,
                                              augmentation=augmentation))
            return train(real, synthetic, settings.model_copy(update={"steps": 1}), seed, validation, classes=classes)

        monkeypatch.setattr(stage_arms, "train_segmenter", spy)


def test_the_rivals_and_ratios_differ_in_what_they_are_about(layout, monkeypatch):
    put_backgrounds(layout)
    trained, arms = Trained(monkeypatch), ["real", "augmented", "copy_paste", "synthetic", "synthetic_only", "synthetic_x0.25",
                                           "synthetic_x5"]
    segment.run(layout, settings(segment={"arms": arms, "seeds": [0, 1], "ratio": 0.25}), Unrecorded())
    table = pd.read_csv(layout.segmenters / "validation.csv")
    assert table["arm"].tolist() == [arm for arm in arms for _ in (0, 1)]
    assert table.groupby("arm")["n_synthetic"].unique().map(list).to_dict() == {
        "real": [0], "augmented": [0], "copy_paste": [2], "synthetic": [2], "synthetic_only": [2], "synthetic_x0.25": [2],
        "synthetic_x5": [3]}                                   # of 8 real cases and 3 accepted pairs
    assert weights(layout, "synthetic", 1) == weights(layout, "synthetic_x0.25", 1)
    strengths = AUGMENTATIONS["strong"]
    calls = [SimpleNamespace(arm=arm, **vars(call)) for arm, call in zip(
        [arm for arm in arms if arm != "synthetic_x0.25" for _ in (0, 1) for _ in (strengths if arm == "augmented" else [0])],
        trained.calls, strict=True)]
    assert len({tuple(case.id for case in call.real) for call in calls}) == 1
    for call in calls:
        assert call.augmentation in (strengths if call.arm == "augmented" else [augment])
        assert call.settings.share == {"real": 0, "augmented": 0, "synthetic_only": 1}.get(call.arm, settings().segment.share)
        assert (call.settings.steps, call.settings.batch_size) == (3, 4)
    assert [call.augmentation for call in calls if call.arm == "augmented" and call.seed == 1] == list(strengths)
    pasted = {call.seed: call.pairs for call in calls if call.arm == "copy_paste"}
    assert {case.group for case in pasted[0]} <= {case.group for case in calls[0].real}
    assert not np.array_equal(pasted[0][0].image, pasted[1][0].image)
    accepted = {call.arm: {case.id for case in call.pairs} for call in calls if call.seed == 0}
    assert accepted["synthetic"] == accepted["synthetic_only"] < accepted["synthetic_x5"]
    assert table.groupby("arm")["n_wanted"].first().to_dict() == {
        "real": 0, "augmented": 0, "copy_paste": 2, "synthetic": 2, "synthetic_only": 2, "synthetic_x0.25": 2,
        "synthetic_x5": 40}


def test_only_the_pairs_that_are_used_are_read_and_they_are_those_of_all(layout, monkeypatch):
    every, seen, read = [pair.read() for pair in list_accepted(layout)], [], PairFiles.read
    monkeypatch.setattr(PairFiles, "read", lambda files: seen.append(files.id) or read(files))
    segment.run(layout, settings(segment={"arms": ["real", "synthetic"], "seeds": [0, 1], "ratio": 0.25}), Unrecorded())
    assert len(seen) == 4
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    whole = settings().segment.model_copy(update={"ratio": 0.25})
    for seed in (0, 1):
        trained = stage_arms.train_segmenter(real, every, whole, seed, validation)
        trained.save(layout.work / "whole")
        assert (layout.work / "whole/model.safetensors").read_bytes() == weights(layout, "synthetic", seed)


def test_settings_of_other_arms_leave_the_real_ones_and_the_pasted_ones_alone(layout, monkeypatch):
    put_backgrounds(layout)
    trained, arms = Trained(monkeypatch), ["real", "augmented", "copy_paste", "synthetic", "synthetic_only"]

    def trains(**changes) -> int:
        before = len(trained.calls)
        segment.run(layout, settings(segment={"seeds": [0], "arms": arms} | changes), Unrecorded())
        return len(trained.calls) - before

    assert trains() == 4 + len(AUGMENTATIONS["strong"])
    assert trains() == 0
    assert trains(ratio=2.0) == 0                          # three accepted pairs are fewer than either ratio allows
    assert trains(share=0.33) == 2                         # those that mix: copy_paste and synthetic
    assert trains(share=0.33, arms=[*arms, "synthetic_x0.25"]) == 1
    put_synthetic(layout, accepted=2)
    assert trains(share=0.33) == 3                         # neither real nor augmented


def test_pasted_lesions_need_no_accepted_pair_but_backgrounds(layout, monkeypatch):
    only = settings(segment={"arms": ["copy_paste"], "seeds": [0], "ratio": 3.0})
    with pytest.raises(MeddiffError, match=r"backgrounds.csv: the table of backgrounds must be there.*repro backgrounds"):
        segment.run(layout, only, Unrecorded())
    put_backgrounds(layout)
    shutil.rmtree(layout.filtered)
    put_synthetic(layout, accepted=0)
    Trained(monkeypatch)
    segment.run(layout, only, Unrecorded())
    assert pd.read_csv(layout.segmenters / "validation.csv")["n_synthetic"].tolist() == [24]  # ratio 3 of 8 real cases


def test_copies_go_on_lesion_free_images_and_self_training_takes_what_was_found(layout, monkeypatch):
    put_backgrounds(layout)
    for arm in ("self_training", "combined"):
        with pytest.raises(MeddiffError, match=rf"sites: the {arm} arm needs.*site_agreement"):
            segment.run(layout, settings(segment={"arms": [arm], "seeds": [0]}), Unrecorded())
    found, table = make_cases(3, seed=31), pd.read_csv(layout.backgrounds / "backgrounds.csv")
    for case in found:
        write_image(layout.cases("train") / "images" / f"{case.id}.png", case.image)
        write_image(layout.backgrounds / "images" / f"{case.id}_site.png", 255 - case.image)
        write_mask(layout.backgrounds / "sites" / f"{case.id}_site.png", case.mask)
    sites = pd.DataFrame({"id": [f"{case.id}_site" for case in found], "source": [f"site:{case.id}" for case in found]})
    pd.concat([table, sites]).to_csv(layout.backgrounds / "backgrounds.csv", index=False)
    trained = Trained(monkeypatch)
    given, paste = [], pools.copy_paste
    monkeypatch.setattr(pools, "copy_paste",
                        lambda real, grounds, *rest: given.append(len(grounds)) or paste(real, grounds, *rest))
    segment.run(layout, settings(segment={"arms": ["self_training", "copy_paste", "copy_paste_sites", "combined", "synthetic"],
                                          "seeds": [0], "share": 0.5}), Unrecorded())
    together, invented = trained.calls[3], trained.calls[4]
    assert [pair.id for pair in together.pairs] == [pair.id for pair in (*invented.pairs, *found)]
    assert together.settings.share == pytest.approx(2 / 3), "real cases, invented ones and those found: a third each"
    assert invented.settings.share == 0.5
    assert pd.read_csv(layout.segmenters / "validation.csv").set_index("arm")["n_wanted"]["combined"] == 160  # ratio 10
    for pair, case in zip(trained.calls[0].pairs, found, strict=True):
        assert pair.id == case.id
        assert np.array_equal(pair.image, case.image), "as it was before its lesion was filled in"
        assert np.array_equal(pair.mask, case.mask)
    assert given == [4, 3], "lesion-free images, and sites with their lesions filled in"
    grounds, centres = [255 - case.image for case in found], [np.argwhere(case.mask).mean(axis=0) for case in found]
    for pair in trained.calls[2].pairs:
        at = [i for i, ground in enumerate(grounds) if (pair.image == ground).mean() > 0.5]
        assert len(at) == 1
        assert np.linalg.norm(np.argwhere(pair.mask).mean(axis=0) - centres[at[0]]) < 3


def test_the_report_and_the_closing_lines_name_all_arms(layout, monkeypatch, capsys):
    put_backgrounds(layout)
    Trained(monkeypatch)
    arms = ["real", "augmented", "copy_paste", "synthetic", "uncorroded", "synthetic_only", "synthetic_x0.25"]
    segment.run(layout, settings(segment={"arms": arms, "seeds": [0]}), Unrecorded())
    evaluate.run(layout, settings(), Unrecorded())
    summary, page = json.loads((layout.report / "summary.json").read_text()), (layout.report / "report.html").read_text()
    assert list(summary["arms"]) == arms
    assert list(summary["effects"]) == ["augmented", "copy_paste", "uncorroded", "synthetic_only", "synthetic_x0.25"]
    assert summary["n_synthetic"] == 3
    shown = capsys.readouterr().out
    for words in ("real images, tuned augmentation", "real + pasted real lesions", "synthetic images only",
                  "real + synthetic images, up to 0.25 for each real one"):
        assert f"Synthetic arm against “{words}”: " in shown
        assert f"“{words}” against real images only: " in shown
        assert words in page
    assert "in one arm of a strength chosen on validation cases" in page
    assert "Dice, synthetic images only" not in page       # some stand where there is room for a few


def test_arms_of_equal_pairs_are_trained_once(layout, monkeypatch):
    train, calls = stage_arms.train_segmenter, []
    monkeypatch.setattr(stage_arms, "train_segmenter", lambda *args: calls.append(args) or train(*args))
    segment.run(layout, settings(segment={"arms": ["synthetic", "uncorroded"]}), Unrecorded())
    assert len(calls) == 2  # one a seed: the masks of this filter weren't corroded
    assert pd.read_csv(layout.segmenters / "validation.csv")["arm"].tolist() == ["synthetic"] * 2 + ["uncorroded"] * 2
    assert weights(layout, "synthetic", 0) == weights(layout, "uncorroded", 0) != weights(layout, "uncorroded", 1)


def test_loss_curves_are_throttled(layout):
    tracker = Recorded()
    segment.run(layout, settings(segment={"steps": 51, "seeds": [0], "arms": ["real"], "batch_size": 1}), tracker)
    assert 20 <= sum("loss_real_0" in values for _, values in tracker.points) <= 50


def test_a_killed_run_goes_on_with_what_is_finished(layout, monkeypatch):
    train, calls = stage_arms.train_segmenter, []

    def kill_the_third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(stage_arms, "train_segmenter", kill_the_third)
    with pytest.raises(KeyboardInterrupt):
        segment.run(layout, settings(), Unrecorded())
    assert not layout.segmenters.exists()
    segment.run(layout, settings(), Unrecorded())
    assert len(calls) == 5  # two finished, one killed, then the two that were missing
    assert len(pd.read_csv(layout.segmenters / "validation.csv")) == 4


def test_only_what_a_change_touches_is_trained_again(finished, monkeypatch):
    before = weights(finished, "real", 0)
    train, calls = stage_arms.train_segmenter, []

    def count(*args, **kwargs):
        calls.append(args[3])
        return train(*args, **kwargs)

    monkeypatch.setattr(stage_arms, "train_segmenter", count)
    segment.run(finished, settings(), Unrecorded())
    assert calls == []
    segment.run(finished, settings(segment={"share": 0.33}), Unrecorded())
    assert calls == [0, 1]  # the synthetic arm alone
    segment.run(finished, settings(segment={"share": 0.33, "seeds": [0, 1, 2]}), Unrecorded())
    assert calls == [0, 1, 2, 2]
    segment.run(finished, settings(segment={"steps": 4, "arms": ["real"], "seeds": [0]}), Unrecorded())
    assert calls == [0, 1, 2, 2, 0]
    assert weights(finished, "real", 0) != before
    assert len(list((finished.work / "segment").iterdir())) == 1  # what belongs to other inputs is gone


def test_changed_training_code_trains_again(finished, monkeypatch):
    train, calls = stage_arms.train_segmenter, []
    monkeypatch.setattr(stage_arms, "code", lambda *names: "other code")
    monkeypatch.setattr(stage_arms, "train_segmenter", lambda *args: calls.append(args) or train(*args))
    segment.run(finished, settings(), Unrecorded())
    assert len(calls) == 4


def test_no_accepted_pair_is_told_with_its_remedy(layout):
    shutil.rmtree(layout.filtered)
    put_synthetic(layout, accepted=0)
    with pytest.raises(MeddiffError, match=r"decisions.parquet: the synthetic arm needs at least one accepted pair.*train the"):
        segment.run(layout, settings(), Unrecorded())
    segment.run(layout, settings(segment={"arms": ["real"]}), Unrecorded())
    assert pd.read_csv(layout.segmenters / "validation.csv")["arm"].unique().tolist() == ["real"]


def test_an_arm_without_pairs_may_be_the_real_one(layout, monkeypatch, capsys):
    shutil.rmtree(layout.filtered)
    put_synthetic(layout, accepted=0)
    put_backgrounds(layout)
    trained = Trained(monkeypatch)
    arms = ["real", "synthetic", "self_training", "synthetic_x0.5"]
    segment.run(layout, settings(segment={"arms": arms, "seeds": [0], "empty_arms": "real"}), Unrecorded())
    assert len(trained.calls) == 1, "the arms share the real one's segmenter"
    table = pd.read_csv(layout.segmenters / "validation.csv")
    assert table["arm"].tolist() == arms
    assert table["n_synthetic"].tolist() == [0, 0, 0, 0]
    assert table["dice"].nunique(dropna=False) == 1
    assert "there is no pair for the arm self_training" in capsys.readouterr().err
    assert pd.read_csv(layout.segmenters / "dropped.csv").empty
    only = settings(segment={"arms": ["synthetic_only"], "seeds": [0], "empty_arms": "real"})
    with pytest.raises(MeddiffError, match=r"the synthetic_only arm needs at least one accepted pair"):
        segment.run(layout, only, Unrecorded())


def test_only_the_impossible_arms_of_the_benchmark_are_left_out(layout, monkeypatch, capsys):
    """The benchmark's own arms, where the filter accepts nothing and lesions fit into no background."""
    shutil.rmtree(layout.filtered)
    put_synthetic(layout, accepted=0)
    table = pd.DataFrame({"id": [], "source": []})
    layout.backgrounds.mkdir(exist_ok=True)
    table.to_csv(layout.backgrounds / "backgrounds.csv", index=False)
    Trained(monkeypatch)
    arms = [*Params().benchmark.arms, *Params().benchmark.further]
    segment.run(layout, settings(segment={"arms": arms, "seeds": [0, 1], "empty_arms": "real"}), Unrecorded())
    left = [arm for arm in arms if arm not in ("copy_paste", "copy_paste_sites", "synthetic_only")]
    assert list(dict.fromkeys(pd.read_csv(layout.segmenters / "validation.csv")["arm"])) == left
    dropped = pd.read_csv(layout.segmenters / "dropped.csv").set_index("arm")["reason"]
    assert "lesion-free background" in dropped["copy_paste"]
    assert "the filter left none" in dropped["synthetic_only"]
    assert "segment: the arm synthetic_only is left out: " in capsys.readouterr().err
    evaluate.run(layout, settings(), Unrecorded())
    assert list(json.loads((layout.report / "summary.json").read_text())["arms"]) == left
    with pytest.raises(MeddiffError, match="lesion-free background"):
        segment.run(layout, settings(segment={"arms": arms, "seeds": [0, 1]}), Unrecorded())


def test_the_memorised_share_is_a_headline_of_the_evaluation(finished):
    tracker = Recorded()
    (finished.filtered / "fidelity.json").write_text(json.dumps({"n_reference": 19, "sets": {"accepted": {
        "n": 40, "copies": {"share": 0.25, "expected_share": 0.05}}}}))
    evaluate.run(finished, settings(), tracker)
    assert tracker.headlines["memorised"] == 0.25
    assert tracker.headlines["memorised_p"] == pytest.approx(nearer_p(10, 40, 19))


def test_evaluate_leaves_rows_summary_pictures_and_page(finished, capsys):
    tracker = Recorded()
    evaluate.run(finished, settings(), tracker)
    table = pd.read_csv(finished.report / "per_case.csv")
    assert list(table.columns) == ["case", "group", "class", "arm", "seed", "dice", "iou", "hd95", "nsd", "lesions", "found",
                                   "false_positives", "lesion_area", "stratum", "dice_undecided"]
    assert set(table["class"]) == {"lesion"}
    assert len(table) == 7 * 4
    assert table[table["lesion_area"] == 0]["stratum"].unique().tolist() == ["empty"]
    summary = json.loads((finished.report / "summary.json").read_text())
    with_lesion, free = table[table["stratum"] != "empty"], table[table["stratum"] == "empty"]
    assert summary["arms"]["real"]["dice"]["mean"] == pytest.approx(with_lesion[with_lesion["arm"] == "real"]["dice"].mean())
    assert summary["arms"]["real"]["dice"]["cases"] == 6
    assert free["lesions"].tolist() == [0] * 4
    assert (with_lesion["lesions"] == 1).all()
    for arm, rows in free.groupby("arm"):
        assert summary["detection"][arm]["specificity"]["mean"] == (rows["false_positives"] == 0).mean()
        assert tracker.headlines[f"specificity_{arm}"] == (rows["false_positives"] == 0).mean()
    for arm, rows in with_lesion.groupby("arm"):
        assert summary["detection"][arm]["lesions_found"] == pytest.approx(rows["found"].sum() / 12)
        shown = (rows["found"] + rows["false_positives"] > 0).mean()
        assert summary["detection"][arm]["sensitivity"]["mean"] == pytest.approx(shown)
        assert tracker.headlines[f"sensitivity_{arm}"] == pytest.approx(shown)
        assert summary["detection"][arm]["decision"]["mean"] == 0   # no lesion-free validation case, no decision
    assert (table["dice"].fillna(-1) == table["dice_undecided"].fillna(-1)).all()
    paired = with_lesion.pivot(index=["seed", "case"], columns="arm", values="dice").dropna()
    assert summary["gain"]["mean"] == pytest.approx((paired["synthetic"] - paired["real"]).mean())
    assert summary["gain"]["lower"] <= summary["gain"]["mean"] <= summary["gain"]["upper"]
    assert (summary["acceptance"], summary["copies"], summary["quarantined"]) == (3 / 8, 1 / 8, 1)
    pictures = {path.name for path in (finished.report / "pictures").iterdir()}
    assert pictures == {"dice.png", "gain.png", "cases.png", "pairs.png", "loss.png"}
    page = (finished.report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert tracker.headlines["gain"] == pytest.approx(summary["gain"]["mean"])
    assert {"dice_real", "dice_synthetic", "gain_lower", "gain_upper", "acceptance", "copies"} <= set(tracker.headlines)
    assert tracker.files == ["report.html", "summary.json", "per_case.csv", "pictures"]
    shown = capsys.readouterr().out
    for words in ("Dice, real arm: ", "Dice, synthetic arm: ", "95% interval", str(finished.report / "report.html")):
        assert words in shown


def test_evaluate_repeats_itself_and_survives_a_test_without_lesions(finished):
    evaluate.run(finished, settings(), Unrecorded())
    first = (finished.report / "summary.json").read_text()
    evaluate.run(finished, settings(), Unrecorded())
    assert (finished.report / "summary.json").read_text() == first
    put_split(finished, "test", make_cases(2, seed=4, lesion=False))
    blank = np.zeros((2, 1, 32, 32), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "probabilities", lambda self, images, batch_size: blank)
        evaluate.run(finished, settings(), Unrecorded())
    summary = json.loads((finished.report / "summary.json").read_text())
    assert summary["gain"]["mean"] is None
    assert summary["by_size"] == {}
    assert summary["excluded"]["real"]["dice"] == 4
    assert summary["detection"]["real"]["specificity"]["mean"] == 1
    assert summary["detection"]["real"]["sensitivity"]["mean"] is None
    assert summary["detection"]["real"]["lesions_found"] is None
    assert "No gain measured" in (finished.report / "report.html").read_text()


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda at: shutil.rmtree(at.segmenters / "synthetic" / "1"), r"synthetic/1: a trained segmenter must be there"),
    (lambda at: (at.segmenters / "validation.csv").unlink(), r"validation.csv: the table of trained segmenters"),
    (lambda at: shutil.rmtree(at.cases("test")), r"cases.csv: the prepared split must be there"),
])
def test_what_is_missing_is_named_and_an_earlier_report_stays(finished, spoil, words):
    finished.report.mkdir(parents=True)
    (finished.report / "report.html").write_text("earlier")
    spoil(finished)
    with pytest.raises(MeddiffError, match=words):
        evaluate.run(finished, settings(), Unrecorded())
    assert (finished.report / "report.html").read_text() == "earlier"


TWO_CLASSES = {"dataset": "folder", "path": "raw", "classes": ["benign", "malignant"], "size": 64, "n_labelled": 16}


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory) -> Layout:
    """Prepared from gray images of 200 × 120 pixels with up to two lesions of two classes, and trained on, all by the stages."""
    layout = Layout(tmp_path_factory.mktemp("two_classes"))
    wide_folder(layout.root / "raw", 30)
    prepare.run(layout, settings(prepare=TWO_CLASSES), Unrecorded())
    segment.run(layout, settings(prepare=TWO_CLASSES, segment={"arms": ["real"], "steps": 40}), Unrecorded())
    put_synthetic(layout)
    put_backgrounds(layout)
    return layout


def test_two_classes_two_lesions_gray_and_wide_from_files_to_the_report(two_classes):
    layout = two_classes
    evaluate.run(layout, settings(prepare=TWO_CLASSES), Unrecorded())
    table = pd.read_csv(layout.report / "per_case.csv")
    cases = {case.id: case for case in read_cases(layout.cases("test"))}
    assert len(table) == len(cases) * 2 * 2
    for row in table.itertuples():
        mask = cases[row.case].mask == (1 if row[3] == "benign" else 2)
        assert row.lesion_area == pytest.approx(mask.mean())
    assert table["dice"].isna().any()                   # some images lack a class, and none was found
    assert table["dice"].dropna().mean() > 0.1          # it learned something
    per_case = table.groupby(["case", "seed"])["dice"].mean()
    summary = json.loads((layout.report / "summary.json").read_text())
    assert summary["arms"]["real"]["dice"]["mean"] == pytest.approx(per_case.groupby("case").mean().mean(), abs=0.03)
    assert set(summary["by_class"]) == {"benign", "malignant"}
    assert summary["excluded"]["real"]["dice"] == table["dice"].isna().sum()
    page = (layout.report / "report.html").read_text()
    for words in ("By class", "padded to squares", "gray in three equal channels"):
        assert words in page


def test_a_lesion_predicted_on_the_bars_changes_nothing(two_classes, monkeypatch):
    layout = two_classes
    within = {tuple(case.image.ravel()[::97]): case.frame.mask(64) for case in read_cases(layout.cases("test"))}
    tables = []
    for bars in (0, 2):
        def segmented(self, images, *more, bars=bars, **named):
            inside = np.stack([within[tuple(image.ravel()[::97])] for image in images])
            every = np.ones(len(images))
            return Findings(np.where(inside, np.uint8(1), np.uint8(bars)), every > 0, every, every)

        monkeypatch.setattr(Segmenter, "findings", segmented)
        evaluate.run(layout, settings(prepare=TWO_CLASSES), Unrecorded())
        tables.append(pd.read_csv(layout.report / "per_case.csv"))
    pd.testing.assert_frame_equal(*tables)


def test_predictions_are_saved_and_tables_are_files(finished):
    evaluate.run(finished, settings(), Unrecorded())
    table = pd.read_csv(finished.report / "per_case.csv")
    for row in table.itertuples():
        mask = read_mask(finished.report / f"predictions/{row.arm}/{row.seed}/{row.case}.png")
        assert dice_of(mask, read_mask(finished.cases("test") / f"masks/{row.case}.png")) == pytest.approx(row.dice, nan_ok=True)
    assert len(list((finished.report / "predictions").rglob("*.png"))) == 7 * (4 + 1), "the fifth: an arm together"
    numbers = pd.read_csv(finished.report / "tables.csv").set_index(["part", "arm", "score"])
    summary = json.loads((finished.report / "summary.json").read_text())
    assert numbers.loc[("all", "real", "iou"), "mean"] == pytest.approx(summary["arms"]["real"]["iou"]["mean"])
    assert numbers.loc[("all", "synthetic", "gain"), "upper"] == pytest.approx(summary["gain"]["upper"])
    tex = (finished.report / "tables.tex").read_text()
    assert tex.count("\\begin{tabular}") == tex.count("\\bottomrule") == 4
    assert "−" not in tex


def test_a_score_of_the_users_own(finished, monkeypatch):
    (finished.root / "mine.py").write_text("def missed(reference, prediction):\n    assert reference.dtype == 'uint8'\n"
                                           "    return float((reference > prediction).sum())\n")
    monkeypatch.chdir(finished.root)
    evaluate.run(finished, settings(evaluate={"metric": "mine:missed"}), Unrecorded())
    sys.modules.pop("mine")
    table = pd.read_csv(finished.report / "per_case.csv")
    first = table[table["stratum"] != "empty"].iloc[0]
    masks = [read_mask(place / f"{first['case']}.png") for place in (
        finished.cases("test") / "masks", finished.report / f"predictions/{first['arm']}/{first['seed']}")]
    assert first["missed"] == (masks[0] > masks[1]).sum()
    own = table[(table["arm"] == first["arm"]) & (table["stratum"] != "empty")]["missed"]
    summary = json.loads((finished.report / "summary.json").read_text())
    assert summary["arms"][first["arm"]]["missed"]["mean"] == pytest.approx(own.mean())
    assert "missed" in (finished.report / "report.html").read_text()
    assert "missed" in (finished.report / "tables.tex").read_text()
