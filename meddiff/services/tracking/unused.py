"""What of MLflow's files nobody needs, and which outputs its runs vouch for."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.models import KINDS_OF_MODELS, OUT, registered_name
from meddiff.services.tracking.places import files_beside
from meddiff.services.tracking.server import Server, answering, connect

_PAGE = 1000


@dataclass(frozen=True)
class UnusedFiles:
    """Files of MLflow that can go.

    Attributes:
        why: what they are.
        path: folder.
        version: NAME/NUMBER of the registered version that goes with them, empty without one.
    """

    why: str
    path: Path
    version: str = ""


def kept_outputs(layout: Layout, params: Params, since: float) -> set[str]:
    """Hashes of the outputs of executions since a time, and of those that speak for a version with an alias.

    Args:
        since: [seconds since 1970].

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    queries = [f"attributes.start_time > {int(since * 1000)}"]
    queries += [f"tags.`{kind.tag}` = '{registered_name(params, kind)}/{number}'"
                for kind in KINDS_OF_MODELS for number in _aliased(server, registered_name(params, kind))]
    return {value for query in queries for run in _runs(server, query) for name, value in run.data.tags.items()
            if name.startswith(OUT)}


def unused_files(layout: Layout, params: Params, since: float) -> list[UnusedFiles]:
    """Versions without an alias, older and not the newest; files of deleted runs; and files that no run has.

    Empty where a server keeps the files.

    Args:
        since: what is newer is used [seconds since 1970].

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    if not server.uri.startswith("sqlite:///"):
        return []
    database = Path(server.uri.removeprefix("sqlite:///"))
    folder, made = files_beside(database), list(_old_versions(server, params, since))
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        runs = {str(id): stage for id, stage in connection.execute("SELECT run_uuid, lifecycle_stage FROM runs")}
        models = {str(row[0]) for row in connection.execute("SELECT model_id FROM logged_models")}
    for path in sorted(folder.glob("*")):
        if path.is_dir() and path.name != "models" and path.stat().st_mtime < since and runs.get(path.name) != "active":
            made.append(UnusedFiles("files of deleted runs", path))
    made += [UnusedFiles("files of deleted models", path) for path in sorted(folder.glob("models/*"))
             if path.name not in models and path.stat().st_mtime < since]
    return made


def remove_files(layout: Layout, params: Params, unused: list[UnusedFiles]) -> None:
    """Remove them, the versions from the registry first.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    for each in unused:
        if each.version:
            name, _, number = each.version.rpartition("/")
            with answering(server.uri):
                server.client.delete_model_version(name, number)
                server.client.delete_logged_model(each.path.name)
        shutil.rmtree(each.path, ignore_errors=True)


def _runs(server: Server, query: str) -> Iterator[Any]:
    token: str | None = ""
    while token is not None:
        with answering(server.uri):
            page = server.client.search_runs([server.experiment], query, max_results=_PAGE, page_token=token or None)
        yield from page
        token = page.token or None


def _aliased(server: Server, name: str) -> set[str]:
    """Numbers of the versions of a model that have an alias."""
    with answering(server.uri):
        return {str(number) for model in server.client.search_registered_models(f"name = '{name}'")
                for number in model.aliases.values()}


def _old_versions(server: Server, params: Params, since: float) -> Iterator[UnusedFiles]:
    folder = files_beside(Path(server.uri.removeprefix("sqlite:///")))
    named = set[str]()  # generators that a segmenter which stays has learned from
    for kind in reversed(KINDS_OF_MODELS):
        name = registered_name(params, kind)
        with answering(server.uri):
            versions = sorted(server.client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))
        kept = _aliased(server, name) | {str(each.version) for each in versions[-1:]}
        for each in versions:
            place = folder / "models" / str(each.source or "").removeprefix("models:/")
            old = each.creation_timestamp / 1000 < since and f"{name}/{each.version}" not in named
            if str(each.version) not in kept and old and each.source and each.source.startswith("models:/"):
                yield UnusedFiles(f"versions of {name} without an alias", place, f"{name}/{each.version}")
            else:
                named.add(each.tags.get("generator", ""))
