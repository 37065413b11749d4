"""What `meddiff doctor` says of a sound project, and of each thing that is amiss."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from meddiff.cli.app import app
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.upkeep.doctor import Symptom, examine


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MEDDIFF_CATALOG_URL", "AWS_ENDPOINT_URL",
                 "MEDDIFF_S3_ENDPOINT_URL", "HF_HUB_OFFLINE", "MEDDIFF_TUNE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    root = tmp_path / "p"
    root.mkdir()
    (root / "params.yaml").write_text("{}\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=root, check=True)
    monkeypatch.chdir(root)
    return Layout(root)


def look(layout: Layout, **sections: object) -> dict[str, Symptom]:
    return {symptom.name: symptom for symptom in examine(layout, Params.model_validate(sections))}


def test_a_sound_project_is_ok_and_every_thing_has_a_line(project: Layout) -> None:
    found = look(project)
    assert {"versions", "device", "memory", "disk", "folders", "DVC", "MLflow", "Prefect", "catalogue", "model",
            "clock"} <= set(found)
    assert not [symptom for name, symptom in found.items() if not symptom.ok and name not in ("memory", "disk")]
    assert not (project.work / "catalog.db").exists()  # looking makes none


def test_what_is_amiss_is_bad_with_a_remedy_and_without_a_secret(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # on which nothing listens
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:SECRET")
    monkeypatch.setenv("MEDDIFF_CATALOG_URL", f"postgresql+psycopg://u:SECRET@127.0.0.1:{port}/x")
    monkeypatch.setenv("MEDDIFF_TUNE_STORAGE", f"postgresql+psycopg://u:SECRET@127.0.0.1:{port}/x")
    monkeypatch.setenv("MEDDIFF_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e9))
    (project.root / "reports").mkdir()
    (project.root / "reports/.evaluation.old").mkdir()
    found = look(project, foundation={"source": "someone/sd"}, compute={"device": "cuda"},
                 tracking={"uri": f"postgresql+psycopg://u:SECRET@127.0.0.1:{port}/m"})
    bad = {name: symptom for name, symptom in found.items() if not symptom.ok}
    assert {"disk", "device", "MLflow", "Prefect", "catalogue", "studies", "storage", "model", "swap"} <= set(bad)
    assert all(symptom.remedy for symptom in bad.values())
    assert "mv '" in bad["swap"].remedy
    assert "SECRET" not in str(found)


def test_a_shell_that_does_not_know_the_servers_of_a_team_is_told(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local files would stand in for them: `gc` would find all of the team's data unused, `withdraw` no model of the patient."""
    (project.work / "team").mkdir(parents=True)
    (project.work / "team/environment").touch()
    assert ". .work/team/environment" in look(project)["team"].remedy
    for words in ("gc --yes", "withdraw Smith --yes", "promote", "lineage", "release publish v1 x"):
        error = CliRunner().invoke(app, words.split()).exception
        assert isinstance(error, MeddiffError)
        assert "MLFLOW_TRACKING_URI: it must be set" in str(error)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.work / 'mlflow.db'}")
    assert "MEDDIFF_CATALOG_URL isn't set" in look(project)["team"].says
    monkeypatch.setenv("MEDDIFF_CATALOG_URL", f"sqlite:///{project.work / 'catalog.db'}")
    assert "team" not in look(project)


def test_the_command_ends_with_1_where_something_is_amiss(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Symptom("disk", True, "9 GB free"), Symptom("MLflow", False, "it must answer", "Start it")]
    monkeypatch.setattr("meddiff.upkeep.doctor.examine", lambda layout, params: iter(made))
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, done.stdout.splitlines()[1]) == (1, "BAD MLflow      it must answer. Start it")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(done.stdout)[1] == {"name": "MLflow", "ok": False, "says": "it must answer", "remedy": "Start it"}
    monkeypatch.setattr("meddiff.upkeep.doctor.examine", lambda layout, params: iter(made[:1]))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
