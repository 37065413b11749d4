"""Catalogues of both kinds, and a tracking server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cryptography.fernet import Fernet

from meddiff.params import Params
from meddiff.services import catalog
from tests.infra.platforms import answers, free_ports, until


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def params(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings whose catalogue is a new, empty database of the kind named."""
    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    if request.param == "sqlite":
        return Params()
    return Params.model_validate({"catalog": {"url": request.getfixturevalue("postgres_database")}})


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server, whose webhooks may post to loopback."""
    (port,) = free_ports(1)
    folder, address = tmp_path_factory.mktemp("mlflow"), f"http://127.0.0.1:{port}"
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
           "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
               "--artifacts-destination", str(folder / "files"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder,
                                                              start_new_session=True) as process:
        try:
            until(lambda: answers(f"{address}/health") or process.poll() is not None, 120)
            assert process.poll() is None, (folder / "log").read_text()
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
