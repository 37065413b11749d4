"""Registering the flows with a Prefect server: work pool, deployments of prefect.yaml, rules, and forms filled with params.yaml.

Run as `python -m flows.deploy` in the project; PREFECT_API_URL (and PREFECT_API_AUTH_STRING) name the server.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound

from flows.automations import ship
from flows.form import filled
from meddiff.errors import MeddiffError
from meddiff.params.file import load_params

POOL = "meddiff"
DEPLOYMENTS = ("pipeline/pipeline", "tune/tune", "ablate/ablate", "benchmark/benchmark", "promote/promote")


def register(client: SyncPrefectClient) -> None:
    """Make the work pool if it is missing (what a user has set there stays), and the deployments anew.

    Raises:
        MeddiffError: one of Prefect's commands failed.
    """
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        _prefect("work-pool", "create", POOL, "--type", "process")
    _prefect("deploy", "--all")


def fill_forms(client: SyncPrefectClient, project: Path) -> None:
    """Let the forms of the deployments start from the project's settings as they are now, and the rules be those of `platform.*`.

    Raises:
        MeddiffError: `params.yaml` breaks a rule.
    """
    params = load_params(project / "params.yaml")
    values = params.model_dump(mode="json") | filled(params)
    deployments = {name: client.read_deployment_by_name(name) for name in DEPLOYMENTS}
    for deployment in deployments.values():
        fields = deployment.parameter_openapi_schema["properties"]
        own = {field: values[field] for field in fields if field in values}  # `promote` asks a person
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=own))
    ship(client, {name: deployment.id for name, deployment in deployments.items()}, params.platform)


def _prefect(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *words], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr)
    if done.returncode:
        last = " | ".join(line.strip() for line in (done.stdout + done.stderr).strip().splitlines()[-4:])
        raise MeddiffError(f"prefect {' '.join(words)}", f"the command must succeed ({last})", "Mend what these lines name")


def main(arguments: Sequence[str]) -> int:
    """With `--forms`, only the forms and the rules. Exit code 2 and one line where something has to be mended."""
    try:
        with get_client(sync_client=True) as client:
            if "--forms" not in arguments:
                register(client)
            fill_forms(client, Path.cwd())
    except MeddiffError as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except httpx.HTTPError as e:
        line = " ".join(str(e).split())[:200]
        print(f"meddiff: Prefect must answer ({line}). Check PREFECT_API_URL and PREFECT_API_AUTH_STRING.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
