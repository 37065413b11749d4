"""Prefect's limit of a GPU, on a real server: as many stages use the GPU at a time as it allows. The GPU itself is a name."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Lock
from time import sleep

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows import pipeline, upkeep
from meddiff.params import ComputeParams

pytestmark = pytest.mark.services
GPU = "GPU-0000"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree on a machine with one GPU."""
    (tmp_path / "params.yaml").write_text("{}\n")
    monkeypatch.setattr(upkeep, "gpu_names", lambda device: (GPU,))
    monkeypatch.setattr(pipeline, "stage_gpus", lambda stage, device: (GPU,) if stage != "prepare" else ())
    return tmp_path


def limit(runs: int) -> None:
    with get_client(sync_client=True) as client:
        upkeep.limit_gpus(client, ComputeParams(gpu_runs=runs))


def run(tree: Path, *stages: str) -> None:
    @flow
    def together() -> None:
        for task in [pipeline.reproduce.submit(tree, stage, {}) for stage in stages]:
            task.result()

    together()


def test_stages_wait_for_the_gpu_and_prepare_does_not(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working, most, lock = dict[str, int](), dict[str, int](), Lock()

    def work(tree: Path, stage: str, env: dict[str, str]) -> bool:
        with lock:
            working[stage] = working.get(stage, 0) + 1
            most[stage] = max(most.get(stage, 0), working[stage])
        if stage == "prepare":
            both.wait()
        sleep(0.5)  # long enough for another to come in, were it not kept out
        with lock:
            working[stage] -= 1
        return True

    both = Barrier(2, timeout=100)
    monkeypatch.setattr(pipeline, "_reproduce", work)
    limit(1)
    run(tree, "foundation", "foundation", "foundation", "prepare", "prepare")
    assert most == {"foundation": 1, "prepare": 2}


def test_a_gpu_that_is_shared_holds_as_many_as_its_setting_says(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2, timeout=100)  # breaks if the second is kept out
    monkeypatch.setattr(pipeline, "_reproduce", lambda tree, stage, env: both.wait() >= 0)
    limit(2)
    run(tree, "segment", "segment")
    limit(1)  # a new setting counts when the next worker starts
    with get_client(sync_client=True) as client:
        assert [found.limit for found in client.read_global_concurrency_limits(limit=9, offset=0)] == [1]
