"""The best arm's segmenters as a registered model: from the stage to MLflow and back, and the gate to the champion."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from meddiff.cases import write_image
from meddiff.delivery import promote as gate
from meddiff.delivery.predicting import predict_files
from meddiff.delivery.protocol import Chosen
from meddiff.errors import MeddiffError
from meddiff.evaluation.arms import best_arm
from meddiff.evaluation.bootstrap import Interval
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.withdrawals import Withdrawal, write_withdrawals
from meddiff.params import PromoteParams
from meddiff.services.tracking import SEGMENTER, Evidence, Registry, list_evidence, stage_run
from meddiff.services.tracking.server import as_default
from meddiff.stages import evaluate, segment
from tests.conftest import make_cases
from tests.stages.test_evaluate import fill, put_backgrounds, put_split, settings

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # dvc's own, in pygtrie
PARAMS = settings(segment={"steps": 20})
PROTOCOL = {"min_steps": 20, "min_seeds": 2, "min_resamples": PARAMS.evaluate.resamples}


def run_stages(layout: Layout, execution: str, patch: pytest.MonkeyPatch) -> None:
    """As `dvc repro` would, recorded in the project's own MLflow."""
    patch.setenv("MEDDIFF_EXECUTION", execution)
    for stage in (segment, evaluate):
        with stage_run(layout, PARAMS, stage.__name__.rpartition(".")[2]) as tracker:
            stage.run(layout, PARAMS, tracker)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("segmenter") / "project"
    made = fill(root)
    put_backgrounds(made)
    (root / "params.yaml").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_PARENT_RUN", "DVC_STAGE", "MEDDIFF_CATALOG_URL"):
            patch.delenv(name, raising=False)
        patch.setattr(gate, "record_promotion", lambda *given: None)
        run_stages(made, "one", patch)
        yield made


def test_the_best_arm_on_validation_is_registered_with_card_and_lineage(layout: Layout) -> None:
    registry = Registry(layout, PARAMS, SEGMENTER)
    arm = best_arm(pd.read_csv(layout.segmenters / "validation.csv"))
    version = registry.server.client.get_model_version("meddiff-segmenter", "1")
    assert {name: version.tags[name] for name in ("arm", "seeds")} == {"arm": arm, "seeds": "0, 1"}
    assert {"data", "test", "segmenters", "dice"} <= version.tags.keys()
    scores = pd.read_csv(layout.report / "ensemble.csv")
    assert (set(scores["arm"]), set(scores["seed"])) == ({arm}, {-1})
    dice = scores[scores["stratum"] != "empty"]["dice"].mean()
    (found,) = list_evidence(registry, "1")
    assert found.metrics["segmenter_dice"] == pytest.approx(dice)
    assert found.metrics["leaks"] == 0
    summary = json.loads((layout.report / "summary.json").read_text())
    for words in ("Research use only", f"{dice:.3f}", f"{summary['arms'][arm]['dice']['mean']:.3f}", "32 × 32", "seeds 0, 1"):
        assert words in version.description
    (folder,) = (path.parent for path in layout.root.rglob("MLmodel"))
    names = {path.name for path in folder.rglob("*")}
    assert {"model.safetensors", "ensemble.json", "README.md", "served_segmenter.py", "input_example.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin", ".pyc"))]
    assert "monai" in (folder / "requirements.txt").read_text()
    assert "diffusers" not in (folder / "requirements.txt").read_text()


def test_registered_folder_and_evaluation_give_the_same_masks(layout: Layout, tmp_path: Path) -> None:
    cases, arm = read_cases(layout.cases("test")), best_arm(pd.read_csv(layout.segmenters / "validation.csv"))
    scores = pd.read_csv(layout.report / "ensemble.csv").set_index("case")
    for model, out in (("models:/meddiff-segmenter/1", "registered"), (str(layout.segmenters / arm), "folder")):
        assert predict_files(layout, PARAMS, model, layout.cases("test") / "images", tmp_path / out).done == len(cases)
    for case in cases:
        first, second = ((tmp_path / f"{out}/masks/{case.id}.png").read_bytes() for out in ("registered", "folder"))
        assert first == second
    assert (tmp_path / "registered/predictions.csv").read_bytes() == (tmp_path / "folder/predictions.csv").read_bytes()
    table = pd.read_csv(tmp_path / "folder/predictions.csv")
    assert table["file"].tolist() == sorted(f"{case.id}.png" for case in cases)
    assert set(scores.index) == {case.id for case in cases}
    with pytest.raises(MeddiffError, match="must be registered"):
        predict_files(layout, PARAMS, "models:/meddiff-segmenter@nobody", layout.cases("test") / "images", tmp_path / "none")


def test_the_model_is_served_without_the_project(layout: Layout, tmp_path: Path) -> None:
    """By its own copy of the package, in a process that has neither the project nor diffusers, MLflow's own wrapper before it."""
    case = make_cases(1, 48)[0]
    write_image(tmp_path / "x.png", case.image[:, :30])
    (folder,) = (path.parent for path in layout.root.rglob("MLmodel"))
    code = ("import sys; sys.modules['diffusers'] = None\nimport mlflow.pyfunc, pandas as pd, pathlib\n"
            f"model = mlflow.pyfunc.load_model({str(folder)!r})\n"
            f"made = model.predict(pd.DataFrame({{'image': [pathlib.Path('x.png').read_bytes()]}}))\n"
            "import io; from PIL import Image; import meddiff\n"
            "print(meddiff.__file__, Image.open(io.BytesIO(made['mask'][0])).size, list(made))")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (f"{folder}/code/meddiff/__init__.py (30, 48) "
                                            "['mask', 'probability', 'area_px', 'share', 'uncertainty']")


def test_segmenters_of_a_withdrawn_patient_are_refused_by_every_way_to_them(layout: Layout, tmp_path: Path) -> None:
    """By version, by the id of the logged model, by MLflow's own loader, as a folder of files, and in the project."""
    registry, images = Registry(layout, PARAMS, SEGMENTER), layout.cases("test") / "images"
    version = registry.server.client.get_model_version("meddiff-segmenter", "1")
    (files,) = (path.parent for path in layout.root.rglob("MLmodel"))
    shutil.copytree(files, tmp_path / "copy")
    registry.annotate("1", {"withdrawn": "consent"})
    names = "models:/meddiff-segmenter/1", str(version.source), str(next((tmp_path / "copy/data").iterdir()))
    for number, model in enumerate(names):
        with pytest.raises(MeddiffError, match=r"must not be withdrawn, and it is \(consent\)"):
            predict_files(layout, PARAMS, model, images, tmp_path / str(number))
    with as_default(registry.server.uri):
        from mlflow import pyfunc

        with pytest.raises(MeddiffError, match="must not be withdrawn"):
            pyfunc.load_model(str(tmp_path / "copy"))
    registry.server.client.delete_model_version_tag("meddiff-segmenter", "1", "withdrawn")

    write_withdrawals(layout, [Withdrawal("0" * 12, (), (), "consent", "2026-01-01T00:00:00+00:00", "me")])
    arm = layout.segmenters / str(version.tags["arm"])
    for learned, refused in (("old", True), ("new", False)):
        stages = {"prepare": {"outs": [{"path": "data/train", "md5": "new"}]},
                  "segment": {"deps": [{"path": "data/train", "md5": learned}]}}
        (layout.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        with pytest.raises(MeddiffError, match="must be of the present data/train") if refused else nullcontext():
            predict_files(layout, PARAMS, str(arm), images, tmp_path / learned)
    for file in (layout.withdrawals, layout.root / "dvc.lock"):
        file.unlink()


def test_promotion_by_the_gain_over_the_champion_and_rollback(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    low = PARAMS.model_copy(update={"promote": PromoteParams(**PROTOCOL, segmenter_min_dice=0.0, segmenter_min_gain_lower=-1.0)})
    registry = Registry(layout, low, SEGMENTER)
    strict = low.model_copy(update={"promote": PromoteParams(**PROTOCOL, segmenter_min_dice=1.0)})
    refused = gate.promote(layout, strict, kind=SEGMENTER)
    assert not refused.passed
    assert any(reason.startswith("FAILED: segmenter_dice is") for reason in refused.reasons)
    first = gate.promote(layout, low, kind=SEGMENTER)
    assert (first.passed, registry.alias("champion")) == (True, "1")
    assert first.reasons[-1] == "gain over the champion: there is no other champion"
    run_stages(layout, "two", monkeypatch)
    second = gate.promote(layout, low, kind=SEGMENTER)
    assert (second.passed, second.version) == (True, "2")
    (reason,) = (each for each in second.reasons if "gain_over_champion" in each)
    assert reason.startswith("ok: gain_over_champion is 0, must be at least -1 (lower bound of +0.0 points, 95% interval")
    assert (registry.alias("champion"), registry.alias("previous")) == ("2", "1")
    assert gate.rollback(layout, low, SEGMENTER).version == "1"
    assert registry.alias("champion") == "1"
    put_split(layout, "test", make_cases(4, seed=8))
    run_stages(layout, "three", monkeypatch)
    third = gate.promote(layout, low, kind=SEGMENTER)
    assert third.reasons[-1] == "gain over the champion: not known, the champion (version 1) was evaluated on other test cases"


@pytest.mark.parametrize(("metrics", "over", "broken"), [
    ({}, "none", []), ({"segmenter_dice": 0.4}, "none", ["segmenter_dice"]), ({"leaks": 1}, "none", ["leaks"]),
    ({"leaks": float("nan")}, "none", ["leaks"]),
    ({}, Interval(0.02, 0.001, 0.04, 0.95, 40, 1), []), ({}, Interval(0.02, -0.001, 0.04, 0.95, 40, 1), ["gain_over_champion"]),
])
def test_each_rule_of_the_gate(metrics: dict[str, float], over: Interval | str, broken: list[str]) -> None:
    found = Evidence("3", "run", "name", {"segmenter_dice": 0.8, "leaks": 0.0, **metrics})
    decision = gate.judge_segmenter(Chosen(found), PromoteParams(), over)
    assert decision.passed == (not broken)
    assert [reason.split()[1] for reason in decision.reasons if reason.startswith("FAILED")] == broken
