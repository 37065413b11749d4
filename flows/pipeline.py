"""Flow `pipeline`: each DVC stage as a task, in a work tree of its own, so that runs at the same time don't meet."""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff

from flows.acceptance import tell_acceptance
from flows.artifacts import headline, show_data, show_models, show_quality, show_result, show_run
from flows.form import Setting, given
from flows.upkeep import limit_name
from meddiff.environment import quiet, stage_gpus
from meddiff.errors import ServiceError
from meddiff.layout import STAGES, Layout, replacing
from meddiff.params.file import load_params
from meddiff.services import versioning
from meddiff.warm import warm_stages

SHOW: dict[str, Callable[[Layout], None]] = {
    "prepare": show_data, "filter": show_quality, "evaluate": show_result}  # after the stage, from its files
REGISTERS = ("generate", "evaluate")
CACHED = "Cached"
RETRIES, RETRY_SECONDS = 3, 10  # the second and third time after twice and four times as long


def may_pass(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: a stage ended without a word of its own, killed, out of memory, with a full disk, or a
    service didn't answer. Bad input stays bad."""
    return isinstance(state.data, versioning.StageCrash | ServiceError)


@task(retries=RETRIES, retry_delay_seconds=exponential_backoff(RETRY_SECONDS), retry_condition_fn=may_pass, cache_policy=NO_CACHE,
      persist_result=False)
def reproduce(tree: Path, stage: str, env: dict[str, str]) -> State[bool]:
    """Run one stage, its output in the log; tried again, it goes on from its checkpoint. Its state says what it did, and its
    result whether it had to run. On a GPU it waits until Prefect's limit of that GPU lets it."""
    gpus = stage_gpus(stage, load_params(tree / "params.yaml").compute.device)
    with concurrency(limit_name(gpus[0]), raise_on_lease_renewal_failure=False) if gpus else nullcontext():
        return _reproduce(tree, stage, env)


def _reproduce(tree: Path, stage: str, env: dict[str, str]) -> State[bool]:
    done = versioning.reproduce(tree, stage, env, single=True, show=get_run_logger().info)
    if stage in done.ran:
        return Completed(data=True)
    return Completed(name=CACHED, data=False, message="Its outputs were in the cache, nothing was computed")


@flow(name="pipeline", persist_result=False)
def pipeline(
    dataset: Annotated[str, Setting("dataset")],
    path: Annotated[str, Setting("path")],
    size: Annotated[int, Setting("size")],
    n_labelled: Annotated[int, Setting("n_labelled")],
    source: Annotated[str, Setting("source")],
    samples: Annotated[int, Setting("samples")],
    guidance_scale: Annotated[float, Setting("guidance_scale")],
    arms: Annotated[tuple[str, ...], Setting("arms")],
    seeds: Annotated[tuple[int, ...], Setting("seeds")],
    steps: Annotated[int, Setting("steps")],
    device: Annotated[str, Setting("device")],
    advanced: dict[str, dict[str, Any]] = {},  # noqa: B006 - of a form, which Prefect copies
) -> State[Any]:
    """Paint synthetic pairs from few annotated cases, and measure what they gain.

    A field that isn't given has its value of the project's params.yaml.

    Args:
        advanced: all other settings, as {"section": {"name": value}}; `meddiff params` lists them.
    """
    quiet()
    project, log = Path.cwd(), get_run_logger()
    fields = {"dataset": dataset, "path": path, "size": size, "n_labelled": n_labelled, "source": source, "samples": samples,
              "guidance_scale": guidance_scale, "arms": arms, "seeds": seeds, "steps": steps, "device": device}
    name, execution = run_name(), str(flow_run.id)
    tree = Layout(versioning.work_tree(project, project / ".work/runs" / name, given(fields, advanced, project)))
    commit = os.environ.get("MEDDIFF_GIT_COMMIT") or versioning.git_commit(project)  # an image has no git
    env = {"MEDDIFF_EXECUTION": execution, "MEDDIFF_GIT_COMMIT": commit, "MEDDIFF_FLOW_RUN": str(flow_run.name)}
    recorded = False
    try:
        with warm_stages():
            for stage in STAGES:
                ran = reproduce.with_options(name=stage, task_run_name=stage)(tree.root, stage, env)
                if ran and not recorded:
                    show_run(tree, execution)
                    recorded = True
                if ran and stage in REGISTERS:
                    show_models(tree, execution)
                if stage in SHOW:
                    SHOW[stage](tree)
                if stage == "filter":
                    tell_acceptance(tree)
    except BaseException:
        log.error("The work tree stays for a look, and for a retry of this run: %s", tree.root)
        raise
    if not recorded:
        log.info("No stage had to run: every output was in the cache, and MLflow has the runs that made them")
    results = keep_results(tree, project / ".work/results" / name)
    shutil.rmtree(tree.root)
    log.info("The report is at %s", results / "evaluation/report.html")
    return Completed(message=headline(json.loads((results / "evaluation/summary.json").read_text())))


def run_name() -> str:
    """The flow run's name as a folder's name; users may choose names freely, and twice."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', str(flow_run.name)).strip('-')}-{str(flow_run.id)[:8]}"


def keep_results(tree: Layout, target: Path) -> Path:
    """Copy the reports, with `params.yaml` and `dvc.lock`: put into a project, `dvc checkout` brings all outputs back."""
    with replacing(target) as folder:
        shutil.copytree(tree.root / "reports", folder, dirs_exist_ok=True)
        for file in (tree.params, tree.root / "dvc.lock"):
            shutil.copy2(file, folder)
    return target
