"""What a worker puts in order before it takes work: runs of killed processes end in MLflow, each GPU has its limit in Prefect.

Run as `python -m flows.upkeep` in the project; `infra/worker.py` does it at each start.
"""

import sys
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from meddiff.environment import gpu_names, quiet
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import ComputeParams
from meddiff.params.file import load_params
from meddiff.services import tracking


def end_lost_runs(client: SyncPrefectClient, project: Path) -> tuple[tracking.LostRun, ...]:
    """End the runs in MLflow whose process is gone, or whose flow run has ended, on whatever machine.

    Raises:
        MeddiffError: MLflow doesn't answer, or `params.yaml` breaks a rule.
    """

    def over(execution: str) -> bool:
        try:
            state = client.read_flow_run(UUID(execution)).state
        except (ValueError, ObjectNotFound, PrefectHTTPStatusError, httpx.HTTPError):  # no flow run's, or nothing is known of it
            return False
        return bool(state and state.is_final())

    layout = Layout(project)
    return tracking.end_lost(layout, load_params(layout.params), over)


def limit_name(gpu: str) -> str:
    """Of a GPU's concurrency limit in Prefect, the same for all workers that see it, in whatever container."""
    return f"meddiff-gpu-{gpu}"


def limit_gpus(client: SyncPrefectClient, compute: ComputeParams) -> None:
    """Make a concurrency limit for each GPU of this machine, or bring it to `compute.gpu_runs`; CPU runs have none."""
    for name in gpu_names(compute.device):
        client.upsert_global_concurrency_limit_by_name(limit_name(name), compute.gpu_runs)


def main() -> int:
    """Exit code 0 whatever happens: a worker must start where MLflow doesn't answer yet."""
    quiet()
    try:
        with get_client(sync_client=True) as client:
            limit_gpus(client, load_params(Layout(Path.cwd()).params).compute)
            for run in end_lost_runs(client, Path.cwd()):
                print(f"MLflow: {run.name} is ended, its process was killed ({run.process})", flush=True)
    except (MeddiffError, PrefectHTTPStatusError, httpx.HTTPError) as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
