"""Runs of the pipeline with changed settings: their trees, what they gave and cost, and the name of what they give."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meddiff.errors import MeddiffError
from meddiff.experiments.run import arm_dice, fidelity_numbers, pipeline_key, tree_run
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.versioning import Reproduced

ROOT = Path(__file__).parents[2]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A project whose trees are plain folders."""
    def work_tree(source: Path, dest: Path, overrides: Mapping[str, Any]) -> Path:
        dest.mkdir(parents=True, exist_ok=True)
        return dest

    monkeypatch.setattr(versioning, "work_tree", work_tree)
    return Layout(tmp_path)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that were asked for; the filter accepts two of three samples, the segmenters have the arm `real` alone."""
    asked: list[str] = []

    def reproduce(root: Path, stage: str, env: Mapping[str, str], single: bool, show: Callable[[str], None]) -> Reproduced:
        asked.append(stage)
        tree = Layout(root)
        if stage == "filter":
            (tree.synthetic / "b").mkdir(parents=True, exist_ok=True)
            tree.filtered.mkdir(exist_ok=True)
            samples = [{"id": f"s{i}", "batch": "b", "seed": i, "background": "n", "area": 0.1, "steps": 2, "generator": "g",
                        "guidance_scale": 1.0} for i in range(3)]
            pd.DataFrame(samples).to_parquet(tree.synthetic / "b/batch.parquet")
            pd.DataFrame([{"id": f"s{i}", "batch": "b", "similarity": 0.5, "nearest": "c", "agreement": 0.9, "contrast": 9.0,
                           "area": 0.1, "verdict": "accepted" if i and env["ACCEPT"] else "rejected", "reason": ""}
                          for i in range(3)]).to_parquet(tree.filtered / "decisions.parquet")
            (tree.filtered / "batches.json").write_text('{"b": {"passed": true, "reasons": []}}')
        else:
            tree.segmenters.mkdir(parents=True, exist_ok=True)
            (tree.segmenters / "validation.csv").write_text(f"arm,seed,dice\n{env['ARM']},2,0.5\n{env['ARM']},0,0.7\n")
        return Reproduced(("generate", stage) if len(asked) == 1 else (stage,), (), (), 100.0 * len(asked))

    monkeypatch.setattr(versioning, "reproduce", reproduce)
    return asked


def test_a_run_goes_on_to_the_segmenters_where_pairs_were_accepted(layout: Layout, stages: list[str]) -> None:
    with tree_run(layout, "tune", "t", {}, {"ACCEPT": "1", "ARM": "synthetic"}) as run:
        outcome = run.validate()
    assert stages == ["filter", "segment"]
    assert outcome.dice == {"synthetic": {2: 0.5, 0: 0.7}}
    assert (outcome.samples, outcome.accepted, outcome.generated, outcome.acceptance) == (3, 2, 3, pytest.approx(2 / 3))
    assert (outcome.ran, outcome.peak_memory_mb, outcome.numbers) == (("generate", "filter", "segment"), 200.0, {})
    with tree_run(layout, "tune", "t", {}, {"ACCEPT": "", "ARM": ""}) as run:
        outcome = run.validate()
    assert stages[2:] == ["filter"]
    assert (outcome.dice, outcome.accepted, outcome.generated) == ({}, 0, 0)
    with pytest.raises(MeddiffError, match="the arm `synthetic`"), \
            tree_run(layout, "tune", "t", {}, {"ACCEPT": "1", "ARM": "real"}) as run:
        run.validate()


def test_a_tree_stays_only_when_interrupted_and_its_costs_add_up(layout: Layout) -> None:
    energy = iter([0.0, 30.0, 100.0, 105.0])

    def attempt(error: BaseException | None = None) -> None:
        with tree_run(layout, "tune", "t", {}, {}, {"joules": lambda: next(energy)}) as run:
            run.outlive("segment", layout.work / "kept")
            (run.tree.work / "segment/finished").touch()
            if error:
                raise error
            assert run.spent("joules") == 35.0
            assert 0 < run.spent("seconds") < 60

    tree = layout.work / "tune/trees/t"
    with pytest.raises(KeyboardInterrupt):
        attempt(KeyboardInterrupt())
    assert tree.is_dir()
    attempt()
    assert not tree.exists()
    energy = iter([0.0])
    with pytest.raises(MeddiffError):
        attempt(MeddiffError("a stage", "it must work", "Mend it"))
    assert not tree.exists()
    assert (layout.work / "kept/finished").is_file()


def test_people_s_decisions_stay_out_of_experiments(layout: Layout, stages: list[str]) -> None:
    """They are on the project's own pairs: a variant that changes nothing would be favoured."""
    tree = layout.work / "tune/trees/t"
    tree.mkdir(parents=True)
    (tree / "reviews.csv").write_text("id,decision,person,time,pair\ns0,accept,Bo,t,p\n")
    with tree_run(layout, "tune", "t", {}, {"ACCEPT": "1", "ARM": "synthetic"}) as run:
        assert run.tree.reviews.read_bytes() == (ROOT / "reviews.csv").read_bytes()


def test_the_name_of_what_a_pipeline_gives(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    layout = Layout(tmp_path)

    def key(overrides: dict[str, dict[str, Any]] | None = None, last: str = "segment") -> str:
        return pipeline_key(layout, Params(), overrides or {}, last)

    first = key()
    later = {"evaluate": {"resamples": 7}, "tune": {"trials": 3}, "compute": {"threads": 1}}
    assert key(later) == first == key({"segment": {"steps": Params().segment.steps}})
    assert key(later, "evaluate") != key({}, "evaluate") != first
    assert key({"segment": {"steps": 7}}) != first
    for section, name, word in (("prepare", "path", ""), ("foundation", "source", ""), ("segment", "encoder", ""),
                                ("filter", "extractor", "file:")):
        place = tmp_path / name
        place.write_bytes(b"1")
        own = {section: {name: f"{word}{place}"}} | ({"prepare": {"dataset": "folder", "path": name}} if name == "path" else {})
        before = key(own)
        os.utime(place, (1, 1))
        assert key(own) == before
        place.write_bytes(b"22")
        assert key(own) != before, name
    assert key() == first
    (tmp_path / "meddiff/stages").mkdir(parents=True)
    (tmp_path / "meddiff/stages/evaluate.py").write_text("import meddiff.words\n")
    with_code = key({}, "evaluate")
    (tmp_path / "meddiff/words.py").write_text("changed = True\n")
    assert key({}, "evaluate") != with_code
    dvc = tmp_path / "dvc.yaml"
    before = key()
    dvc.write_text(dvc.read_text() + "# changed\n")
    assert key() != before


def test_tables_that_stages_left(tmp_path: Path) -> None:
    table = tmp_path / "validation.csv"
    with pytest.raises(MeddiffError, match="dvc repro segment"):
        arm_dice(tmp_path)
    table.write_text("arm,seed,dice,seconds\nreal,0,0.9,1\nsynthetic,2,0.5,1\nsynthetic,0,0.7,1\n")
    assert arm_dice(tmp_path) == {"real": {0: 0.9}, "synthetic": {2: 0.5, 0: 0.7}}
    assert fidelity_numbers(tmp_path / "fidelity.json") == {}
    (tmp_path / "fidelity.json").write_text('{"a": {"b": 1, "c": "x", "d": NaN, "e": true}}')
    assert fidelity_numbers(tmp_path / "fidelity.json") == {"a.b": 1.0}
    (tmp_path / "fidelity.json").write_text("{")
    with pytest.raises(MeddiffError, match="dvc repro filter"):
        fidelity_numbers(tmp_path / "fidelity.json")
