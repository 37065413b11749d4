"""The catalogue: one contract, held by SQLite and by a real PostgreSQL."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import catalog


def find_binaries() -> Path | None:
    """Folder of PostgreSQL's server programs: on the PATH, or where Debian keeps them."""
    candidates = [Path(os.path.realpath(found)).parent] if (found := shutil.which("initdb")) else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A PostgreSQL cluster of its own, reachable only through a socket in the folder given; never run as root."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb and postgres are not installed")
    folder = Path(tempfile.mkdtemp(prefix="meddiff-pg-"))
    become: list[str] = []
    if os.geteuid() == 0:
        if not shutil.which("runuser") or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            pytest.skip("PostgreSQL refuses to run as root, and there is no runuser with a user `postgres`")
        become = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    data = folder / "data"
    initdb = [*become, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
    control = [*become, str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
    settings = f"-c listen_addresses= -c fsync=off -k {folder}"
    with (folder / "start.log").open("wb") as log:
        subprocess.run([*control, "-o", settings, "start"], check=True, stdout=log, stderr=log, cwd=folder)
    try:
        yield folder
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def params(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings whose catalogue is a new, empty database of the kind named."""
    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    if request.param == "sqlite":
        return Params()
    folder, name = request.getfixturevalue("postgres"), f"test_{uuid4().hex}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={folder}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return Params.model_validate({"catalog": {"url": f"postgresql://postgres@/{name}?host={folder}"}})


def write_files(root: Path, n: int = 6, decided: bool = True, generator: str = "abc123") -> Layout:
    """Two batches as `generate` and `filter` leave them: of the first, every third sample is accepted; the second failed."""
    layout = Layout(root)
    rows = [{"id": f"s{i:010d}", "batch": f"b{i * 2 // n:04d}", "seed": 5_000_000_000 + i, "background": f"normal_{i}",
             "area": 0.1 + 0.01 * i, "guidance_scale": 1.5, "steps": 20, "generator": generator} for i in range(n)]
    shutil.rmtree(layout.synthetic, ignore_errors=True)
    for batch, part in pd.DataFrame(rows).groupby("batch"):
        folder = layout.synthetic / str(batch)
        folder.mkdir(parents=True)
        part.to_parquet(folder / "batch.parquet", index=False)
    if decided:
        verdicts = ["accepted" if i % 3 == 0 else "rejected" for i in range(n // 2)] + ["quarantined"] * (n - n // 2)
        frame = pd.DataFrame([{"id": r["id"], "batch": r["batch"], "similarity": 0.5 if v != "rejected" else float("nan"),
                               "nearest": "case_1", "agreement": 0.8, "contrast": 12.0, "area": r["area"], "verdict": v,
                               "reason": "" if v == "accepted" else "copy"} for r, v in zip(rows, verdicts, strict=True)])
        layout.filtered.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(layout.filtered / "decisions.parquet", index=False)
        (layout.filtered / "batches.json").write_text(json.dumps({
            "b0000": {"passed": True, "reasons": []}, "b0001": {"passed": False, "reasons": ["acceptance below 0.05"]}}))
    return layout


def test_show_tells_where_a_sample_comes_from(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    assert catalog.rebuild(layout, params) == catalog.Counts(batches=2, samples=6, decisions=6, promotions=0)
    record = catalog.show(layout, params, "s0000000000")
    assert (record.seed, record.background, record.generator, record.guidance_scale) == (5_000_000_000, "normal_0", "abc123", 1.5)
    assert (record.verdict, record.similarity, record.nearest, record.batch_passed) == ("accepted", 0.5, "case_1", True)
    assert record.mask == "synthetic/b0000/masks/s0000000000.png"
    assert record.corroded == "filtered/masks/s0000000000.png"
    rejected = catalog.show(layout, params, "s0000000001")
    assert (rejected.verdict, rejected.reason, rejected.corroded, rejected.similarity) == ("rejected", "copy", None, None)
    quarantined = catalog.show(layout, params, "s0000000003")
    assert (quarantined.batch_passed, quarantined.batch_reasons) == (False, ("acceptance below 0.05",))


def test_find_lists_by_status(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    assert [r.id for r in catalog.find(layout, params, "quarantined")] == ["s0000000003", "s0000000004", "s0000000005"]
    assert [r.id for r in catalog.find(layout, params, "rejected")] == ["s0000000001", "s0000000002"]
    assert [r.id for r in catalog.find(layout, params, limit=2)] == ["s0000000000", "s0000000001"]
    with pytest.raises(MeddiffError, match="a status is one of accepted, rejected"):
        catalog.find(layout, params, "good")


def test_before_the_filter_samples_are_undecided(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path, decided=False)
    catalog.rebuild(layout, params)
    assert len(catalog.find(layout, params, "undecided")) == 6
    record = catalog.show(layout, params, "s0000000002")
    assert (record.verdict, record.agreement, record.batch_passed) == ("undecided", None, None)


def test_a_stale_catalogue_says_how_to_renew_it(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path, n=2)
    assert not catalog.outdated(layout, params)
    with pytest.raises(MeddiffError, match=r"never read into the catalogue\. Run `meddiff catalog rebuild`"):
        catalog.find(layout, params)
    catalog.rebuild(layout, params)
    assert not catalog.outdated(layout, params)
    write_files(tmp_path, n=6)
    assert catalog.outdated(layout, params)
    with pytest.raises(MeddiffError, match="meddiff catalog rebuild"):
        catalog.show(layout, params, "s0000000005")
    catalog.rebuild(layout, params)
    assert catalog.show(layout, params, "s0000000005").verdict == "quarantined"


def test_rebuild_replaces_samples_and_keeps_promotions(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    kept = catalog.record_promotion(layout, params, "meddiff-generator", "3", False, ["gain -0.01 is below 0"], "abc123")
    catalog.record_promotion(layout, params, "meddiff-generator", "2", True, [], "another")
    write_files(tmp_path, n=2)
    assert catalog.rebuild(layout, params) == catalog.Counts(batches=2, samples=2, decisions=2, promotions=2)
    assert catalog.show(layout, params, "s0000000001").promotions == (kept,)
    assert kept.at.utcoffset() is not None


def test_a_failed_rebuild_keeps_the_old_content(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    before = catalog.find(layout, params)
    whole = catalog._rows

    def broken(*args: object) -> object:
        rows = whole(*args)
        rows[catalog.Decision][-1]["id"] = "s_without_sample"
        return rows

    monkeypatch.setattr(catalog, "_rows", broken)
    with pytest.raises(MeddiffError):
        catalog.rebuild(layout, params)
    monkeypatch.undo()
    assert catalog.find(layout, params) == before


def test_projects_in_one_database_do_not_touch_each_other(params: Params, tmp_path: Path) -> None:
    mine, theirs = write_files(tmp_path / "mine"), write_files(tmp_path / "theirs", n=2, generator="other")
    shared = Params.model_validate({"catalog": {"url": params.catalog.url or f"sqlite:///{tmp_path / 'shared.db'}"}})
    catalog.rebuild(mine, shared)
    catalog.rebuild(theirs, shared)
    catalog.rebuild(mine, shared)
    assert catalog.show(mine, shared, "s0000000001").generator == "abc123"
    assert catalog.show(theirs, shared, "s0000000001").generator == "other"
    assert len(catalog.find(theirs, shared)) == 2


def test_parallel_writers_that_also_make_the_tables(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)

    def write(i: int) -> int:
        catalog.record_promotion(layout, params, "m", str(i), True, [])
        return catalog.rebuild(layout, params).samples

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(16))) == [6] * 16
    assert catalog.rebuild(layout, params).promotions == 16


def test_tables_of_another_version(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    with catalog._session(layout, params) as session:
        session.execute(sa.text("ALTER TABLE meddiff_samples RENAME COLUMN seed TO grain"))
    with pytest.raises(MeddiffError, match="Drop the tables named meddiff_"):
        catalog.rebuild(layout, params)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    params = Params()
    with pytest.raises(MeddiffError, match="dvc repro generate"):
        catalog.rebuild(Layout(tmp_path), params)
    layout = write_files(tmp_path)
    shutil.rmtree(layout.synthetic / "b0001")
    with pytest.raises(MeddiffError, match=r"unlike that on s0000000003\. Run `dvc repro filter`"):
        catalog.rebuild(layout, params)
    (layout.synthetic / "b0000/batch.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(MeddiffError, match=r"batch\.parquet: a table must decode"):
        catalog.rebuild(layout, params)


@pytest.mark.parametrize(("url", "rule"), [
    ("mysql://root@localhost/x", "has the form sqlite:///FILE"),
    ("no url", "has the form sqlite:///FILE"),
    ("postgresql://someone:geheim@127.0.0.1:1/x", "must answer"),
    ("sqlite:////proc/nothing/catalog.db", "must answer"),
])
def test_a_database_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, rule: str) -> None:
    monkeypatch.setenv(catalog.URL_VARIABLE, url)
    with pytest.raises(MeddiffError, match=rule) as caught:
        catalog.show(Layout(tmp_path), Params(), "s1")
    assert "geheim" not in str(caught.value)


def test_a_work_tree_writes_as_its_project(tmp_path: Path) -> None:
    assert catalog.project_name(Layout(tmp_path / "lab/.work/runs/1"), Params()) == "lab"
    assert catalog.project_name(Layout(tmp_path / "lab"), Params()) == "lab"
