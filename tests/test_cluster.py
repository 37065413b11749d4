"""Units of work on real Dask workers: equal results anywhere, nothing lost with a worker, one line where the cluster is gone."""

import hashlib
import itertools
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from meddiff import cluster
from meddiff.cases import write_image
from meddiff.cluster import share_out
from meddiff.diffusion.inpainting import to_tensor
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.masks.model import fit_mask_model
from meddiff.params import ComputeParams, MaskModelParams, Params
from meddiff.segmentation.segmenter import Architecture, Segmenter
from meddiff.services.tracking import Unrecorded
from meddiff.stages import generate, prepare, segment
from tests.conftest import make_cases
from tests.pipelines import embedded
from tests.stages.test_evaluate import put_split
from tests.stages.test_prepare import raw_folder
from tests.units import begin, deadly, ending, failing, lasting, square

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Great Expectations imports modules that Python 3.11 deprecates
    from meddiff.stages import filter as filter_stage

ROOT = Path(__file__).parents[1]
LOCAL = ComputeParams(cluster="local:2", threads=1, device="cpu")


def done(work: Callable[..., None], folder: Path, n: int, compute: ComputeParams) -> dict[int, int]:
    results = dict[int, int]()
    share_out(range(n), partial(begin, folder), work, lambda result: results.update([result]), compute)
    return results


def test_units_are_done_once_each_wherever_they_are_done(tmp_path: Path) -> None:
    expected = {unit: unit * unit for unit in range(9)}
    (tmp_path / "here").mkdir()
    assert done(square, tmp_path / "here", 9, ComputeParams()) == expected
    assert len([*(tmp_path / "here").glob("begun.*")]) == 1
    assert done(square, tmp_path, 9, LOCAL) == expected
    assert {path.name.split(".")[1] for path in tmp_path.glob("unit*")}.isdisjoint({str(os.getpid())})
    assert len([*tmp_path.glob("unit*")]) == 9
    assert 1 <= len([*tmp_path.glob("begun.*")]) <= 2, "once in each worker that had a unit"
    assert done(square, tmp_path, 0, LOCAL) == {}


def test_a_worker_that_dies_costs_its_unit_alone(tmp_path: Path) -> None:
    assert done(deadly, tmp_path, 6, LOCAL) == {unit: unit * unit for unit in range(6)}
    assert [len([*tmp_path.glob(f"unit{unit}.*")]) for unit in range(6)] == [1, 1, 1, 2, 1, 1]


def test_a_unit_raises_here_and_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeddiffError) as caught:
        done(failing, tmp_path, 2, LOCAL)
    assert (caught.value.where, caught.value.rule, caught.value.remedy) == ("case a", "a rule", "Mend it")
    monkeypatch.setattr(cluster, "identity", lambda: ("other", "0"))
    with pytest.raises(MeddiffError, match="it must run the same code and torch 0"):
        done(square, tmp_path, 1, LOCAL)


@pytest.fixture
def scheduler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a scheduler."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield address, process
        process.kill()


def test_a_scheduler_that_is_gone_ends_in_one_line(
    scheduler: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, process = scheduler
    compute = ComputeParams(cluster=address, device="cpu")
    with pytest.raises(MeddiffError, match=r"needs workers, it has none. Start some: meddiff worker tcp://127\.0\.0\.1"):
        done(square, tmp_path, 2, compute)
    worker = subprocess.Popen([sys.executable, "-m", "meddiff", "worker", address], cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        until, results = time.monotonic() + 60, dict[int, int]()
        while not results:
            try:
                results = done(square, tmp_path, 3, compute)
            except MeddiffError:
                assert time.monotonic() < until, "the worker never came"
                time.sleep(0.2)
        assert results == {0: 0, 1: 1, 2: 4}
        family = [one := psutil.Process(worker.pid), *one.children(recursive=True)]
        listening = {c.laddr.ip for each in family for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}  # Dask has no sign-on
        monkeypatch.setattr(cluster, "PATIENCE", 2)
        with pytest.raises(MeddiffError, match="the Dask scheduler must answer"):
            share_out(range(2), partial(begin, tmp_path), partial(ending, process.pid), results.update, compute)
        with pytest.raises(MeddiffError, match="the Dask scheduler must answer"):
            done(square, tmp_path, 2, compute)
    finally:
        worker.terminate()
        worker.wait(30)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_stages_leave_the_same_files_with_any_number_of_workers(tiny: Params, tmp_path: Path) -> None:
    layout, labelled = Layout(tmp_path), make_cases(8)
    embedded(torch.stack([to_tensor(case.image) for case in labelled])).save_pretrained(layout.generator)
    (layout.generator / "meddiff.json").write_text('{"prompt": "a photo of hta"}')
    masks = [case.mask for case in labelled if case.mask is not None]
    fit_mask_model(masks, MaskModelParams(steps=3, grid=16, batch_size=4), "cpu")[0].save(layout.mask_model)
    for case in make_cases(4, seed=1, lesion=False):
        write_image(layout.backgrounds / f"images/{case.id}.png", case.image)
    put_split(layout, "train", labelled)
    put_split(layout, "val", make_cases(2, seed=2))
    inspector = Segmenter(Architecture("unet", 8).build(), Architecture("unet", 8))
    inspector.save(layout.inspector)
    settings = tiny.model_copy(update={"segment": tiny.segment.model_copy(update={"arms": ("real",)}),
                                       "generate": tiny.generate.model_copy(update={"samples_per_batch": 2})})
    outputs = []
    for where in ("", "local:2"):
        own = settings.model_copy(update={"compute": settings.compute.model_copy(update={"cluster": where})})
        generate.run(layout, own, Unrecorded())
        filter_stage.run(layout, own, Unrecorded())
        segment.run(layout, own, Unrecorded())
        outputs.append(hashes(layout.synthetic) | hashes(layout.filtered) | hashes(layout.segmenters))
        for path in (*(layout.work / "generate").iterdir(), *(layout.work / "segment").iterdir()):
            path.rename(tmp_path / f"{path.name}.{where.replace(':', '')}")  # so that all is made again
    assert len(outputs[0]) > 15
    assert outputs[0] == outputs[1]


def test_cases_are_prepared_alike_and_their_faults_told_together_with_any_number_of_workers(tmp_path: Path) -> None:
    raw_folder(tmp_path / "raw", 24)
    outputs = []
    for where in ("", "local:2"):
        layout = Layout(tmp_path / f"project{where.replace(':', '')}")
        settings = Params.model_validate({"prepare": {"dataset": "folder", "path": str(tmp_path / "raw"), "size": 32},
                                          "compute": {"cluster": where}})
        prepare.run(layout, settings, Unrecorded())
        outputs.append(hashes(layout.root / "data"))
    assert len(outputs[0]) > 40
    assert outputs[0] == outputs[1]
    for path in (masks := sorted((tmp_path / "raw/masks").iterdir()))[3], masks[21]:
        path.write_bytes(b"no picture")
    with pytest.raises(MeddiffError, match=rf"{masks[3].name}(.|\n)*{masks[21].name}"):
        prepare.run(layout, settings, Unrecorded())


def test_never_are_two_units_on_one_gpu_and_none_where_there_is_none(
    scheduler: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Two workers with two threads each, one of them with a GPU by name: threads alone would let four units run together."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler[0], "--nthreads", "2", "--host", "127.0.0.1",
               "--no-dashboard", "--memory-limit", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [subprocess.Popen([*command, *more], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
               for more in ([], ["--resources", "GPU=1", "--name", "gpu"])]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from distributed import Client
        with Client(scheduler[0], timeout=20) as client:
            client.wait_for_workers(2, timeout=60)
        spans = list[tuple[str, float, float]]()
        for device in ("cpu", "cuda"):
            spans.clear()
            compute = ComputeParams.model_validate({"cluster": scheduler[0], "device": device})
            share_out(range(6), partial(begin, tmp_path), lasting, spans.append, compute)
            ordered = sorted(spans, key=lambda span: span[1])
            together = any(later[1] < earlier[2] for earlier, later in itertools.pairwise(ordered))
            names = {name for name, _, _ in spans}
            assert (together, "gpu" in names, len(names)) == ((True, True, 2) if device == "cpu" else (False, True, 1)), device
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)
