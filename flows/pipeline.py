"""Flow `pipeline`: each DVC stage as a task, in a work tree of its own, so that runs at the same time don't meet."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.artifacts import headline, show_quality, show_result, show_run
from flows.form import Main, given
from meddiff import params
from meddiff.environment import quiet
from meddiff.layout import STAGES, Layout, replacing
from meddiff.services import versioning
from meddiff.warm import warm_stages

SHOW = {"filter": show_quality, "evaluate": show_result}
RETRIES, RETRY_SECONDS = 2, 10
NOTHING = params.Params()  # sections in which nothing is set


def crashed(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a stage ended without a word of its own: killed, out of memory, or its disk failed. Bad input stays bad."""
    return isinstance(state.data, versioning.StageCrash)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=crashed, cache_policy=NO_CACHE, persist_result=False)
def reproduce(tree: Path, stage: str, env: dict[str, str]) -> bool:
    """Run one stage, its output in the log; tried again, it goes on from its checkpoint. Returns whether it had to run."""
    return stage in versioning.reproduce(tree, stage, env, single=True, show=get_run_logger().info).ran


@flow(name="pipeline", persist_result=False)
def pipeline(
    prepare: Annotated[params.PrepareParams, Main("prepare")] = NOTHING.prepare,
    foundation: Annotated[params.FoundationParams, Main("foundation")] = NOTHING.foundation,
    backgrounds: Annotated[params.BackgroundsParams, Main("backgrounds")] = NOTHING.backgrounds,
    mask_model: Annotated[params.MaskModelParams, Main("mask_model")] = NOTHING.mask_model,
    finetune: Annotated[params.FinetuneParams, Main("finetune")] = NOTHING.finetune,
    generate: Annotated[params.GenerateParams, Main("generate")] = NOTHING.generate,
    filter: Annotated[params.FilterParams, Main("filter")] = NOTHING.filter,
    segment: Annotated[params.SegmentParams, Main("segment")] = NOTHING.segment,
    evaluate: Annotated[params.EvaluateParams, Main("evaluate")] = NOTHING.evaluate,
    compute: Annotated[params.ComputeParams, Main("compute")] = NOTHING.compute,
    advanced: dict[str, dict[str, Any]] = {},  # noqa: B006 - of a form, which Prefect copies
) -> State[Any]:
    """Paint synthetic pairs from few annotated cases, and measure what they gain.

    A setting that isn't given has its value of the project's params.yaml.

    Args:
        advanced: further settings, as {"section": {"name": value}}; `meddiff params` lists them.
    """
    quiet()
    project, log = Path.cwd(), get_run_logger()
    sections = {"prepare": prepare, "foundation": foundation, "backgrounds": backgrounds, "mask_model": mask_model,
                "finetune": finetune, "generate": generate, "filter": filter, "segment": segment, "evaluate": evaluate,
                "compute": compute}
    name, execution = run_name(), str(flow_run.id)
    tree = Layout(versioning.work_tree(project, project / ".work/runs" / name, given(sections, advanced, project)))
    commit = os.environ.get("MEDDIFF_GIT_COMMIT") or versioning.git_commit(project)  # an image has no git
    env = {"MEDDIFF_EXECUTION": execution, "MEDDIFF_GIT_COMMIT": commit}
    recorded = False
    try:
        with warm_stages():
            for stage in STAGES:
                ran = reproduce.with_options(name=stage, task_run_name=stage)(tree.root, stage, env)
                if ran and not recorded:
                    show_run(tree, execution)
                    recorded = True
                if stage in SHOW:
                    SHOW[stage](tree)
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
