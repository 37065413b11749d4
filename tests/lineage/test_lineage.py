"""Lineage and withdrawal, end to end on a tiny project: real stages, which take most of it, a real MLflow and catalogue."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from meddiff.cases import sha256
from meddiff.cli.app import app
from meddiff.datasets.demo import make_phantoms
from meddiff.delivery.pairs import export_pairs
from meddiff.delivery.promote import promote
from meddiff.delivery.releases import fetch, list_releases, publish
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.lineage.trace import Trace, example_ids, trace
from meddiff.lineage.withdrawal import act, plan_lines, plan_withdrawal
from meddiff.lineage.words import trace_lines
from meddiff.outputs.samples import read_records, read_samples
from meddiff.outputs.tables import CASES, LEFT_OUT
from meddiff.outputs.withdrawals import patient_hash, read_withdrawals
from meddiff.params import Params
from meddiff.params.file import load_params
from meddiff.services.catalog import URL_VARIABLE
from meddiff.services.storage import FolderStore
from meddiff.services.tracking import Registry, list_versions, load_generator
from meddiff.stages.runner import execute

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of great_expectations, mlflow and dvc
ROOT = Path(__file__).parents[2]
CHAIN = ("prepare", "foundation", "backgrounds", "mask_model", "finetune", "generate", "filter")
SETTINGS = {
    "prepare": {"dataset": "folder", "path": "raw", "size": 32, "n_labelled": 10},
    "foundation": {"source": "scratch", "steps": 2, "channels": [32, 32], "batch_size": 4, "patch": 4},
    "backgrounds": {"inspector_steps": 2, "finder_steps": 2, "fill_steps": 2},
    "mask_model": {"steps": 2, "grid": 16, "batch_size": 4}, "finetune": {"steps": 2, "batch_size": 4},
    "generate": {"n": 6, "samples_per_batch": 6, "batch_size": 6, "steps": 2},
    "filter": {"agreement": 0.0, "similarity_low": 0.0, "keep_copies": True, "min_contrast": 0.0, "min_acceptance": 0.0},
    "compute": {"threads": 1, "device": "cpu", "precision": "float32"},
}


def run(root: Path, execution: str, stages: tuple[str, ...] = CHAIN) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDDIFF_EXECUTION", execution)
        for stage in stages:
            execute(stage, root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of twelve patients with two images each, whose chain has run up to `filter`."""
    root = tmp_path_factory.mktemp("lineage") / "lab"
    for kind in ("images", "masks"):
        (root / "raw" / kind).mkdir(parents=True)
    groups = {}
    for i, case in enumerate(make_phantoms(24, True, 32, "mixed", 5)):
        assert case.mask is not None
        Image.fromarray(case.image).save(root / f"raw/images/{case.id}.png")
        Image.fromarray(case.mask * 255).save(root / f"raw/masks/{case.id}.png")
        groups[case.id] = f"Ms Smith {i // 2}"
    (root / "raw/groups.json").write_text(json.dumps(groups))
    (root / "params.yaml").write_text(yaml.safe_dump(Params.model_validate(SETTINGS).model_dump(mode="json")))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {name: stages[name] for name in CHAIN}}))
    for name in ("meddiff", "reviews.csv", "withdrawals.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, root / name)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=root, check=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_EXECUTION", "MEDDIFF_PARENT_RUN", "DVC_STAGE", URL_VARIABLE, "MEDDIFF_SALT"):
            patch.delenv(name, raising=False)
        run(root, "first")
        yield root


@pytest.fixture
def project(root: Path) -> tuple[Layout, Params]:
    return Layout(root), load_params(root / "params.yaml")


def of_kind(made: Trace, kind: str) -> list[str]:
    return [product.id for product in made.products if product.kind == kind]


def test_a_pair_leads_back_to_patients_files_commit_and_settings(project: tuple[Layout, Params]) -> None:
    layout, params = project
    id = read_samples(layout.synthetic)["id"][0]
    made = trace(layout, params, id)
    train = CASES.rows(layout.cases("train"))
    assert (made.kind, made.executions[0].id) == ("pair", "first")
    assert {image.id for image in made.images} == {row.id for row in train}
    by_id = {image.id: image for image in made.images}
    for row in train:
        image = by_id[row.id]
        assert image.patient == patient_hash(layout, row.patient) != row.patient
        assert image.file == sha256(layout.root / f"raw/images/{row.id}.png")
        assert ("generator" in image.seen_by, "foundation" in image.seen_by) == (bool(row.labelled), True)
    assert made.executions[0].settings["finetune.steps"] == "2"
    assert "models:/meddiff-generator/1" in made.facts["generator"]
    assert by_id[made.facts["painted into"].split("case ")[1].split()[0]].patient in made.facts["painted into"]
    text = "\n".join(trace_lines(made))
    assert "Smith" not in text + json.dumps(asdict(made))
    assert "not the defaults: " in text


def test_models_and_runs_lead_back_and_patients_forward(project: tuple[Layout, Params]) -> None:
    layout, params = project
    (generator,) = read_samples(layout.synthetic)["generator"].unique()
    model, row = trace(layout, params, "models:/meddiff-generator/1"), CASES.rows(layout.cases("train"))[0]
    assert (model.kind, of_kind(model, "pairs"), of_kind(model, "run")) == ("generator", [generator], [model.executions[0].run])
    assert {image.part for image in model.images} == {"train"}
    whole = trace(layout, params, model.executions[0].run)
    assert {image.part for image in whole.images} == {"train", "val", "test"}
    ways = [trace(layout, params, id) for id in (row.patient, patient_hash(layout, row.patient), row.id, row.raw_sha256,
                                                 str(layout.root / f"raw/images/{row.id}.png"))]
    assert [made.kind for made in ways] == ["patient", "patient", "case", "file", "file"]
    for made in ways:
        assert of_kind(made, "pairs") == [generator]
        assert of_kind(made, "generator") == ["models:/meddiff-generator/1"]
    tested = trace(layout, params, CASES.rows(layout.cases("test"))[0].patient)
    assert (of_kind(tested, "pairs"), of_kind(tested, "generator")) == ([], [])
    assert [product.learned for product in tested.products] == [False]  # the run that was measured on the patient
    assert example_ids(layout, params)["models"] == ["models:/meddiff-generator/1"]
    with pytest.raises(MeddiffError, match=r"an id is that of a pair, .*`meddiff lineage` without an id lists") as caught:
        trace(layout, params, "nobody")
    assert "\n" not in str(caught.value)


def test_a_catalogue_that_is_gone_costs_no_work(root: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "filtered/decisions.parquet").read_bytes()
    monkeypatch.setenv(URL_VARIABLE, "postgresql://someone:geheim@127.0.0.1:1/x")
    run(root, "first", ("filter",))
    told = [line for line in capsys.readouterr().err.splitlines() if "catalogue" in line]
    assert len(told) == 1
    assert "finished, but not in the catalogue" in told[0]
    assert "Run `meddiff catalog rebuild` when it answers" in told[0]
    assert "geheim" not in told[0]
    assert (root / "filtered/decisions.parquet").read_bytes() == before


def test_a_withdrawn_patient(project: tuple[Layout, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, params = project
    row = next(row for row in CASES.rows(layout.cases("train")) if row.labelled)
    with pytest.raises(MeddiffError, match=r"no dataset that this project knows has such a patient\. Give the name"):
        plan_withdrawal(layout, params, "Mr Nobody")
    (tmp_path / "share").mkdir()
    store = FolderStore(tmp_path / "share")
    publish(layout, params, store, "v1")
    export_pairs(layout, params, tmp_path / "out")
    registry = Registry(layout, params)
    registry.set_alias("champion", "1")

    plan = plan_withdrawal(layout, params, row.patient)
    text = "\n".join(plan_lines(plan))
    assert [version.id for version in plan.versions] == ["meddiff-generator/1"]
    monkeypatch.chdir(layout.root)
    assert CliRunner().invoke(app, ["withdraw", row.patient, "--retrain"]).output.splitlines() == [
        *text.splitlines(), "dry run: nothing was changed. Add --yes to do it, and --retrain to train again at once"]
    for part in ("published already: release v1", "published already: export folder", "to be made again",
                 "blocked: models:/meddiff-generator/1, no longer champion"):
        assert part in text
    assert registry.alias("champion") == "1"  # nothing has changed yet
    assert not read_withdrawals(layout)

    lines, faults = act(layout, params, plan, "consent withdrawn")
    told = "\n".join(lines)
    assert not faults
    assert "release v1 at" in told
    assert "delete it" in told
    assert "Smith" not in layout.withdrawals.read_text() + told + text
    assert registry.alias("champion") is None
    assert "consent withdrawn" in list_versions(layout, params)[0].tags["withdrawn"]
    refusals = (lambda: load_generator(layout, params, "models:/meddiff-generator/1"), lambda: promote(layout, params, "1"),
                lambda: export_pairs(layout, params, tmp_path / "again"), lambda: publish(layout, params, store, "v2"),
                lambda: fetch(store, "v1", tmp_path / "fetched"), lambda: execute("finetune", layout.root))
    for refused in refusals:
        with pytest.raises(MeddiffError, match="withdrawn") as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert "consent withdrawn" in list_releases(store)[0].withdrawn
    assert "withdrawn" in trace(layout, params, row.patient).facts

    words = [sys.executable, "-m", "meddiff", "withdraw", row.patient, "--yes", "--retrain"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "MEDDIFF_EXECUTION": "second"}
    done = subprocess.run(words, cwd=layout.root / "raw", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("withdrawn already on", "to be made again without the patient", "1 patient is left out", "finetune"):
        assert part in done.stdout + done.stderr
    assert row.patient not in {each.patient for part in ("train", "val") for each in CASES.rows(layout.cases(part))}
    assert [each.what for each in LEFT_OUT.rows(layout.left_out.parent)] == ["patient"]
    publish(layout, params, store, "v2")
    assert read_records(layout.synthetic, layout.filtered).samples["generator"][0] not in read_withdrawals(layout)[0].generators
    registry.refuse_withdrawn("2")
    assert not plan_withdrawal(layout, params, patient_hash(layout, row.patient)).present
