"""What counts as unused in a project with git, DVC, results of flow runs and MLflow, and that the rest is there afterwards."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import versioning
from meddiff.services.tracking import Registry, stage_run
from meddiff.upkeep.unused import Unused, find_unused, free_unused, parse_keep, pin_release

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # dvc's own, in pygtrie
STAGE = "import sys, pathlib; p = pathlib.Path('data/train'); p.mkdir(parents=True); (p / 'a.txt').write_text(sys.argv[1])"
NAMES = ("workspace", "branch", "result", "release", "champion", "nothing", "young")


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def object_of(root: Path) -> str:
    """The hash of the stage's folder that `dvc.lock` names now."""
    return versioning.locked(root)["prepare"]["data/train"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project in which each name of NAMES was once the content of an output; who refers to it, and hash by name."""
    root, hashes = tmp_path_factory.mktemp("unused") / "p", dict[str, str]()
    root.mkdir()
    layout = Layout(root)
    layout.params.write_text("{}\n")
    (root / ".gitignore").write_text("/.work/\n/data/\n")
    git(root, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDDIFF_PARENT_RUN", "DVC_STAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in reversed(NAMES):  # `workspace` last
            stage = {"cmd": f'python -c "{STAGE}" {name}', "outs": ["data/train"]}
            (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"prepare": stage}}))
            subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)
            hashes[name] = object_of(root)
            if name == "branch":
                git(root, "add", "-A")
                git(root, "commit", "-qm", "a")
                git(root, "branch", "kept")
            elif name == "result":
                (layout.work / "results/run-1").mkdir(parents=True)
                shutil.copyfile(root / "dvc.lock", layout.work / "results/run-1/dvc.lock")
            elif name == "release":
                pin_release(layout, "v1", "file:///mnt/releases/v1/")
            elif name == "champion":
                patch.setenv("MEDDIFF_EXECUTION", name)
                (root / ".work/model").mkdir(parents=True)
                with stage_run(layout, Params(), "prepare") as tracker:
                    tracker.generator(root / ".work/model")
                Registry(layout, Params()).set_alias("champion", "1")
                with sqlite3.connect(layout.work / "mlflow.db") as database:
                    database.execute("UPDATE runs SET start_time = 1")
                database.close()
    (layout.work / "runs/failed/.dvc").mkdir(parents=True)
    (layout.work / "mlartifacts/0123").mkdir()
    long_ago = time.time() - 40 * 86400
    for path in [*(root / ".dvc/cache").rglob("*"), *(layout.work / "runs").rglob("*"), *(layout.work / "results").rglob("*"),
                 layout.work / "mlartifacts/0123"]:
        if not path.is_file() or (hashes["young"][2:] != path.name and path.read_bytes() != b"young"):
            os.utime(path, (long_ago, long_ago))
    (layout.work / "runs/failed/big.bin").write_bytes(b"x" * 5000)
    for path in ((layout.work / "runs/failed/big.bin"), (layout.work / "runs/failed")):
        os.utime(path, (long_ago, long_ago))
    return root, hashes


@pytest.fixture
def project(first: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, dict[str, str]]:
    """A copy, times and all."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Layout(shutil.copytree(first[0], tmp_path / "p", symlinks=True)), first[1]


def there(layout: Layout, hashes: dict[str, str]) -> set[str]:
    """Names whose output the cache has, file by file."""
    cache = layout.root / ".dvc/cache/files/md5"
    return {name for name, value in hashes.items() if (cache / value[:2] / value[2:]).is_file()}


def parts(unused: Unused) -> dict[str, int]:
    return {part.what: len(part.paths) for part in unused.parts}


def test_what_something_refers_to_stays_and_the_rest_can_go(project: tuple[Layout, dict[str, str]]) -> None:
    layout, hashes = project
    unused = find_unused(layout, Params(), parse_keep("champion,releases,results,30d"))
    assert parts(unused) == {".work/runs": 1, "MLflow: files of deleted runs": 1, "DVC's cache": 2}  # a folder and its file
    assert unused.bytes > 5000
    assert there(layout, hashes) == set(NAMES)  # nothing is removed by looking
    free_unused(layout, Params(), unused)
    assert there(layout, hashes) == set(NAMES) - {"nothing"}
    assert not (layout.work / "runs/failed").exists()
    assert Registry(layout, Params()).alias("champion") == "1"
    status = subprocess.run([sys.executable, "-m", "dvc", "status", "-q"], cwd=layout.root, check=False)
    assert status.returncode == 0
    assert not parts(find_unused(layout, Params(), parse_keep("champion,releases,results,30d")))


def test_releases_results_and_youth_are_kept_if_asked_for(project: tuple[Layout, dict[str, str]]) -> None:
    layout, hashes = project
    unused = find_unused(layout, Params(), parse_keep("champion,30d"))
    assert parts(unused)[".work/results"] == 1
    free_unused(layout, Params(), unused)
    assert there(layout, hashes) == {"workspace", "branch", "champion", "young"}


def test_what_cannot_be_read_stops_it_all(project: tuple[Layout, dict[str, str]]) -> None:
    layout, _ = project
    (layout.work / "results/run-1/dvc.lock").write_text("stages: [")
    with pytest.raises(MeddiffError, match="must be readable"):
        find_unused(layout, Params(), parse_keep("releases,results,30d"))


@pytest.mark.parametrize("text", ["champion", "results,3", "30d,60d", "everything,30d"])
def test_a_word_that_is_none_is_told(text: str) -> None:
    with pytest.raises(MeddiffError, match="--keep"):
        parse_keep(text)
