"""What MLflow knows of runs and registered versions, for lineage, and how a version is withdrawn."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.links import recorded_outs
from meddiff.services.tracking.models import KINDS_OF_MODELS, registered_name
from meddiff.services.tracking.runs import EXECUTION, PARENT, commit_of
from meddiff.services.tracking.server import Server, answering, connect, is_absent
from meddiff.services.tracking.withdrawn import MODEL_URI, WITHDRAWN

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun


@dataclass(frozen=True)
class RunRecord:
    """A pipeline execution's run.

    Attributes:
        id, name, status: MLflow's.
        at: when it began.
        execution: that it records, empty for a run of another kind.
        commit: of the code, `-dirty` behind it when files differed.
        metrics: the newest value of each.
        settings: `section.name` -> value, as text.
        versions: NAME/VERSION of the models that it registered or used.
        outs: path -> hash of outputs, in DVC's way.
    """

    id: str
    name: str
    status: str
    at: datetime
    execution: str
    commit: str
    metrics: dict[str, float]
    settings: dict[str, str]
    versions: tuple[str, ...]
    outs: dict[str, str]


@dataclass(frozen=True)
class VersionRecord:
    """A registered version.

    Attributes:
        kind: `generator` or `segmenter`.
        name, version: in the registry.
        run: id of the run that made it.
        aliases: that name it.
        tags: its own.
        source: what it was registered from.
        made: when [seconds since 1970].
    """

    kind: str
    name: str
    version: str
    run: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    source: str
    made: float

    @property
    def id(self) -> str:
        """NAME/VERSION."""
        return f"{self.name}/{self.version}"


def read_runs(layout: Layout, params: Params, ids: Iterable[str]) -> dict[str, RunRecord]:
    """Runs by the ids that were asked for, of a stage the execution's run above it; those that there are.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server, found = connect(layout, params.tracking), dict[str, RunRecord]()
    with answering(server.uri):
        from mlflow.exceptions import MlflowException

        for id in dict.fromkeys(ids):
            try:
                run = server.client.get_run(id)
                if EXECUTION not in run.data.tags and PARENT in run.data.tags:
                    run = server.client.get_run(run.data.tags[PARENT])
            except MlflowException as e:
                if not is_absent(e):
                    raise
            else:
                found[id] = run_record(run)
    return found


def list_versions(layout: Layout, params: Params) -> list[VersionRecord]:
    """Every registered version of the project's two models, the oldest first.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    return versions_at(connect(layout, params.tracking), params)


def versions_at(server: Server, params: Params) -> list[VersionRecord]:
    """The same of a server that has answered."""
    versions = list[VersionRecord]()
    for kind in KINDS_OF_MODELS:
        name = registered_name(params, kind)
        with answering(server.uri):
            registered = server.client.search_registered_models(f"name = '{name}'")
            aliases = {alias: str(number) for each in registered for alias, number in each.aliases.items()}
            known = sorted(server.client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))
        versions += [VersionRecord(kind.name, name, str(each.version), str(each.run_id or ""),
                                   tuple(alias for alias, number in aliases.items() if number == str(each.version)),
                                   dict(each.tags), str(each.source or ""), each.creation_timestamp / 1000) for each in known]
    return versions


def find_version(versions: list[VersionRecord], uri: str) -> VersionRecord | None:
    """The version that `models:/NAME/VERSION` or `NAME@ALIAS` names, or None."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        return None
    name, which = match.groups()
    return next((each for each in versions if each.name == name
                 and which in (each.aliases if "@" in uri else (each.version,))), None)


def withdraw_version(layout: Layout, params: Params, version: VersionRecord, reason: str) -> None:
    """Take a version's aliases away and tag it, after which it is neither promoted nor loaded."""
    server = connect(layout, params.tracking)
    with answering(server.uri):
        server.client.set_model_version_tag(version.name, version.version, WITHDRAWN, reason)
        for alias in version.aliases:
            server.client.delete_registered_model_alias(version.name, alias)


def run_record(run: "MlflowRun") -> RunRecord:
    """What is read of an execution's run."""
    tags = run.data.tags
    begun = datetime.fromtimestamp((run.info.start_time or 0) / 1000, UTC)
    return RunRecord(run.info.run_id, run.info.run_name or "", run.info.status, begun, tags.get(EXECUTION, ""), commit_of(tags),
                     dict(run.data.metrics), dict(run.data.params),
                     tuple(tags[kind.tag] for kind in KINDS_OF_MODELS if kind.tag in tags), recorded_outs(tags))
