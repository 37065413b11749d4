"""The team's platform as files: services, secrets, image, databases. Nothing is started but an S3 server in memory."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from flows import deploy
from meddiff.environment import QUIET

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"buckets", "accounts", "deploy"}  # end when they have done their work
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH|_URL$|_URI$")


def settings() -> dict[str, str]:
    """Variables of `.env.example`, which holds no values."""
    lines = (INFRA / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_secret_must_be_set_by_the_user() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (INFRA / "compose.yaml").read_text()))
    assert required == set(settings())
    assert not any(settings().values())
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) and not re.fullmatch(r"https?://\w+:\d+(/api)?|meddiff-\w+|/etc/\w+\.ini", value):
                assert "${" in value, f"{name}.{variable} has a value of its own"
    assert "/infra/.env" in (ROOT / ".gitignore").read_text().split()
    ignored = set((INFRA / "Dockerfile.dockerignore").read_text().split())
    assert {"infra/.env", *(out.split("/")[0] for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
                            for out in (next(iter(o)) if isinstance(o, dict) else o for o in stage["outs"]))} <= ignored


def test_services_have_an_image_a_health_check_and_dependencies_that_can_be_met() -> None:
    for name, service in SERVICES.items():
        assert service["image"]
        assert ("healthcheck" in service) != (name in ONCE), name
        assert service["restart"] == ("on-failure" if name in ONCE else "unless-stopped"), name
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how == {"condition": expected}, (name, other)


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_are_declared_or_files_that_exist() -> None:
    for name, service in SERVICES.items():
        for source in (volume.split(":/")[0] for volume in service.get("volumes", [])):
            known = source in COMPOSE["volumes"] or (INFRA / source).is_file() or source.startswith("${DATA_FOLDER:?")
            assert known, (name, source)


def started_before(name: str) -> set[str]:
    above = set(SERVICES[name].get("depends_on", {}))
    return above.union(*(started_before(other) for other in above))


def test_each_service_reaches_the_others_by_their_names_and_ports() -> None:
    listening = {"postgres": 5432, "storage": 8333, "mlflow": 5000, "prefect": 4200}
    found = set()
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            for host, port in re.findall(r"(?:@|https?://)(\w+):(\d+)", value):
                assert listening[host] == int(port), (name, variable)
                assert host in started_before(name), f"{name} starts without {host}"
                found.add(host)
    assert found == set(listening)


def test_databases_and_owners_are_those_of_the_urls() -> None:
    drivers = {"prefect": "postgresql+asyncpg"} | dict.fromkeys(("mlflow", "optuna", "meddiff"), "postgresql+psycopg")
    values = [value for service in SERVICES.values() for value in service.get("environment", {}).values()]
    urls = {value for value in values if value.startswith("postgresql")}
    assert len(urls) == len(drivers)
    script = (INFRA / "databases.sql").read_text()
    for url in urls:
        parts = urlsplit(re.sub(r"\$\{(\w+)[^}]*\}", r"\1", url))
        assert parts.path == f"/{parts.username}"
        assert parts.scheme == drivers[str(parts.username)]
        assert parts.password == f"{str(parts.username).upper()}_DB_PASSWORD"
        assert f"\\getenv {parts.username} {parts.password}\n" in script
        assert f"ALTER ROLE {parts.username} PASSWORD :'{parts.username}';" in script
        assert str(parts.password) in SERVICES["postgres"]["environment"]
    names = re.findall(r"unnest\(ARRAY\[(.*?)\]\)", script)
    assert names == [", ".join(f"'{name}'" for name in drivers)] * 2  # as test_team runs it


def test_nothing_runs_as_root_with_more_rights_or_as_whatever_a_tag_means_tomorrow() -> None:
    for name, service in SERVICES.items():
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "build" in service or re.search(r":\d[\w.]*@sha256:[0-9a-f]{64}$", service["image"]), name
    base = re.findall(r"^FROM (.*)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert len(base) == 1
    assert re.search(r":\d[\w.-]*@sha256:[0-9a-f]{64}$", base[0])
    assert f"--uid {SERVICES['worker']['user'].split(':')[0]} " in (INFRA / "Dockerfile").read_text()


def test_a_key_to_the_store_opens_what_its_service_needs() -> None:
    keys = {name: service.get("environment", {}).get("AWS_ACCESS_KEY_ID") for name, service in SERVICES.items()}
    assert {name: key for name, key in keys.items() if key} == {
        "buckets": "meddiff-admin", "mlflow": "meddiff-mlflow", "worker": "meddiff-worker"}
    for name, key in keys.items():
        secret = str(SERVICES[name].get("environment", {}).get("AWS_SECRET_ACCESS_KEY", ""))
        assert re.findall(r"S3_\w+_KEY", secret)[:1] == ([f"S3_{key.removeprefix('meddiff-').upper()}_KEY"] if key else [])


def test_work_trees_can_link_into_the_cache() -> None:
    """Links can't leave a volume: cache and work trees lie in the same one."""
    assert [volume for volume in SERVICES["worker"]["volumes"] if not volume.startswith("${")] == ["work:/project/.work"]
    assert "dvc config --local cache.dir ../.work/cache" in (INFRA / "Dockerfile").read_text()


def test_image_is_quiet_and_not_root_and_copies_what_exists() -> None:
    text = (INFRA / "Dockerfile").read_text()
    lines = text.splitlines()
    for name, value in QUIET.items():
        assert f"{name}={value}" in text, name
    assert [line for line in lines if line.startswith("USER")] == ["USER meddiff"]
    assert lines.index("USER meddiff") < lines.index("COPY --chown=meddiff . .")
    for name in next(line for line in lines if line.startswith("COPY pyproject")).split()[1:-1]:
        assert (ROOT / name).is_file(), name
    build = SERVICES["worker"]["build"]
    assert set(re.findall(r"^ARG (\w+)=$", text, re.MULTILINE)) == set(build["args"])
    assert (INFRA / build["context"] / build["dockerfile"]).samefile(INFRA / "Dockerfile")


def test_commands_name_programs_and_files_that_exist() -> None:
    for name in ("buckets", "accounts", "worker"):
        program, script, *_ = SERVICES[name]["command"]
        assert program == "python"
        assert (ROOT / script).is_file()
    assert SERVICES["deploy"]["command"] == ["python", "-m", "flows.deploy"]
    assert f"--pool {deploy.POOL} --type process" in " ".join(SERVICES["worker"]["command"])


def test_compose_itself_accepts_the_files(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose here")
    env = os.environ | dict.fromkeys(settings(), "x") | {"DATA_FOLDER": str(tmp_path)}
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        words = [docker, "compose", *(word for file in files for word in ("-f", str(INFRA / file))), "config", "--quiet"]
        assert subprocess.run(words, env=env, capture_output=True, text=True, check=False).stderr == ""
        for variable in settings():
            without = {name: value for name, value in env.items() if name != variable}
            done = subprocess.run(words, env=without, capture_output=True, text=True, check=False)
            assert done.returncode
            assert variable in done.stderr


@pytest.fixture
def s3() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_buckets_are_made_once(s3: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    words, env = [sys.executable, *SERVICES["buckets"]["command"][1:]], os.environ | keys | {"AWS_ENDPOINT_URL": s3}
    outputs = [subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert outputs == ["mlflow: made\ndvc: made\nreleases: made\n",
                       "mlflow: there already\ndvc: there already\nreleases: there already\n"]
