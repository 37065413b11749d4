"""Which earlier run made the outputs of a stage that DVC skipped, and what of it the new execution's run repeats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meddiff.layout import STAGES
from meddiff.services import versioning
from meddiff.services.tracking.models import KINDS_OF_MODELS, OUT
from meddiff.services.tracking.runs import PARENT, Run
from meddiff.services.tracking.server import Server, answering

STAGE = "meddiff.stage"
HEADLINES = "meddiff.headlines"
_SKIPPED = "skipped."
_UNKNOWN = "unknown"


def out_tags(*entries: dict[str, Any]) -> dict[str, str]:
    """Tags `meddiff.out.PATH` = the hash that DVC gives the output, for entries of `dvc.lock`."""
    return {OUT + path: md5 for entry in entries for path, md5 in versioning.entry_hashes(entry).items()}


def recorded_outs(tags: Mapping[str, str]) -> dict[str, str]:
    """Path -> hash, as `out_tags` left them in a run's tags."""
    return {name.removeprefix(OUT): value for name, value in tags.items() if name.startswith(OUT)}


def link_skipped(execution: Run, root: Path, stage: str) -> None:
    """Link each stage that `stage` builds on and that this execution didn't run to the run that made its outputs.

    When a stage starts, all that it builds on has run or was skipped, so nothing is linked too early. The numbers, data
    sets and model version of the linked run are repeated in the execution's run, so that its row of a comparison is whole.
    """
    ran = _stages_run(execution)
    known = tags_of(execution)
    lock = versioning.lock(root)
    for name in versioning.upstream(root, stage):
        if name in ran or _SKIPPED + name in known or name not in lock:
            continue
        maker = _maker(execution.server, name, out_tags(lock[name]))
        execution.tags({_SKIPPED + name: maker.info.run_id if maker else _UNKNOWN})
        if maker:
            _repeat(execution, maker)


def _stages_run(execution: Run) -> dict[str, Any]:
    """The last run of each stage of this execution."""
    with answering(execution.server.uri):
        children = execution.server.client.search_runs([execution.server.experiment], f"tags.`{PARENT}` = '{execution.id}'",
                                                   order_by=["attributes.start_time ASC"])
    return {run.data.tags[STAGE]: run for run in children if STAGE in run.data.tags}


def _maker(server: Server, stage: str, outs: dict[str, str]) -> Any:
    """The latest finished run of `stage` with exactly these outputs, or None."""
    tags = [f"tags.`{name}` = '{value}'" for name, value in ({STAGE: stage} | outs).items()]
    with answering(server.uri):
        query = " and ".join([*tags, "attributes.status = 'FINISHED'"])
        finished = server.client.search_runs([server.experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
    return finished[0] if finished else None


def _repeat(execution: Run, maker: Any) -> None:
    names = maker.data.tags.get(HEADLINES, "").split(",")
    execution.metrics({name: maker.data.metrics[name] for name in names if name in maker.data.metrics})
    execution.tags({kind.tag: maker.data.tags[kind.tag] for kind in KINDS_OF_MODELS if kind.tag in maker.data.tags})
    execution.datasets(maker.inputs.dataset_inputs)


def tags_of(run: Run) -> dict[str, str]:
    """A run's tags as they are now."""
    with answering(run.server.uri):
        tags: dict[str, str] = run.server.client.get_run(run.id).data.tags
    return tags


def registered_models(run: Run) -> dict[str, str]:
    """Kind -> NAME/VERSION of the models that an execution registered or used again."""
    known = tags_of(run)
    return {kind.name: known[kind.tag] for kind in KINDS_OF_MODELS if kind.tag in known}


def write_note(execution: Run) -> None:
    """Describe the execution on its page in MLflow: which stages ran, and which runs made the others."""
    ran, tags = _stages_run(execution), tags_of(execution)
    lines = ["| stage | in this execution |", "|---|---|"]
    for name in STAGES:
        if name in ran:
            run = ran[name]
            seconds = f", {run.data.metrics[f'seconds.{name}']:.0f} s" if f"seconds.{name}" in run.data.metrics else ""
            lines.append(f"| {name} | {_link(execution.server, run.info.run_id, run.info.status.lower())}{seconds} |")
        elif maker := tags.get(_SKIPPED + name):
            made = "an unknown run" if maker == _UNKNOWN else _link(execution.server, maker, maker[:8])
            lines.append(f"| {name} | unchanged, made by {made} |")
    execution.tags({"mlflow.note.content": "\n".join(lines)})


def _link(server: Server, run: str, text: str) -> str:
    return f"[{text}](#/experiments/{server.experiment}/runs/{run})"
