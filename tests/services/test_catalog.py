"""The catalogue: one contract, held by SQLite and by a real PostgreSQL, and the way of old tables to their present form."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.rows import BackgroundRow, CaseRow
from meddiff.outputs.tables import BACKGROUNDS, CASES
from meddiff.outputs.withdrawals import project_salt
from meddiff.params import Params
from meddiff.services import catalog
from meddiff.services.catalog.models import VERSION_TABLE, Base

TYPES = {"sqlite": {"time": "DATETIME", "float": "DOUBLE", "serial": "INTEGER"},
         "postgresql": {"time": "TIMESTAMP", "float": "DOUBLE PRECISION", "serial": "SERIAL"}}
# The tables as they were made before there were migrations.
OLD_TABLES = """
CREATE TABLE meddiff_projects (name VARCHAR NOT NULL PRIMARY KEY, rebuilt {time});
CREATE TABLE meddiff_batches (project VARCHAR NOT NULL REFERENCES meddiff_projects (name), id VARCHAR NOT NULL,
  samples INTEGER NOT NULL, passed BOOLEAN, reasons VARCHAR NOT NULL, PRIMARY KEY (project, id));
CREATE TABLE meddiff_samples (project VARCHAR NOT NULL, id VARCHAR NOT NULL, batch VARCHAR NOT NULL, seed BIGINT NOT NULL,
  background VARCHAR NOT NULL, area {float} NOT NULL, guidance_scale {float} NOT NULL, steps INTEGER NOT NULL,
  generator VARCHAR NOT NULL, PRIMARY KEY (project, id),
  FOREIGN KEY(project, batch) REFERENCES meddiff_batches (project, id));
CREATE INDEX ix_meddiff_samples_generator ON meddiff_samples (generator);
CREATE TABLE meddiff_decisions (project VARCHAR NOT NULL, id VARCHAR NOT NULL, similarity {float}, nearest VARCHAR,
  agreement {float}, contrast {float}, verdict VARCHAR NOT NULL, reason VARCHAR NOT NULL, PRIMARY KEY (project, id),
  FOREIGN KEY(project, id) REFERENCES meddiff_samples (project, id));
CREATE INDEX ix_meddiff_decisions_verdict ON meddiff_decisions (verdict);
CREATE TABLE meddiff_promotions (number {serial} NOT NULL PRIMARY KEY,
  project VARCHAR NOT NULL REFERENCES meddiff_projects (name), model VARCHAR NOT NULL, version VARCHAR NOT NULL,
  passed BOOLEAN NOT NULL, reasons VARCHAR NOT NULL, generator VARCHAR NOT NULL, at {time} NOT NULL);
CREATE INDEX ix_meddiff_promotions_project ON meddiff_promotions (project);
INSERT INTO meddiff_projects VALUES ('lab', '2026-01-02 03:04:05.000000');
INSERT INTO meddiff_batches VALUES ('lab', 'b0', 1, true, '[]');
INSERT INTO meddiff_samples VALUES ('lab', 's1', 'b0', 5000000000, 'normal_1', 0.1, 1.5, 20, 'abc123');
INSERT INTO meddiff_decisions VALUES ('lab', 's1', 0.5, 'case_1', 0.8, 12.0, 'accepted', '');
INSERT INTO meddiff_promotions (project, model, version, passed, reasons, generator, at)
  VALUES ('lab', 'meddiff-generator', '3', false, '["gain is below 0"]', 'abc123', '2026-01-02 03:04:05.000000');
"""


def database(layout: Layout, params: Params) -> sa.Engine:
    """The catalogue's database without the catalogue."""
    layout.work.mkdir(parents=True, exist_ok=True)
    return sa.create_engine(params.catalog.url or f"sqlite:///{layout.work / 'catalog.db'}", poolclass=sa.NullPool)


def execute(layout: Layout, params: Params, statements: str) -> None:
    """Run statements, in which the names of `TYPES` stand for types."""
    engine = database(layout, params)
    with engine.begin() as connection:
        for statement in statements.format(**TYPES[engine.dialect.name]).strip().removesuffix(";").split(";\n"):
            connection.exec_driver_sql(statement)


def differences(layout: Layout, params: Params) -> list[object]:
    """What alembic would change in the database to make its tables those of the models."""
    with database(layout, params).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return list(compare_metadata(context, Base.metadata))


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
    assert catalog.rebuild(layout, params) == catalog.CatalogCounts(batches=2, samples=6, decisions=6, promotions=0)
    record = catalog.show(layout, params, "s0000000000")
    assert (record.seed, record.background, record.generator, record.guidance_scale) == (5_000_000_000, "normal_0", "abc123", 1.5)
    assert (record.verdict, record.similarity, record.nearest, record.batch_passed) == ("accepted", 0.5, "case_1", True)
    assert (record.pictures, record.corroded) == ("synthetic/b0000/batch.parquet", "filtered/masks.parquet")
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
    assert catalog.rebuild(layout, params) == catalog.CatalogCounts(batches=2, samples=2, decisions=2, promotions=2)
    assert catalog.show(layout, params, "s0000000001").promotions == (kept,)
    assert kept.at.utcoffset() is not None


def test_a_failed_rebuild_keeps_the_old_content(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    before = catalog.find(layout, params)
    path = write_files(tmp_path, n=4).filtered / "decisions.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "reason"] = None  # the last of the last table
    table.to_parquet(path, index=False)
    with pytest.raises(MeddiffError, match="reason"):
        catalog.rebuild(layout, params)
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


def test_tables_that_someone_changed(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    execute(layout, params, "ALTER TABLE meddiff_samples RENAME COLUMN seed TO grain")
    with pytest.raises(MeddiffError, match=r"as meddiff made them .*\. Restore them, or name another database"):
        catalog.rebuild(layout, params)


@pytest.mark.parametrize("old", [False, True])
def test_models_and_migrations_agree(params: Params, tmp_path: Path, old: bool) -> None:
    layout = write_files(tmp_path)
    if old:
        execute(layout, params, OLD_TABLES)
    catalog.rebuild(layout, params)
    assert differences(layout, params) == []
    execute(layout, params, "ALTER TABLE meddiff_samples RENAME COLUMN seed TO grain")
    assert differences(layout, params) != []


def test_a_catalogue_older_than_the_migrations_keeps_its_rows(params: Params, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    execute(layout, params, OLD_TABLES)
    record = catalog.show(layout, params, "s1")
    assert (record.seed, record.verdict, record.batch_passed) == (5_000_000_000, "accepted", True)
    assert [(each.version, each.passed, each.reasons) for each in record.promotions] == [("3", False, ("gain is below 0",))]
    write_files(layout.root)
    catalog.record_promotion(layout, params, "meddiff-generator", "4", True, [], "abc123")
    assert catalog.rebuild(layout, params) == catalog.CatalogCounts(batches=2, samples=6, decisions=6, promotions=2)
    assert [each.version for each in catalog.show(layout, params, "s0000000000").promotions] == ["3", "4"]


def test_a_catalogue_newer_than_the_code_is_left_alone(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path)
    catalog.rebuild(layout, params)
    with database(layout, params).connect() as connection:
        newest = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one()
    execute(layout, params, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(MeddiffError, match=r"newer \(schema 9999\) than this meddiff \(schema \d{4}\)\. Upgrade") as caught:
        catalog.rebuild(layout, params)
    assert "\n" not in str(caught.value)
    execute(layout, params, f"UPDATE {VERSION_TABLE} SET version_num = '{newest}'")
    assert len(catalog.find(layout, params)) == 6


def test_processes_that_open_it_together_migrate_once(params: Params, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    layout.root.mkdir()
    code = ("import sys; from pathlib import Path; from meddiff.layout import Layout; from meddiff.params import Params; "
            "from meddiff.services import catalog; print('ready', flush=True); sys.stdin.read(); "
            "catalog.record_promotion(Layout(Path.cwd()), Params(), 'm', sys.argv[1], True, [], 'abc123')")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {catalog.URL_VARIABLE: params.catalog.url} if params.catalog.url else {}
    with ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=layout.root, env=env, text=True,
                                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)) for i in range(2)]
        assert [process.stdout and process.stdout.readline() for process in started] == ["ready\n"] * 2
        for process in started:
            assert process.stdin
            process.stdin.close()
    assert [process.returncode for process in started] == [0, 0]
    write_files(layout.root)
    assert catalog.rebuild(layout, params).promotions == 2


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


# ---- written by stages

def prepared(layout: Layout, patients: int = 3) -> None:
    """Tables as `prepare` and `backgrounds` leave them: two training images of each patient, the first of whom is `Ms Smith`."""
    rows = [CaseRow(f"case_{i}", f"group_{i // 2}", 1, patient="Ms Smith" if i < 2 else f"Mr {i // 2}", raw_sha256=f"{i:064x}")
            for i in range(2 * patients)]
    for part, own in (("train", rows[:-1]), ("val", rows[-1:]), ("test", [])):
        layout.cases(part).mkdir(parents=True, exist_ok=True)
        CASES.write(layout.cases(part), own)
    layout.backgrounds.mkdir(exist_ok=True)
    BACKGROUNDS.write(layout.backgrounds, [BackgroundRow(f"normal_{i}", f"removed:case_{i}") for i in range(2 * patients)])


def test_stages_write_the_catalogue_by_execution(params: Params, tmp_path: Path) -> None:
    layout = write_files(tmp_path / "lab", decided=False)
    prepared(layout)
    catalog.record_stage(layout, params, "generate", "first", "run1", "commit1", "meddiff-generator/1")
    assert catalog.find(layout, params)[0].verdict == "undecided"
    write_files(layout.root, generator="abc123")
    catalog.record_stage(layout, params, "filter", "first", "run1", "commit1", "meddiff-generator/1")
    catalog.record_stage(layout, params, "evaluate", "first", "run1", segmenter="meddiff-segmenter/1")
    before = catalog.show(layout, params, "s0000000000")
    assert (before.execution, before.model, before.source) == ("first", "meddiff-generator/1", "case_0")
    assert before.verdict == "accepted"
    write_files(layout.root, n=2, generator="def456")
    catalog.record_stage(layout, params, "filter", "second", "run2")
    assert [record.generator for record in catalog.find(layout, params)] == ["def456"] * 2
    assert catalog.show(layout, params, "s0000000005").execution == "first"  # of the newest that has it
    history = catalog.read_history(layout, params)
    assert [(each.id, each.generator, each.segmenter, each.commit) for each in history.executions] == [
        ("second", "", "", ""), ("first", "meddiff-generator/1", "meddiff-segmenter/1", "commit1")]
    assert {(made.execution, made.generator, made.samples, made.accepted) for made in history.made} == {
        ("first", "abc123", 6, 1), ("second", "def456", 2, 1)}
    assert len(history.cases) == 1  # of equal datasets the images stand once
    (images,) = history.cases.values()
    assert [(image.id, image.part) for image in images] == [(f"case_{i}", "train") for i in range(5)] + [("case_5", "val")]
    assert {pair[1] for pair in catalog.painted_into(layout, params, images[0].patient)} == {"s0000000000", "s0000000001"}


def test_threads_that_ask_at_the_same_moment_get_one_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDDIFF_SALT", raising=False)
    layout, together, link = Layout(tmp_path), Barrier(4, timeout=20), os.link

    def at_once(*names: str) -> None:
        together.wait()
        link(*names)

    monkeypatch.setattr(os, "link", at_once)
    with ThreadPoolExecutor(4) as pool:
        salts = set(pool.map(lambda _: project_salt(layout), range(4)))
    assert salts == {(layout.work / "salt").read_text()}
    assert [path.name for path in layout.work.iterdir()] == ["salt"]
    assert (layout.work / "salt").stat().st_mode & 0o077 == 0


def test_a_patient_is_a_salted_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    known = []
    for name in ("one", "two"):
        layout = write_files(tmp_path / name)
        prepared(layout)
        catalog.rebuild(layout, Params())
        known.append(catalog.show(layout, Params(), "s0000000000").patient)
        assert b"Smith" not in (layout.work / "catalog.db").read_bytes()
    assert known[0] != known[1], "each project has a salt of its own"
    assert all(len(hash) == 12 for hash in known)


def test_what_a_work_tree_wrote_outlives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    tree = write_files(tmp_path / "lab/.work/runs/1")
    prepared(tree)
    catalog.record_stage(tree, Params(), "filter", "flow")
    shutil.rmtree(tree.root)
    assert catalog.show(Layout(tmp_path / "lab"), Params(), "s0000000000").execution == "flow"


def test_a_delivery_is_kept(params: Params, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    catalog.record_delivery(layout, params, "release", "v1", "file:///share/", ["b", "a"], 7)
    (sent,) = catalog.read_history(layout, params).deliveries
    assert (sent.kind, sent.name, sent.place, sent.generators, sent.pairs) == ("release", "v1", "file:///share/", ("a", "b"), 7)
