"""Secrets are planted in every place that takes one, and looked for in all that a project writes and says."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from meddiff.params import Params
from tests.infra.platforms import clean_environment, copy_project

MARK = uuid4().hex  # in each secret, and nowhere else
HOOK = ("meddiff", "webhook", "add", f"https://hooks.example.org/services/{MARK}-hook")
FAILING = [("meddiff", "doctor"), ("meddiff", "tune"), ("flows.deploy",), ("meddiff", "release", "publish", "v1", "s3://releases"),
           ("dvc", "push"), HOOK]


@pytest.fixture
def closed() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(tiny: Params, address: str) -> dict[str, Any]:
    given = json.loads(tiny.model_dump_json())
    given["catalog"]["url"] = f"postgresql+psycopg://u:{MARK}-catalogue@{address}/x"
    given["tune"]["storage"] = f"postgresql+psycopg://u:{MARK}-studies@{address}/x"
    return given  # type: ignore[no-any-return]


def secrets_of(address: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": f"{MARK}-id", "AWS_SECRET_ACCESS_KEY": f"{MARK}-key", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": f"http://u:{MARK}-endpoint@{address}", "AWS_MAX_ATTEMPTS": "1",
            "PREFECT_API_URL": f"http://u:{MARK}-prefect@{address}/api", "PREFECT_API_AUTH_STRING": f"meddiff:{MARK}-sign-on",
            "PREFECT_CLIENT_MAX_RETRIES": "0", "MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": f"{MARK}-runs",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MEDDIFF_WEBHOOK_SECRET": f"{MARK}-webhook-secret",
            "MEDDIFF_NOTIFY_URL": f"https://hooks.example.org/services/{MARK}-notify"}


def test_no_planted_secret_is_written_or_said(tmp_path: Path, tiny: Params, closed: int) -> None:
    project, address, said = copy_project(tmp_path / "project"), f"127.0.0.1:{closed}", list[str]()
    (project / "params.yaml").write_text(yaml.safe_dump(settings(tiny, address)))
    base = clean_environment(project) | secrets_of(address)

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([sys.executable, "-m", *words], cwd=project, env=base | more, capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL)
        said.append(done.stdout + done.stderr)
        return done

    for words in (("add", "--local", "--default", "team", "s3://dvc"),
                  ("modify", "--local", "team", "secret_access_key", f"{MARK}-remote"),
                  ("modify", "--local", "team", "endpointurl", f"http://{address}")):
        assert run("dvc", "remote", *words).returncode == 0
    assert run("meddiff", "repro", "prepare").returncode == 0, said[-1]
    served = f"http://u:{MARK}-server@{address}"
    assert run("meddiff", "prepare", MLFLOW_TRACKING_URI=served).returncode != 0, said[-1]
    for words in FAILING:
        assert run(*words, **({"MLFLOW_TRACKING_URI": served} if words == HOOK else {})).returncode != 0, said[-1]
    assert not [text for text in said if MARK in text]
    own = {project / "params.yaml", project / ".dvc/config.local"}
    files = [path for path in project.rglob("*") if path.is_file() and path not in own]
    assert {".work/mlflow.db", "dvc.lock"} <= {str(path.relative_to(project)) for path in files}
    assert not [path for path in files if MARK.encode() in path.read_bytes()]
