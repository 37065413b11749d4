"""What is known of a registered version: the executions that evaluated it, and how often its test cases have been looked at."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from meddiff.cases import sha256
from meddiff.services.tracking.history import run_record
from meddiff.services.tracking.models import COMPLETE, LOOK, Registry
from meddiff.services.tracking.runs import search_all
from meddiff.services.tracking.server import Server, answering

_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Evidence:
    """What one complete pipeline execution says of a registered version.

    Attributes:
        version: number in the registry.
        run: id of the execution's run, empty when none has evaluated the version.
        run_name: its name.
        metrics: its headline numbers.
        outs: path -> hash of all outputs of that execution, in DVC's way.
        settings: `section.name` -> value as text, of the same.
        test: digest of its test cases, empty where it wasn't recorded.
    """

    version: str
    run: str = ""
    run_name: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    outs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    test: str = ""


def list_evidence(registry: Registry, number: str) -> list[Evidence]:
    """All complete executions with a version, the newest first.

    An execution counts for a version when it made it or reused it unchanged: a pipeline that was interrupted after a
    generator was registered, and finished later, is evidence too.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    runs = search_all(registry.server, f"{_of(registry, number)} and tags.`{COMPLETE}` = 'true'")
    return [Evidence(number, known.id, known.name, known.metrics, known.outs, known.settings, run.data.tags.get(LOOK, ""))
            for run in runs for known in [run_record(run)]]


def hash_summary(registry: Registry, run: str) -> str:
    """SHA-256 of the `summary.json` that an execution kept; empty where it isn't there."""
    client = registry.server.client
    with answering(registry.server.uri), TemporaryDirectory(prefix="meddiff-") as folder:
        if _SUMMARY not in {each.path for each in client.list_artifacts(run)}:
            return ""
        return sha256(Path(client.download_artifacts(run, _SUMMARY, folder)))


def count_looks(server: Server, test: str, registry: Registry | None = None, number: str = "") -> int:
    """How many executions have evaluated on the test cases with this digest; with a registry, only those of its version."""
    query = f"tags.`{LOOK}` = '{test}'" + (f" and {_of(registry, number)}" if registry else "")
    return sum(1 for _ in search_all(server, query))


def _of(registry: Registry, number: str) -> str:
    return f"tags.`{registry.kind.tag}` = '{registry.name}/{number}'"
