"""Against real `dvc` and git in temporary projects: hashes, work trees over one cache, restoring, failures."""

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from meddiff.errors import MeddiffError
from meddiff.services import versioning

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # dvc's own, in pygtrie
SETTINGS = ("prepare:\n  dataset: busi\n  path: raw  # where\n  seed: 1\nfilter:\n  min_contrast: 2  # which\n"
            "segment:\n  steps: 3\n")
# Each stage copies what it read, adds its settings, and can be told to fail or to wait.
STAGE = '''
import sys, time, pathlib, yaml
stage, out, *reads = sys.argv[1:]
own = yaml.safe_load(open("params.yaml"))[stage]
pathlib.Path("ran.txt").open("a").write(stage + "\\n")
if own.get("steps") == 13:
    print("meddiff: data/x.png: an image must decode. It is cut. Replace it.", file=sys.stderr)
    sys.exit(2)
if own.get("steps") == 14:
    raise SystemExit("no line of ours")
if own.get("steps") == 15:
    print("waiting", flush=True)
    time.sleep(60)
folder = pathlib.Path(out)
folder.mkdir(parents=True, exist_ok=True)
text = str(own.get("seed", own.get("min_contrast")))
text += "".join(p.read_text() for read in reads for p in sorted(pathlib.Path(read).rglob("*.txt")))
(folder / "a.txt").write_text(text)
(folder / "sub").mkdir(exist_ok=True)
(folder / "sub/b.txt").write_text(stage)
'''
PIPELINE = '''
stages:
  prepare:
    cmd: python stage.py prepare data/train
    deps: [stage.py]
    params: [prepare.seed]
    outs: [data/train]
  filter:
    cmd: python stage.py filter filtered data/train
    deps: [stage.py, data/train]
    params: [filter]
    outs: [filtered]
  segment:
    cmd: python stage.py segment models/segmenters filtered
    deps: [stage.py, filtered]
    params: [segment]
    outs: [models/segmenters]
'''


def sh(root: Path, *words: str) -> str:
    return subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout


def make_project(root: Path, persist: bool = False) -> Path:
    root.mkdir()
    (root / "params.yaml").write_text(SETTINGS)
    (root / "stage.py").write_text(STAGE)
    pipeline = yaml.safe_load(PIPELINE)
    for stage in pipeline["stages"].values():
        stage["outs"] = [{out: {"persist": persist}} for out in stage["outs"]]
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    (root / ".gitignore").write_text("/.work/\n/ran.txt\n")
    (root / "raw").mkdir()
    (root / "raw/big.png").write_text("the user's images")
    sh(root, "git", "init", "-q", ".")
    sh(root, sys.executable, "-m", "dvc", "init", "-q")
    return root


def ran(root: Path) -> list[str]:
    path = root / "ran.txt"
    return path.read_text().split() if path.is_file() else []


def repro(root: Path, stage: str, single: bool = False) -> versioning.Reproduced:
    return versioning.reproduce(root, stage, {}, single, show=lambda line: None)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run once."""
    root = make_project(tmp_path_factory.mktemp("versioning") / "project")
    done = repro(root, "segment")
    assert done.ran == ("prepare", "filter", "segment")
    assert not done.restored + done.unchanged
    sh(root, "git", "add", ".")
    sh(root, "git", "-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "first")
    return root


def test_hashes_and_entries_are_what_dvc_writes(project: Path) -> None:
    for stage, outs in versioning.locked(project).items():
        assert outs
        assert versioning.out_hashes(project, stage) == outs
        written = yaml.safe_load((project / "dvc.lock").read_text())["stages"][stage]
        expected = versioning.lock_text(project, stage, versioning.lock_entry(project, stage))
        assert yaml.safe_load(expected)["stages"][stage] == written
    assert len(versioning.locked(project)) == 3


def test_hashes_before_dvc_knows_them(project: Path, tmp_path: Path) -> None:
    """A stage computes them while DVC still waits for it, the first time without any `dvc.lock`."""
    tree = versioning.work_tree(project, tmp_path / "tree", {})
    (tree / "dvc.lock").unlink()
    assert versioning.out_hashes(tree, "filter") == versioning.locked(project)["filter"]
    (tree / "filtered/new.txt").write_text("x")
    assert versioning.out_hashes(tree, "filter") != versioning.locked(project)["filter"]


def test_upstream_follows_the_graph(project: Path, tmp_path: Path) -> None:
    assert versioning.upstream(project, "segment") == ("prepare", "filter")
    assert versioning.upstream(project, "prepare") == ()
    assert versioning.upstream(tmp_path, "segment") == ()
    assert versioning.lock_entry(tmp_path, "segment") == {} == versioning.lock(tmp_path)


def test_a_work_tree_runs_only_what_its_overrides_touch(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {"filter": {"min_contrast": 5}})
    expected = SETTINGS.replace("contrast: 2", "contrast: 5").replace("path: raw ", f"path: {project}/raw")
    assert (tree / "params.yaml").read_text() == expected
    assert not (tree / "raw").exists()
    assert not ran(tree)
    assert (project / "raw/big.png").read_text() == "the user's images"
    assert (tree / "data/train/sub/b.txt").read_text() == "prepare"
    one = repro(tree, "prepare", single=True)
    two = repro(tree, "filter", single=True)
    assert one.unchanged == ("prepare",)
    assert two.ran == ("filter",)
    assert ran(tree) == ["filter"]
    assert (project / "filtered/a.txt").read_text() == "21prepare"
    assert (tree / "filtered/a.txt").read_text() == "51prepare"

    again = versioning.work_tree(project, tree, {"filter": {"min_contrast": 2}})  # the same tree with other settings
    assert repro(again, "filter", single=True).restored == ("filter",)
    assert ran(tree) == ["filter"]
    assert (tree / "filtered/a.txt").read_text() == "21prepare"


def test_the_run_cache_is_shared_without_a_lock_file(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {})
    (tree / "dvc.lock").unlink()
    done = repro(tree, "segment")
    assert done.restored == ("prepare", "filter", "segment")
    assert not ran(tree)


def test_persistent_outs_come_back_through_the_lock_file_alone(tmp_path: Path) -> None:
    """DVC saves no run cache for `persist: true`: a tree relies on `dvc.lock` and the cache."""
    root = make_project(tmp_path / "project", persist=True)
    repro(root, "segment")
    tree = versioning.work_tree(root, tmp_path / "tree", {})
    assert repro(tree, "segment").unchanged == ("prepare", "filter", "segment")
    (root / "params.yaml").write_text(SETTINGS.replace("contrast: 2", "contrast: 9"))
    repro(root, "filter", single=True)
    (root / "params.yaml").write_text(SETTINGS)
    assert repro(root, "filter", single=True).ran == ("filter",)


def test_without_git_the_tree_still_leaves_data_behind(project: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    versioning.work_tree(project, bare, {})
    (bare / "extra.py").write_text("")
    (bare / "data/private.png").write_text("")
    tree = versioning.work_tree(bare, tmp_path / "tree", {"segment": {"steps": 4}})
    assert (tree / "extra.py").is_file()
    assert (tree / "data/train/a.txt").is_file()
    assert not (tree / "data/private.png").exists()
    assert versioning.git_commit(bare) == ""


def test_the_demo_keeps_its_folder_in_the_tree(project: Path, tmp_path: Path) -> None:
    """Else its setting would differ from the project's, and `prepare` run again in every tree."""
    tree = versioning.work_tree(project, tmp_path / "tree", {"prepare": {"dataset": "demo"}})
    assert "path: raw" in (tree / "params.yaml").read_text()
    assert (tree / "raw/big.png").is_file()


def test_a_project_without_git_is_one_line(tmp_path: Path) -> None:
    """As downloaded; DVC itself would end in a traceback."""
    (tmp_path / "my work (2)/.dvc").mkdir(parents=True)
    (root := tmp_path / "my work (2)").joinpath("dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("prepare:\n  seed: 1\n")
    for call in (lambda: versioning.upstream(root, "prepare"), lambda: versioning.lock_entry(root, "prepare"),
                 lambda: versioning.restore_outs(root, "prepare"), lambda: versioning.work_tree(root, tmp_path / "tree", {})):
        with pytest.raises(MeddiffError, match=r"my work \(2\): DVC works in a git repository.*Run `git init`"):
            call()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert versioning.upstream(root, "prepare") == ()
    (root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(MeddiffError, match="DVC must be able to work in the project"):
        versioning.upstream(root, "prepare")


def test_bad_overrides_and_projects(project: Path, tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"filter\.sed"):
        versioning.work_tree(project, tmp_path / "tree", {"filter": {"sed": 5}})
    assert not (tmp_path / "tree").exists()
    with pytest.raises(MeddiffError, match="under DVC"):
        versioning.work_tree(tmp_path, tmp_path / "tree", {})


def test_a_failed_stage_says_its_own_line(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {"segment": {"steps": 13}})
    seen: list[str] = []
    with pytest.raises(MeddiffError) as caught:
        versioning.reproduce(tree, "segment", {}, single=True, show=seen.append)
    assert str(caught.value) == "data/x.png: an image must decode. It is cut. Replace it."
    assert any("ERROR" in line for line in seen)
    versioning.work_tree(project, tree, {"segment": {"steps": 14}})
    assert not isinstance(caught.value, versioning.StageCrash)
    with pytest.raises(versioning.StageCrash, match="no line of ours"):
        versioning.reproduce(tree, "segment", {}, single=True, show=seen.append)


def test_a_setting_that_dvc_misses_is_named_and_no_crash(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {})
    (tree / "params.yaml").write_text(SETTINGS.replace("  seed: 1\n", ""))
    with pytest.raises(MeddiffError, match=r"Parameters 'prepare\.seed' are missing from 'params\.yaml'\. Write") as caught:
        versioning.reproduce(tree, "prepare", {}, single=True, show=lambda line: None)
    assert not isinstance(caught.value, versioning.StageCrash)


def test_a_missing_dependency_is_no_crash(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {})
    (tree / "stage.py").unlink()
    with pytest.raises(MeddiffError, match="a path that a stage reads must be there") as caught:
        versioning.reproduce(tree, "prepare", {}, single=True, show=lambda line: None)
    assert not isinstance(caught.value, versioning.StageCrash)


def test_outputs_that_dvc_removed_come_back(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {"segment": {"steps": 14}})
    with pytest.raises(MeddiffError):
        repro(tree, "segment", single=True)
    assert not (tree / "models/segmenters").exists()
    versioning.restore_outs(tree, "segment")
    assert versioning.out_hashes(tree, "segment") == versioning.locked(tree)["segment"]


def test_what_a_dvc_that_was_killed_left_does_not_stop_the_next(project: Path, tmp_path: Path) -> None:
    """Each is what DVC leaves that dies, or finds no room, as it writes; by itself it fails on them from then on."""
    root = shutil.copytree(project, tmp_path / "project")
    note = next((root / ".dvc/cache/runs").glob("*/*/*"))
    whole = (root / "dvc.lock").read_text()
    broken = whole[:whole.index("params:", len(whole) // 2) + len("params")]
    (root / "dvc.lock").write_text(broken)
    (root / ".dvc/tmp/rwlock").write_text('{"write": {')
    note.unlink()  # DVC dies between the making of a folder and of the file in it
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=root, capture_output=True, text=True, check=False)
    assert "is invalid" in done.stderr
    told: list[str] = []
    finished = versioning.reproduce(root, "segment", {}, single=False, show=told.append)
    assert len(finished.restored) == 2, told
    assert len(finished.ran) == 1
    assert (root / "dvc.lock").read_text() == whole
    assert (root / ".work/dvc.lock.broken").read_text() == broken
    assert sum("cut short" in line or "can't be read" in line or "DVC died" in line for line in told) == 3
    assert versioning.settle_dvc(root) == ()


def test_all_outputs_of_a_stage_come_back_where_one_is_missing(project: Path, tmp_path: Path) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {})
    before = versioning.locked(tree)
    shutil.rmtree(tree / "filtered")
    versioning.restore_all(tree)
    assert {stage: versioning.out_hashes(tree, stage) for stage in before} == before


@pytest.mark.parametrize("ignored", [False, True], ids=["", "a script's background job ignores SIGINT"])
def test_an_interrupt_ends_the_stage_too(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool) -> None:
    tree = versioning.work_tree(project, tmp_path / "tree", {"segment": {"steps": 15}})
    monkeypatch.setattr("meddiff.services.versioning.trees.STOP_SECONDS", 50.0)
    begun = math.inf

    def interrupt(line: str) -> None:
        nonlocal begun
        if line == "waiting":
            begun = time.monotonic()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            versioning.reproduce(tree, "segment", {}, single=True, show=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 40, "it ended by itself, it wasn't killed"
    versioning.work_tree(project, tree, {"segment": {"steps": 3}})
    assert repro(tree, "segment", single=True).restored == ("segment",)  # no lock is left


def test_git_commit_names_changes_other_than_the_lock_file(project: Path) -> None:
    commit = sh(project, "git", "rev-parse", "HEAD").strip()
    assert versioning.git_commit(project) == commit
    lock, stage = project / "dvc.lock", project / "stage.py"
    text, code = lock.read_text(), stage.read_text()
    lock.write_text(text + "\n")
    assert versioning.git_commit(project) == commit
    stage.write_text(code + "\n")
    assert versioning.git_commit(project) == commit + "-dirty"
    lock.write_text(text)
    stage.write_text(code)


def test_a_change_of_settings_is_shown_as_a_diff(project: Path) -> None:
    assert versioning.diff_params(project / "params.yaml", {"filter": {"min_contrast": 3}}) == (
        "--- a/params.yaml\n+++ b/params.yaml\n@@ -3,6 +3,6 @@\n   path: raw  # where\n   seed: 1\n filter:\n"
        "-  min_contrast: 2  # which\n+  min_contrast: 3  # which\n segment:\n   steps: 3\n")
