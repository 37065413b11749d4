"""What the catalogue, MLflow, `dvc.lock` and the project's files know together."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.outputs.sources import Source, dataset_digest, list_sources
from meddiff.params import Params
from meddiff.services.catalog import FILES, ExecutionRecord, History, MadeRecord, read_history
from meddiff.services.tracking import VersionRecord, list_versions, read_runs
from meddiff.services.versioning import git_commit, locked


@dataclass(frozen=True)
class Knowledge:
    """All of a project that lineage is read from.

    Attributes:
        history: the catalogue's, with what the files as they lie add to it, and executions that MLflow alone knows.
        versions: every registered one.
    """

    layout: Layout
    params: Params
    history: History
    versions: tuple[VersionRecord, ...]

    def sources(self, execution: ExecutionRecord) -> tuple[Source, ...]:
        """The images of an execution's dataset, none where nobody knows them."""
        return self.history.cases.get(execution.dataset, ())

    def generators(self, executions: Iterable[ExecutionRecord]) -> set[str]:
        """Hashes of the generators whose samples the executions wrote down."""
        ids = {execution.id for execution in executions}
        return {made.generator for made in self.history.made if made.execution in ids}

    def makers(self, generators: Iterable[str]) -> list[ExecutionRecord]:
        """The executions that wrote down samples of these generators."""
        ids = {made.execution for made in self.history.made if made.generator in set(generators)}
        return [execution for execution in self.history.executions if execution.id in ids]

    def users(self, version: str) -> list[ExecutionRecord]:
        """The executions that registered or used a version, given as NAME/VERSION."""
        return [execution for execution in self.history.executions if version in (execution.generator, execution.segmenter)]


def gather_knowledge(layout: Layout, params: Params) -> Knowledge:
    """Ask all services, and look at the files.

    Raises:
        MeddiffError: a service doesn't answer, or a table of the files is wrong.
    """
    history, versions = read_history(layout, params), tuple(list_versions(layout, params))
    cases, executions, made = dict(history.cases), list(history.executions), list(history.made)
    sources = list_sources(layout)
    if dataset := dataset_digest(sources):
        cases.setdefault(dataset, tuple(sources))
        present = _present(layout)
        for execution in _only_in_mlflow(layout, params, versions, {each.run for each in executions}, dataset):
            executions.append(execution)
            made += [MadeRecord(execution.id, *counts) for counts in present]
        for counts in present:
            if not any(each.generator == counts[0] for each in made):
                made.append(MadeRecord(FILES, *counts))
        needed = any(each.execution == FILES for each in made) or not any(each.dataset == dataset for each in executions)
        if needed and not any(each.id == FILES for each in executions):
            executions.append(ExecutionRecord(FILES, "", git_commit(layout.root), "", "", dataset, datetime.now(UTC)))
    files = [each.generator for each in made if each.execution == FILES]
    others = {each.generator for each in made if each.execution != FILES}
    for each in [each for each in executions if each.id == FILES]:
        if set(files) <= others and any(other.dataset == each.dataset for other in executions if other.id != FILES):
            executions.remove(each)  # a rebuild read what executions wrote
            made = [row for row in made if row.execution != FILES]
    return Knowledge(layout, params, History(tuple(executions), cases, tuple(made), history.deliveries), versions)


def _present(layout: Layout) -> list[tuple[str, int, int]]:
    """Generator of the samples that lie in the project, and how many were made and accepted."""
    if not any(layout.synthetic.glob("*/batch.parquet")):
        return []
    records = read_records(layout.synthetic, layout.filtered)
    accepted = set(records.decisions.loc[records.decisions["verdict"] == "accepted", "id"])
    return [(str(generator), len(rows), int(rows["id"].isin(accepted).sum()))
            for generator, rows in records.samples.groupby("generator")]


def _only_in_mlflow(layout: Layout, params: Params, versions: Iterable[VersionRecord], known: set[str],
                    dataset: str) -> list[ExecutionRecord]:
    """Executions that registered a version and aren't in the catalogue, of the dataset that lies in the project."""
    lock, found = locked(layout.root), dict[str, ExecutionRecord]()
    here = {path: hash for stage in ("prepare", "generate") for path, hash in lock.get(stage, {}).items()}
    for run in read_runs(layout, params, (version.run for version in versions if version.run)).values():
        if run.id in known | set(found) or not here or not here.items() <= run.outs.items():
            continue
        models = {kind: next((id for id in run.versions if id.rpartition("/")[0] == name), "") for kind, name in
                  (("generator", params.promote.model), ("segmenter", params.promote.segmenter))}
        found[run.id] = ExecutionRecord(run.execution or run.id, run.id, run.commit, models["generator"], models["segmenter"],
                                        dataset, run.at)
    return list(found.values())
