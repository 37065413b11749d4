"""A tiny project under real DVC and MLflow, whose processes are killed in every stage, whose disk is full, that is run twice at
once: the same command finishes the work, and the outputs are those of an undisturbed run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import Unrecorded
from meddiff.services.tracking.server import connect
from meddiff.stages import finetune
from meddiff.warm import warm_stages
from tests.faults.projects import (
    DEADLY,
    change,
    environment,
    half_made,
    make_tiny_project,
    output_files,
    run,
    run_undisturbed,
    seen,
    start,
)
from tests.infra.platforms import until

pytestmark = pytest.mark.services

DEATHS = (
    "rename /data/val$",                                        # while folders are swapped in, some are and some aren't
    r"open /cache/runs/\w+/\w+/\.[^/]+\.tmp$",                  # DVC itself, as it notes a result
    r"after rename /\.work/foundation/\w+\.safetensors$",       # in training, after a checkpoint
    "rename /models/inspector$",
    "rename /cache/files/md5/",                                 # DVC, as it puts outputs into its cache
    r"after rename /\.work/mask_model/\w+\.safetensors$",
    r"rename /\.work/finetune/\w+\.safetensors$",               # in training, while a checkpoint is written
    r"open /models/\.generator\.new/meddiff\.json$",            # an output half written
    r"after rename /\.work/generate/\w+/b0000$",                # between two batches
    r"open /\.work/\.bundle\.new/",                             # all batches done
    r"half open /killed/dvc\.lock$",                            # DVC, as it writes dvc.lock
    r"open /\.filtered\.new/masks\.parquet$",
    r"after rename /\.work/segment/\w{16}$",                    # one of four segmenters done
    "rename /reports/evaluation$",
)
MADE_ONCE = (".work/generate/*/b0000", ".work/generate/*/b0001", ".work/segment/*[0-9a-f]")


@pytest.fixture(scope="module")
def undisturbed(tiny: Params, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project that was never disturbed, and the hashes of its files."""
    root = make_tiny_project(tmp_path_factory.mktemp("undisturbed") / "undisturbed", tiny)
    return root, run_undisturbed(root)


@pytest.fixture(scope="module")
def warm() -> Iterator[None]:
    """Stages are forks of one process, so that each start doesn't load all libraries anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(DEADLY))
        with warm_stages():
            yield


@pytest.fixture(scope="module")
def killed(tiny: Params, warm: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Path, int]]]:
    """A project that was killed in every stage, and by the same command again and again was finished; and what was finished in
    `.work` at some death, with the number of its folder on the disk."""
    root, finished = make_tiny_project(tmp_path_factory.mktemp("killed") / "killed", tiny), list[tuple[Path, int]]()
    for death in DEATHS:
        code, told = run(root, "meddiff", "repro", deaths=DEATHS)
        assert code != 0
        assert seen(root)[-1] == death, told
        finished += [(path, path.stat().st_ino) for pattern in MADE_ONCE for path in root.glob(pattern)]
    code, told = run(root, "meddiff", "repro", deaths=DEATHS)
    assert code == 0, told
    return root, finished


@pytest.fixture
def copy(killed: tuple[Path, object], tmp_path: Path) -> Path:
    copied = shutil.copytree(killed[0], tmp_path / "copy", symlinks=True)
    (copied / ".work/seen").unlink()  # its deaths are counted anew
    return copied


def files_at(place: str, files: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in files.items() if name.startswith(place)}


def finetuned(undisturbed: tuple[Path, object], learning_rate: float) -> dict[str, str]:
    """The files of the undisturbed project's generator after another training."""
    params = change(undisturbed[0], finetune={"learning_rate": learning_rate})
    finetune.run(Layout(undisturbed[0]), params, Unrecorded())
    return files_at("models/generator", output_files(undisturbed[0]))


def test_killed_in_every_stage_the_same_command_ends_with_the_files_of_an_undisturbed_run(
        killed: tuple[Path, object], undisturbed: tuple[Path, dict[str, str]]) -> None:
    root, files = killed[0], undisturbed[1]
    assert len(files) > 150
    assert output_files(root) == files
    assert half_made(root) == []
    code, told = run(root, "dvc", "status")
    assert code == 0
    assert "Data and pipelines are up to date." in told


def test_what_was_finished_at_a_death_is_not_made_again(killed: tuple[Path, list[tuple[Path, int]]]) -> None:
    root, finished = killed
    assert {path.parts[-3] for path, _ in finished if path.name == "b0001"} == {"generate"}
    assert any(path.parent.name == "segment" for path, _ in finished)
    assert [(path, path.stat().st_ino) for path, _ in finished] == finished
    server = connect(Layout(root), Params().tracking)
    versions = server.client.search_model_versions()
    assert sorted(version.name for version in versions) == ["meddiff-generator", "meddiff-segmenter"]


def test_a_stage_killed_when_it_ran_again_leaves_the_outputs_of_before(killed: tuple[Path, object], copy: Path) -> None:
    before = output_files(copy)
    change(copy, mask_model={"steps": 3})
    code, told = run(copy, "meddiff", "repro", deaths=["rename /models/mask_model$"])
    assert (code, "exited with 137" in told) == (255, True)
    assert output_files(copy) == before, "as by `dvc checkout`"
    code, told = run(copy, "dvc", "repro", "mask_model", deaths=["rename /models/mask_model$"] * 2)
    assert code == 255
    assert not (copy / "models/mask_model").exists(), "DVC removes them, and nobody is left to bring them back"
    change(copy, mask_model={"steps": 4})
    code, told = run(copy, "dvc", "repro")
    assert code == 0, told
    assert output_files(copy) == before
    assert "Running stage" not in told


def test_a_second_clone_pulls_the_numbers_of_the_report(killed: tuple[Path, object], copy: Path, tmp_path: Path) -> None:
    def do(root: Path, *words: str) -> str:
        done = subprocess.run(words, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    do(copy, "dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    do(copy, "dvc", "push")
    do(copy, "git", "add", "--all")
    do(copy, "git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "A run")
    second = tmp_path / "second"
    do(tmp_path, "git", "clone", "--quiet", str(copy), str(second))
    assert not (second / "reports").exists()
    do(second, "dvc", "pull")
    assert output_files(second) == output_files(killed[0])
    assert (second / "reports/evaluation/report.html").is_file()
    assert "Running stage" not in do(second, "dvc", "repro")


def test_of_two_runs_at_once_one_works_and_one_that_lost_its_dvc_is_waited_for(
        killed: tuple[Path, object], undisturbed: tuple[Path, dict[str, str]], copy: Path) -> None:
    wanted = finetuned(undisturbed, 4e-4)
    change(copy, finetune={"learning_rate": 4e-4})
    with start(copy, "dvc", "repro", "finetune", deaths=[r"stop open /models/\.generator\.new/meddiff\.json$"]) as first:
        until(lambda: (copy / ".work/seen").is_file() and seen(copy), 120)
        (stage,) = [process for process in psutil.process_iter() if is_stopped_in(process, copy)]
        code, told = run(copy, "meddiff", "repro", "finetune")
        assert code == 255
        assert "is busy, it is being blocked by" in told
        assert (copy / "models/.generator.new").is_dir(), "the second leaves the first alone"
        first.kill()
        first.wait()
        with start(copy, "meddiff", "repro", "finetune") as again:
            assert again.stdout is not None
            lines = list[str]()
            for line in again.stdout:
                lines.append(line)
                if "waiting for finetune in this folder, which process" in line:
                    stage.resume()
            rest = "".join(lines)
            assert "waiting for" in rest, rest
        assert again.returncode == 0, rest
    assert files_at("models/generator", output_files(copy)) == wanted
    assert half_made(copy) == []


def is_stopped_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED and process.cwd() == str(folder)
    except psutil.Error:
        return False


@pytest.fixture
def small_disks(copy: Path) -> Iterator[dict[str, Path]]:
    """Folders of the project that are file systems of their own without room; each gets some as its file `ballast` goes."""
    disks = {name: copy / name for name in (".dvc/tmp", ".work", "models", ".dvc/cache")}
    mounted = []
    try:
        for disk in disks.values():
            aside = disk.rename(disk.with_name(f"{disk.name}.aside"))
            disk.mkdir()
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"only root may mount a small file system here ({done.stderr.decode().strip()})")
            mounted.append(disk)
            shutil.copytree(aside, disk, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(aside)
            room = 0 if disk.name != "models" else 200_000  # for names and small files
            with (disk / "ballast").open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free - room)
        yield disks
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_told_and_with_room_the_same_command_ends(
        killed: tuple[Path, object], undisturbed: tuple[Path, dict[str, str]], copy: Path, small_disks: dict[str, Path]) -> None:
    wanted = finetuned(undisturbed, 3e-4)
    change(copy, finetune={"learning_rate": 3e-4})
    shutil.rmtree(copy / "models/generator")
    for disk, said in ((".dvc/tmp", "No space left on device"), (".work", "No space left|disk is full|disk I/O error"),
                       ("models", "No space left on device|there must be room on the disk, and none is left"),
                       (".dvc/cache", "No space left on device")):
        code, told = run(copy, "meddiff", "repro", "finetune")
        assert code != 0, disk
        assert re.search(said, told), told
        (small_disks[disk] / "ballast").unlink()
    code, told = run(copy, "meddiff", "repro", "finetune")
    assert code == 0, told
    assert files_at("models/generator", output_files(copy)) == wanted
    assert half_made(copy) == []
