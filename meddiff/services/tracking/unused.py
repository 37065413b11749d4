"""What of MLflow's files nobody needs, and which outputs its runs vouch for."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.history import versions_at
from meddiff.services.tracking.links import recorded_outs
from meddiff.services.tracking.models import KINDS_OF_MODELS
from meddiff.services.tracking.places import files_beside
from meddiff.services.tracking.runs import search_all
from meddiff.services.tracking.server import Server, answering, connect


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
    tags = {kind.name: kind.tag for kind in KINDS_OF_MODELS}
    queries += [f"tags.`{tags[each.kind]}` = '{each.id}'" for each in versions_at(server, params) if each.aliases]
    return {hash for query in queries for run in search_all(server, query) for hash in recorded_outs(run.data.tags).values()}


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


def _old_versions(server: Server, params: Params, since: float) -> Iterator[UnusedFiles]:
    folder, versions = files_beside(Path(server.uri.removeprefix("sqlite:///"))), versions_at(server, params)
    named = set[str]()  # generators that a segmenter which stays has learned from
    for kind in reversed(KINDS_OF_MODELS):
        own = [each for each in versions if each.kind == kind.name]
        for each in own:
            used = each.aliases or each is own[-1] or each.made >= since or each.id in named
            if used or not each.source.startswith("models:/"):
                named.add(each.tags.get("generator", ""))
            else:
                place = folder / "models" / each.source.removeprefix("models:/")
                yield UnusedFiles(f"versions of {each.name} without an alias", place, each.id)
