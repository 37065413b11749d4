"""Shared phantoms and settings, small enough for seconds on one core."""

from meddiff.environment import quiet

quiet()

import os  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402
from uuid import uuid4  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from meddiff.cases import Case  # noqa: E402
from meddiff.params import Params  # noqa: E402

if TYPE_CHECKING:
    from meddiff.services.storage import FolderStore, ObjectStore, S3Store

SHARED_DATA = Path(__file__).parents[2] / "shared/data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start servers first: they wait for long, and beside them the many short ones fill the other processes."""
    slow = {item.path for item in items if item.get_closest_marker("services")}
    items.sort(key=lambda item: item.path not in slow)


def make_cases(n: int, size: int = 32, seed: int = 0, lesion: bool = True) -> list[Case]:
    """Noisy gray images with one dark ellipse each and its exact mask."""
    cases = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        y, x = np.mgrid[:size, :size]
        cy, cx = rng.uniform(0.3, 0.7, 2) * size
        ry, rx = rng.uniform(0.12, 0.25, 2) * size
        mask = (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) & lesion
        gray = np.clip(150 - 80 * mask + rng.normal(0, 12, (size, size)), 0, 255).astype(np.uint8)
        cases.append(
            Case(
                f"case_{seed}_{i:03d}", np.repeat(gray[:, :, None], 3, axis=2), mask.astype(np.uint8), f"patient_{seed}_{i // 2}"
            )
        )
    return cases


@pytest.fixture
def cases() -> Callable[..., list[Case]]:
    return make_cases


@pytest.fixture(scope="session")
def tiny() -> Params:
    """Settings under which every stage ends in seconds."""
    return Params.model_validate(
        {
            "prepare": {"size": 32, "n_labelled": 8, "demo_cases": 24, "demo_normal": 8},
            "foundation": {"source": "scratch", "steps": 4, "channels": [32, 32], "batch_size": 4, "patch": 4},
            "backgrounds": {"inspector_steps": 4, "finder_steps": 4, "fill_steps": 2},
            "mask_model": {"steps": 4, "grid": 16, "batch_size": 4},
            "finetune": {"steps": 4, "batch_size": 4},
            "generate": {"n": 8, "samples_per_batch": 4, "batch_size": 4, "steps": 3},
            "filter": {
                "agreement": 0.0,
                "similarity_low": 0.0,
                "keep_copies": True,
                "min_contrast": 0.0,
            },
            "segment": {"arms": ["real", "synthetic"], "steps": 4, "batch_size": 4, "seeds": [0, 1]},
            "evaluate": {"resamples": 50, "pictures": 2},
            "compute": {"threads": 1, "device": "cpu", "precision": "float32"},
        }
    )


# ---- places for releases

@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server: MEDDIFF_TEST_S3 (any real one, with its keys in AWS_*), else moto's on a free port of loopback."""
    if real := os.environ.get("MEDDIFF_TEST_S3"):
        yield real
        return
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with the keys to it in the environment and nothing else that boto3 would heed."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MEDDIFF_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if "MEDDIFF_TEST_S3" not in os.environ:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return s3_server


@pytest.fixture
def bucket(s3: str) -> "S3Store":
    """A prefix of its own in a bucket of its own."""
    from meddiff.services.storage import S3Store

    store = S3Store(f"meddiff-{uuid4().hex[:12]}", "lab/data", s3)
    store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture
def share(tmp_path: Path) -> "FolderStore":
    from meddiff.services.storage import FolderStore

    (tmp_path / "share").mkdir()
    return FolderStore(tmp_path / "share")


@pytest.fixture(params=["share", "bucket"])
def store(request: pytest.FixtureRequest) -> "ObjectStore":
    """An empty place of each kind."""
    return request.getfixturevalue(request.param)


# ---- databases

@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A PostgreSQL cluster of its own, reachable only through a socket in the folder given; never run as root."""
    from meddiff.services.backup import find_program
    from tests.postgres import user_of_postgres

    whose = user_of_postgres()
    folder = Path(tempfile.mkdtemp(prefix="meddiff-pg-"))
    if whose:
        os.chown(folder, whose["user"], whose["group"])
    data = folder / "data"
    initdb = [find_program("initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **whose)
    control = [find_program("pg_ctl"), "-D", str(data), "-w", "-t", "60"]
    settings = f"-c listen_addresses= -c fsync=off -k {folder}"
    with (folder / "start.log").open("wb") as log:
        subprocess.run([*control, "-o", settings, "start"], check=True, stdout=log, stderr=log, cwd=folder, **whose)
    try:
        yield folder
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **whose)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_database(postgres: Path) -> Iterator[str]:
    """URL of a new, empty database in it; what libraries leave open of connections is closed after the test."""
    import psycopg
    import sqlalchemy as sa

    name, opened = f"test_{uuid4().hex}", list[psycopg.Connection]()

    def note(connection: object, _record: object) -> None:
        if isinstance(connection, psycopg.Connection):
            opened.append(connection)

    with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    sa.event.listen(sa.pool.Pool, "connect", note)
    yield f"postgresql+psycopg://postgres@/{name}?host={postgres}"
    sa.event.remove(sa.pool.Pool, "connect", note)
    for each in opened:
        each.close()
