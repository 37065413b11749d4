"""A project with runs and a champion is moved, and copied: files are found where it lies, and nothing lands where it lay."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import Registry, fetch_model, settle_files, stage_run

MODEL = f"models:/{Params().promote.model}@champion"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a registered model that is the champion, and a file of its run."""
    root = tmp_path_factory.mktemp("place") / "a project"
    layout = Layout(root)
    (root / "model").mkdir(parents=True)
    (root / "model/weights.txt").write_text("of the champion")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_PARENT_RUN", "DVC_STAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("MEDDIFF_EXECUTION", "first")
        layout.params.write_text("{}")
        with stage_run(layout, Params(), "generate") as tracker:
            tracker.file(root / "model/weights.txt")
            tracker.dataset(pd.DataFrame({"id": ["a"]}), "train", "training")
            tracker.generator(root / "model")
        Registry(layout, Params()).set_alias("champion", "1")
        yield root


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_PARENT_RUN", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def record(root: Path, execution: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEDDIFF_EXECUTION", execution)
    with stage_run(Layout(root), Params(), "filter") as tracker:
        tracker.file(root / "params.yaml", "new")
        return tracker.own.id


def test_what_a_copy_records_lands_in_the_copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    before, copy = files(project), shutil.copytree(project, tmp_path / "copy")
    run = record(copy, "second", monkeypatch)
    assert f"the files of its runs are in {copy / '.work/mlartifacts'}" in capsys.readouterr().err
    assert (copy / ".work/mlartifacts" / run / "artifacts/new/params.yaml").is_file()
    assert files(project) == before
    record(copy, "third", monkeypatch)
    assert capsys.readouterr().err == ""  # said once


def test_a_moved_project_finds_its_champion(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away, moved = project.with_name("away"), tmp_path / "else" / "where it is now"
    shutil.copytree(project, moved)
    project.rename(away)  # the old place is gone
    try:
        place = fetch_model(Layout(moved), Params(), MODEL, tmp_path / "fetched")
        assert (place / "weights.txt").read_text() == "of the champion"
        table = Registry(Layout(moved), Params()).server.client.list_artifacts
        run = Registry(Layout(moved), Params()).server.client.get_model_version(Params().promote.model, "1").run_id
        assert "weights.txt" in {each.path for each in table(run)}
    finally:
        away.rename(project)
    assert "the project was moved or copied" in capsys.readouterr().err


def test_files_that_stayed_behind_are_still_found(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "database/.work").mkdir(parents=True)
    for name in ("params.yaml", ".work/mlflow.db"):
        shutil.copy2(project / name, tmp_path / "database" / name)
    root = tmp_path / "database"
    settle_files(root / ".work/mlflow.db")
    place = fetch_model(Layout(root), Params(), MODEL, tmp_path / "fetched")
    assert (place / "weights.txt").read_text() == "of the champion"
    run = record(root, "second", monkeypatch)
    assert (root / ".work/mlartifacts" / run).is_dir()
