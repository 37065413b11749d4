"""Backups of a project on one machine: SQLite, folders and files, put into an empty project and compared."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.services.backup import find_program, make_backup, platform_lock, restore_backup

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
STUDY = "meddiff-1"


def client(layout: Layout) -> MlflowClient:
    return MlflowClient(f"sqlite:///{layout.work / 'mlflow.db'}")


def experiments(layout: Layout) -> set[str]:
    """By SQLite, because MLflow's client holds on to a file that is gone."""
    with closing(sqlite3.connect(layout.work / "mlflow.db")) as database:
        return {name for name, in database.execute("SELECT name FROM experiments")}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project with a run, a file of it, a model with an alias, a study, a flow run, and DVC's cache and remote."""
    root = tmp_path_factory.mktemp("backup") / "my project"
    layout = Layout(root)
    (layout.work / "platform/prefect").mkdir(parents=True)
    (layout.work / "results/run-1").mkdir(parents=True)
    (layout.work / "results/run-1/params.yaml").write_text("a: 1\n")
    mlflow = client(layout)
    experiment = mlflow.create_experiment("meddiff", artifact_location=(layout.work / "mlartifacts").as_uri())
    run = mlflow.create_run(experiment).info.run_id
    mlflow.log_metric(run, "dice_real", 0.7)
    (root / "card.md").write_text("the card")
    mlflow.log_artifact(run, str(root / "card.md"))
    mlflow.set_terminated(run)
    mlflow.create_registered_model("meddiff-generator")
    mlflow.create_model_version("meddiff-generator", f"{mlflow.get_run(run).info.artifact_uri}", run)
    mlflow.set_registered_model_alias("meddiff-generator", "champion", "1")
    study = optuna.create_study(storage=f"sqlite:///{layout.work / 'optuna.db'}", study_name=STUDY)
    study.add_trial(optuna.create_trial(value=0.5))
    with closing(sqlite3.connect(layout.work / "platform/prefect/prefect.db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE flow_run (id TEXT, state_type TEXT)")
        database.execute("INSERT INTO flow_run VALUES ('f1', 'COMPLETED')")
    for folder in (root / ".dvc/cache/files/md5/ab", root / "remote/files/md5/ab"):
        folder.mkdir(parents=True)
        (folder / "cdef").write_bytes(b"bytes")
        (folder / "cdef").chmod(0o444)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n['remote \"lab\"']\n    url = ../remote\n"
                                      "['remote \"far\"']\n    url = s3://bucket\n")
    layout.params.write_text("prepare: {}\n")
    return layout


@pytest.fixture(scope="module")
def backup(used: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    releases = tmp_path_factory.mktemp("share") / "releases"
    (releases / "v1").mkdir(parents=True)
    (releases / "v1/release.json").write_text("{}")
    target = tmp_path_factory.mktemp("disk") / "saved"
    contents = make_backup(used, target, releases)
    rows = contents.rows
    assert rows["mlflow.db"]["runs"] == rows["optuna.db"]["trials"] == rows["prefect.db"]["flow_run"] == 1
    assert contents.files == len([path for path in target.rglob("*") if path.is_file()]) - 1  # but the manifest
    assert target.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(releases)
    return target


def test_an_empty_project_gets_all_of_it(used: Layout, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None, raising=False)
    layout = Layout(tmp_path / "elsewhere")
    layout.root.mkdir()
    before, after = make_rows(backup), restore_backup(layout, backup).rows
    assert after == before
    old, new = client(used), client(layout)
    run = old.search_runs(["1"])[0].info.run_id
    assert new.get_run(run).data.metrics == {"dice_real": 0.7}
    version = new.get_model_version_by_alias("meddiff-generator", "champion")
    assert int(version.version) == 1
    assert version.source.startswith((layout.work / "mlartifacts").as_uri())
    shutil.move(used.work / "mlartifacts", tmp_path / "away")
    try:
        assert Path(new.download_artifacts(run, "card.md")).read_text() == "the card"  # not from the project that was saved
    finally:
        shutil.move(tmp_path / "away", used.work / "mlartifacts")
    assert optuna.load_study(study_name=STUDY, storage=f"sqlite:///{layout.work / 'optuna.db'}").best_value == 0.5
    with closing(sqlite3.connect(layout.work / "platform/prefect/prefect.db")) as database:
        assert database.execute("SELECT * FROM flow_run").fetchall() == [("f1", "COMPLETED")]
    cached = layout.root / ".dvc/cache/files/md5/ab/cdef"
    assert cached.read_bytes() == b"bytes"
    assert not os.stat(cached).st_mode & 0o222  # as DVC protects it
    assert (layout.root / "remote/files/md5/ab/cdef").is_file()
    assert (layout.work / "results/run-1/params.yaml").is_file()
    assert (layout.root / ".dvc/config").read_text() == (used.root / ".dvc/config").read_text()
    releases = Path(json.loads((backup / "manifest.json").read_text())["homes"]["folders/releases"])
    assert (releases / "v1/release.json").is_file()
    shutil.rmtree(releases)


def make_rows(backup: Path) -> dict[str, dict[str, int]]:
    return json.loads((backup / "manifest.json").read_text())["rows"]  # type: ignore[no-any-return]


def test_nothing_is_overwritten_unless_it_is_asked_for(used: Layout, backup: Path, tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="the folder for the backup must be new or empty"):
        make_backup(used, backup)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("x")
    with pytest.raises(MeddiffError, match="must be new or empty"):  # no backup, which --force replaces
        make_backup(used, tmp_path / "letters", force=True)
    with pytest.raises(MeddiffError, match="must not lie in"):
        make_backup(used, used.work / "results/saved")
    layout = Layout(tmp_path / "project")
    shutil.copytree(used.root, layout.root)
    client(layout).create_experiment("another", artifact_location=tmp_path.as_uri())
    with pytest.raises(MeddiffError, match="must have no state of its own"):
        restore_backup(layout, backup)
    assert experiments(layout) == {"Default", "meddiff", "another"}
    again = tmp_path / "again"
    make_backup(layout, again)
    restore_backup(layout, backup, force=True)
    assert experiments(layout) == {"Default", "meddiff"}
    assert make_backup(layout, again, force=True).rows == make_rows(backup)


def test_a_spoilt_backup_and_a_running_platform_change_nothing(backup: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "project")
    layout.root.mkdir()
    copy = tmp_path / "copy"
    shutil.copytree(backup, copy)
    with (copy / "sqlite/mlflow.db").open("r+b") as file:
        file.seek(5000)
        file.write(b"spoilt")
    with pytest.raises(MeddiffError, match=r"every file must be as it was written, but sqlite/mlflow\.db"):
        restore_backup(layout, copy)
    with pytest.raises(MeddiffError, match="a folder that `meddiff backup` wrote"):
        restore_backup(layout, tmp_path)
    assert not layout.work.exists()
    with platform_lock(layout).acquire(timeout=0), pytest.raises(MeddiffError, match="the platform must stand still"):
        restore_backup(layout, backup)


def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MeddiffError, match=r"Install it: apt-get install postgresql, or pip install 'meddiff\[team\]'"):
        find_program("initdb")
