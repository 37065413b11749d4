"""The gate, and the registered model behind it, against a real SQLite MLflow; a model small enough for milliseconds."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meddiff.delivery import promote as gate
from meddiff.delivery.protocol import Chosen, choose_evidence, shortfalls
from meddiff.delivery.sampling import sample_registered
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params, PromoteParams
from meddiff.services.catalog import list_actions
from meddiff.services.tracking import GENERATOR, Evidence, Registry, count_looks, list_evidence, load_generator, stage_run
from meddiff.services.tracking.cards import logged_model
from meddiff.services.tracking.models import log_model
from meddiff.services.tracking.server import connect

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # dvc's own, in pygtrie

LOADER = '''
import pathlib
import pandas as pd

class Echo:
    def __init__(self, word):
        self.word = word

    def predict(self, rows, params=None):
        scale = rows["guidance_scale"] if "guidance_scale" in rows else 1.5
        masks = [mask if isinstance(mask, bytes) else b"own" for mask in rows.get("mask", [None] * len(rows))]
        return pd.DataFrame({"id": [f"s{seed}" for seed in rows["seed"]], "seed": rows["seed"], "background": "b", "scale": scale,
                             "image": self.word.encode(), "mask": masks})

def _load_pyfunc(path):
    return Echo(pathlib.Path(path, "word.txt").read_text())
'''
GOOD = {"gain_lower": 0.01, "gain_seeds": 3, "acceptance": 0.5, "copies": 0.0, "memorised_p": 0.4, "dice_real": 0.6,
        "dice_synthetic": 0.65}
FORM = {"evaluate": {"confidence": 0.51}, "segment": {"seeds": [0], "steps": 40}}


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("loader")
    (folder / "echo_loader.py").write_text(LOADER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_EXECUTION", "MEDDIFF_PARENT_RUN", "DVC_STAGE", "MEDDIFF_CATALOG_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def empty(loader: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promote") / "project"
    root.mkdir()
    (root / "params.yaml").write_text("{}\n")
    connect(Layout(root), Params().tracking)
    return root


@pytest.fixture
def layout(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A fresh project; copying the database spares its making."""
    root = shutil.copytree(empty, tmp_path / "project")
    # An experiment of its own, whose artifacts lie in this project rather than in the one that was copied.
    settings = connect(Layout(root), Params().tracking.model_copy(update={"experiment": "own"}))
    monkeypatch.setattr("meddiff.services.tracking.models.connect", lambda layout, params: settings)
    monkeypatch.setattr("meddiff.services.tracking.runs.connect", lambda layout, params: settings)
    return Layout(root)


def execution(layout: Layout, name: str, metrics: dict[str, float], monkeypatch: pytest.MonkeyPatch, model: str = "",
              complete: bool = True, settings: dict[str, Any] | None = None, test: str = "digest") -> str:
    """An execution that made a model, or says that it reused one, and evaluated it; the id of its run."""
    monkeypatch.setenv("MEDDIFF_EXECUTION", name)
    params = Params.model_validate(settings or {})
    with stage_run(layout, params, "generate") as tracker:
        if not model:
            folder = layout.root / "bundle"
            folder.mkdir(exist_ok=True)
            (folder / "word.txt").write_text(name)
            version = log_model(tracker.own.server, tracker.own.id, folder, Params().promote.model,
                                replace(GENERATOR, loader="echo_loader"))
            model = f"{Params().promote.model}/{version}"
        tracker.whole.tags({"meddiff.model_version": model})
    if complete:
        with stage_run(layout, params, "evaluate") as tracker:
            tracker.look(test)
            (layout.root / "summary.json").write_text(json.dumps(metrics))
            tracker.headline_file(layout.root / "summary.json")
            tracker.headline(metrics)
    return tracker.whole.id


@pytest.mark.parametrize(("metrics", "broken"), [
    (GOOD, ""), ({**GOOD, "gain_lower": -0.001}, "gain_lower"),
    ({**GOOD, "acceptance": 0.1}, "acceptance"), ({**GOOD, "copies": 0.2}, "copies"),
    ({**GOOD, "gain_lower": math.nan}, "gain_lower"), ({**GOOD, "gain_seeds": 2}, "gain_seeds"),
    ({name: value for name, value in GOOD.items() if name != "copies"}, "copies"),
    ({**GOOD, "memorised_p": 0.04}, "memorised_p"),
    ({name: value for name, value in GOOD.items() if name != "memorised_p"}, "memorised_p"),
])
def test_each_rule_of_the_gate(metrics: dict[str, float], broken: str) -> None:
    decision = gate.judge(Chosen(Evidence("3", "run", "name", metrics)), PromoteParams())
    assert decision.passed == (not broken)
    assert [reason.split()[1] for reason in decision.reasons if reason.startswith("FAILED")] == [broken] * bool(broken)


def test_copies_that_passed_the_filter_are_told() -> None:
    found = {**GOOD, "memorised": 0.12, "memorised_expected": 0.0476, "memorised_p": 0.0031}
    decision = gate.judge(Chosen(Evidence("3", "run", "name", found)), PromoteParams())
    assert not decision.passed
    assert decision.reasons[3] == (
        "FAILED: memorised_p is 0.0031, must be at least 0.05 (12.0% of the accepted lesions lie nearer to a training lesion "
        "than every held-back real one, 4.8% is expected of real lesions)")


def test_a_version_without_a_complete_execution_is_refused() -> None:
    assert not gate.judge(Chosen(Evidence("3")), PromoteParams(min_gain_lower=-1)).passed


def test_promotion_refusal_and_rollback(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []
    monkeypatch.setattr(gate, "record_promotion", lambda *given: recorded.append(given[2:]))
    registry = Registry(layout, Params())
    with pytest.raises(MeddiffError, match="there are none"):
        gate.promote(layout, Params())
    execution(layout, "one", GOOD, monkeypatch)
    assert gate.promote(layout, Params()).passed
    assert registry.alias("champion") == "1"
    with pytest.raises(MeddiffError, match="earlier champion"):
        gate.rollback(layout, Params())

    execution(layout, "two", {**GOOD, "gain_lower": -0.1}, monkeypatch)
    refused = gate.promote(layout, Params())
    assert (refused.passed, refused.version, registry.alias("champion")) == (False, "2", "1")
    tags = registry.server.client.get_model_version(registry.name, "2").tags
    assert tags["gate"] == "refused"
    assert "FAILED: gain_lower is -0.1, must be at least 0" in tags["gate.reasons"].splitlines()

    execution(layout, "three", GOOD, monkeypatch)
    assert gate.promote(layout, Params()).passed
    assert gate.promote(layout, Params()).passed  # a second time changes nothing
    assert (registry.alias("champion"), registry.alias("previous")) == ("3", "1")
    assert gate.rollback(layout, Params()).version == "1"
    assert (registry.alias("champion"), registry.alias("previous")) == ("1", None)
    with pytest.raises(MeddiffError, match="there are \\[1, 2, 3\\]"):
        gate.promote(layout, Params(), "9")
    assert [(given[1], given[2]) for given in recorded] == [("1", True), ("2", False), ("3", True), ("3", True), ("1", True)]
    name = Params().promote.model
    assert [(row.action, row.subject, row.before, row.after) for row in list_actions(layout, Params())] == [
        ("promoted", f"{name} 1", "", "1"), ("refused", f"{name} 2", "1", "1"), ("promoted", f"{name} 3", "1", "3"),
        ("promoted", f"{name} 3", "3", "3"), ("rolled back", f"{name} 1", "3", "1")]
    assert "FAILED: gain_lower is -0.1" in list_actions(layout, Params(), f"{name} 2")[0].reason


def test_the_newest_complete_execution_with_the_version_counts(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline stopped after `generate` registers a version; the execution that finishes it reuses the version."""
    execution(layout, "stopped", {}, monkeypatch, complete=False)
    registry = Registry(layout, Params())
    assert list_evidence(registry, registry.number()) == []
    model = f"{Params().promote.model}/1"
    execution(layout, "finished", {**GOOD, "copies": 0.5}, monkeypatch, model)
    execution(layout, "later", GOOD, monkeypatch, model)
    found, before = list_evidence(registry, "1")
    assert {name: found.metrics[name] for name in GOOD} == GOOD
    assert before.metrics["copies"] == 0.5
    assert found.run_name.startswith("demo")
    assert choose_evidence(registry, "1", PromoteParams()).evidence == found


def test_a_run_beside_the_protocol_is_no_evidence_and_is_told_with_the_rule(layout: Layout,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    model = f"{Params().promote.model}/1"
    one = execution(layout, "one", GOOD, monkeypatch)
    form = execution(layout, "form", {**GOOD, "gain_lower": 0.3}, monkeypatch, model, settings=FORM)
    decision = gate.promote(layout, Params())
    assert (decision.passed, decision.evidence) == (True, one)
    (told,) = (reason for reason in decision.reasons if reason.startswith("no evidence"))
    assert form in told
    assert told.endswith("evaluate.confidence is 0.51, must be at least 0.95; segment.steps is 40, must be at least 150; "
                         "number of segment.seeds is 1, must be at least 3")
    with pytest.raises(MeddiffError, match=r"must keep to the protocol \(evaluate\.confidence is 0\.51"):
        gate.promote(layout, Params(), evidence=form)


def test_a_version_that_was_evaluated_beside_the_protocol_alone_is_refused(layout: Layout,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    execution(layout, "one", GOOD, monkeypatch, settings={"filter": {"keep_copies": True}})
    decision = gate.promote(layout, Params())
    assert not decision.passed
    assert "that keeps to the protocol" in decision.reasons[0]
    assert decision.reasons[1].endswith("filter.keep_copies let copies through uncounted")
    lone = {name: value for name, value in GOOD.items() if name != "dice_synthetic"}
    assert shortfalls(Evidence("1", "r", "n", lone, settings={"evaluate.confidence": "0.95", "evaluate.resamples": "2000",
                      "segment.steps": "160", "segment.seeds": "[0, 1, 2]"}), PromoteParams(), GENERATOR) == [
        "segment.arms lacks synthetic"]


def test_what_a_version_was_judged_by_stays_its_evidence(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it again until it looks good: the first run counts, unless a person says otherwise, which is recorded."""
    registry, model = Registry(layout, Params()), f"{Params().promote.model}/1"
    one = execution(layout, "one", {**GOOD, "gain_lower": -0.1}, monkeypatch)
    refused = gate.promote(layout, Params())
    assert (refused.passed, refused.evidence, refused.looks) == (False, one, 1)
    better = execution(layout, "better", GOOD, monkeypatch, model)
    again = gate.promote(layout, Params())
    assert (again.passed, again.evidence, again.looks) == (False, one, 2)
    assert any(reason.startswith("not judged by") and better in reason and f"--evidence {better[:8]}" in reason
               for reason in again.reasons)
    assert "looks at these test cases: 2, 2 of them with this version" in again.reasons
    chosen = gate.promote(layout, Params(), evidence=better[:12], person="Ana", reason="a new split of the arms")
    assert (chosen.passed, chosen.evidence) == (True, better)
    assert f"the evidence was run {one} until now" in chosen.reasons
    tags = registry.tags("1")
    digest = hashlib.sha256((layout.root / "summary.json").read_bytes()).hexdigest()
    assert (tags["evidence.run"], tags["evidence.summary"], tags["evidence.looks"]) == (better, digest, "2")
    assert "test cases digest" in tags["evidence.data"]
    last = list_actions(layout, Params())[-1]
    assert (last.person, last.action, last.reason.splitlines()[0]) == ("Ana", "promoted", "a new split of the arms")
    assert f"the evidence was run {one} until now" in last.reason
    with pytest.raises(MeddiffError, match="must name one complete run of this version"):
        gate.promote(layout, Params(), evidence="nothing")


def test_evidence_that_changed_or_went_is_told(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = execution(layout, "one", GOOD, monkeypatch)
    assert gate.promote(layout, Params()).passed
    client = Registry(layout, Params()).server.client
    (tmp_path / "summary.json").write_text("{}")
    client.log_artifact(one, str(tmp_path / "summary.json"))
    changed = gate.promote(layout, Params())
    assert not changed.passed
    assert changed.reasons[0] == "FAILED: evidence: summary.json isn't the one that was judged before"
    client.delete_run(one)
    with pytest.raises(MeddiffError, match="must still be there"):
        gate.promote(layout, Params())


def test_each_execution_that_evaluates_is_a_look_at_its_test_cases(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    execution(layout, "one", GOOD, monkeypatch, test="a")
    execution(layout, "two", GOOD, monkeypatch, test="a")
    execution(layout, "three", GOOD, monkeypatch, test="b")
    monkeypatch.setenv("MEDDIFF_EXECUTION", "four")
    with stage_run(layout, Params(), "evaluate") as tracker:
        assert tracker.look("a") == 3
        assert tracker.look("a") == 3  # the same execution, gone on after an interrupt
    server = Registry(layout, Params()).server
    assert (count_looks(server, "a"), count_looks(server, "b"), count_looks(server, "c")) == (3, 1, 0)
    decision = gate.promote(layout, Params(), "2")
    assert decision.looks == 3
    assert "looks at these test cases: 3, 1 of them with this version" in decision.reasons


def test_the_page_of_a_model_shows_what_was_measured_with_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {**GOOD, "dice_synthetic": 0.7, "gain": 0.02, "gain_upper": 0.03}
    execution(layout, "one", measured, monkeypatch)
    client = Registry(layout, Params()).server.client
    version = client.get_model_version(Params().promote.model, "1")
    for words in ("Research use only", "demo 64 px, 10 labelled", "trained on synthetic | 0.7000", "+2.0 (+1.0 to +3.0)",
                  "| 50.0% |", "meddiff lineage models:/"):
        assert words in version.description
    assert (version.tags["dice_synthetic"], version.tags["data"]) == ("0.7", "demo 64 px, 10 labelled")
    logged = {metric.key: metric.value for metric in client.get_logged_model(logged_model(version.source)).metrics}
    assert {name: logged[name] for name in measured} == measured
    client.delete_model_version(Params().promote.model, "1")
    execution(layout, "two", measured, monkeypatch, f"{Params().promote.model}/1")  # somebody deleted what is used again


def test_the_model_answers_requests_and_holds_no_pickle(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                        capfd: pytest.CaptureFixture[str]) -> None:
    execution(layout, "one", GOOD, monkeypatch)
    assert capfd.readouterr() == ("", "")
    assert not Path("mlruns").exists()
    model = load_generator(layout, Params(), f"models:/{Params().promote.model}/1")
    made = model.predict(pd.DataFrame({"seed": [3, 4], "guidance_scale": [1.0, 2.0], "mask": [None, b"given"]}))
    assert list(made["id"]) == ["s3", "s4"]
    assert list(made["mask"]) == [b"own", b"given"]
    assert list(model.predict(pd.DataFrame({"seed": [5]}))["scale"]) == [1.5]
    with pytest.raises(Exception, match="seed"):
        model.predict(pd.DataFrame({"guidance_scale": [1.0]}))
    (folder,) = (path.parent for path in layout.root.rglob("MLmodel"))
    names = {path.name for path in folder.rglob("*")}
    assert {"word.txt", "served.py", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin", ".pyc"))]
    assert "MLFLOW_TRACKING_URI" not in os.environ
    code = f"import mlflow.pyfunc, sys; sys.path.insert(0, {str(Path(gate.__file__).parents[2])!r}); sys.path.pop(0); " \
           f"mlflow.pyfunc.load_model({str(folder)!r}); import meddiff; print(meddiff.__file__)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(next(
        Path(p) for p in sys.path if (Path(p) / "echo_loader.py").is_file()))}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "code/meddiff/__init__.py")


def test_samples_of_a_model_go_into_a_new_folder(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gate, "record_promotion", lambda *given: None)
    execution(layout, "one", GOOD, monkeypatch)
    gate.promote(layout, Params())
    model, out = f"models:/{Params().promote.model}@champion", tmp_path / "a/out"
    assert sample_registered(layout, Params(), model, range(10, 30), out, 2.0) == 20
    assert (out / "images/s10.png").read_bytes() == b"one"
    assert (out / "masks/s29.png").read_bytes() == b"own"
    table = pd.read_csv(out / "samples.csv")
    assert list(table.columns) == ["id", "seed", "background", "verdict"]
    assert set(table["verdict"]) == {"unfiltered"}
    assert list(table["seed"]) == list(range(10, 30))
    with pytest.raises(MeddiffError, match="new or empty"):
        sample_registered(layout, Params(), model, [1], out)
    with pytest.raises(MeddiffError, match="must be registered"):
        sample_registered(layout, Params(), "models:/other@champion", [1], tmp_path / "b")
    assert not (tmp_path / "b").exists()
