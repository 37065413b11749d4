"""The generator as a registered MLflow model: logging, loading, the evidence for a version, and its aliases."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import meddiff
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.server import Server, answering, as_default, connect

OUT = "meddiff.out."  # begins tags of a run that hold the hash of an output
VERSION = "meddiff.model_version"  # tag of a run: NAME/VERSION of the generator it made or reused
COMPLETE = "meddiff.complete"
_REQUIREMENTS = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "scipy", "scikit-image", "pandas",
                 "pillow", "pydantic", "pyyaml", "rich")


@dataclass(frozen=True)
class Evidence:
    """What is known of a registered version.

    Attributes:
        version: number in the registry.
        run: id of the newest complete pipeline execution with this version, empty when there is none.
        run_name: its name.
        metrics: its headline numbers.
        outs: path -> hash of all outputs of that execution, in DVC's way.
    """

    version: str
    run: str = ""
    run_name: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    outs: dict[str, str] = field(default_factory=dict)


def log_generator(server: Server, run: str, folder: Path, name: str, loader: str = "meddiff.served") -> str:
    """Log a folder of safetensors and JSON as an MLflow pyfunc model, and register it.

    Args:
        server: where.
        run: id of the run that made it.
        folder: what the loader reads.
        name: registered model.
        loader: module with `_load_pyfunc(data_path)`; the package travels with the model, nothing is pickled.

    Returns:
        The new version.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    with answering(server.uri), as_default(server.uri):
        import mlflow
        from mlflow import pyfunc

        # A model is filed under the active run's experiment, and MLflow prints news of its registration.
        with redirect_stderr(io.StringIO()), mlflow.start_run(run_id=run):
            info = pyfunc.log_model(name="generator", registered_model_name=name, loader_module=loader, data_path=str(folder),
                                    code_paths=[str(Path(meddiff.__file__).parent)], signature=_signature(),
                                    pip_requirements=_requirements())
        server.client.update_run(run, "RUNNING")  # the end of the block closed it
    return str(info.registered_model_version)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    requests = [ColSpec(DataType.long, "seed"), ColSpec(DataType.double, "guidance_scale", required=False),
                ColSpec(DataType.binary, "mask", required=False), ColSpec(DataType.binary, "background", required=False)]
    samples = [ColSpec(DataType.string, "id"), ColSpec(DataType.long, "seed"), ColSpec(DataType.string, "background"),
               ColSpec(DataType.string, "verdict"), ColSpec(DataType.binary, "image"), ColSpec(DataType.binary, "mask")]
    return ModelSignature(inputs=Schema(requests), outputs=Schema(samples))


def _requirements() -> list[str]:
    pinned = []
    for name in _REQUIREMENTS:
        try:
            pinned.append(f"{name}=={version(name).partition('+')[0]}")  # no build, `+cpu`, which the index doesn't serve
        except PackageNotFoundError:
            continue
    return pinned


@contextmanager
def _registered(server: Server, uri: str) -> Iterator[None]:
    """Where a registered model is read."""
    with answering(server.uri), as_default(server.uri):
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as e:
            if e.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise MeddiffError(uri, f"the model must be registered at {server.uri} ({' '.join(e.message.split())})",
                               "Use models:/NAME@champion after `meddiff promote`, or models:/NAME/VERSION") from e


def load_generator(layout: Layout, params: Params, uri: str) -> Any:
    """Load a model as MLflow's pyfunc, whose `predict` takes a table of requests (see `served.Generator.predict`).

    Args:
        layout: the project, for the default address of the tracking server.
        params: the settings, for the same.
        uri: such as `models:/NAME@champion` or `models:/NAME/3`.

    Raises:
        MeddiffError: no such model, or the tracking server doesn't answer.
    """
    server = connect(layout, params.tracking)
    with _registered(server, uri):
        from mlflow import pyfunc

        return pyfunc.load_model(uri)


def fetch_model(layout: Layout, params: Params, uri: str, folder: Path) -> Path:
    """Copy a registered model into `folder`; where what its loader reads lies there. Raises as `load_generator` does."""
    server = connect(layout, params.tracking)
    with _registered(server, uri):
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        place = Path(download_artifacts(uri, dst_path=str(folder), tracking_uri=server.uri))
        return place / str(Model.load(str(place)).flavors["python_function"]["data"])


class Registry:
    """The versions of the registered generator.

    Args:
        layout: the project, for the default address of the tracking server.
        params: the settings; `params.promote.model` is the registered name.

    Raises:
        MeddiffError: the tracking server doesn't answer; so does each method.
    """

    def __init__(self, layout: Layout, params: Params) -> None:
        self.server, self.name = connect(layout, params.tracking), params.promote.model

    def evidence(self, number: str | None = None) -> Evidence:
        """What the newest complete execution says of a version; of the newest version when `number` is None.

        An execution counts for a version when it made it or reused it unchanged: a pipeline that was interrupted after its
        generator was registered, and finished later, is evidence too.

        Raises:
            MeddiffError: nothing is registered under the name, or not this version.
        """
        client = self.server.client
        with answering(self.server.uri):
            versions = sorted(int(each.version) for each in client.search_model_versions(f"name = '{self.name}'"))
            if not versions or (number and number not in map(str, versions)):
                raise MeddiffError(f"{self.name} {number or ''}".strip(), f"the version must be registered at {self.server.uri}, "
                                   f"there are {versions or 'none'}",
                                   "Run `dvc repro`, or `dvc repro -sf generate` where DVC has all outputs already")
            chosen = number or str(versions[-1])
            query = f"tags.`{VERSION}` = '{self.name}/{chosen}' and tags.`{COMPLETE}` = 'true'"
            runs = client.search_runs([self.server.experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
        if not runs:
            return Evidence(chosen)
        run = runs[0]
        outs = {name.removeprefix(OUT): value for name, value in run.data.tags.items() if name.startswith(OUT)}
        return Evidence(chosen, run.info.run_id, run.info.run_name or "", dict(run.data.metrics), outs)

    def alias(self, alias: str) -> str | None:
        """The version that `alias` names, or None."""
        with answering(self.server.uri):
            registered = self.server.client.search_registered_models(f"name = '{self.name}'")
            number = registered[0].aliases.get(alias) if registered else None
        return None if number is None else str(number)

    def set_alias(self, alias: str, number: str | None) -> None:
        """Let `alias` name this version, or none."""
        with answering(self.server.uri):
            if number is None:
                self.server.client.delete_registered_model_alias(self.name, alias)
            else:
                self.server.client.set_registered_model_alias(self.name, alias, number)

    def annotate(self, number: str, tags: dict[str, str]) -> None:
        """Set tags on a version."""
        with answering(self.server.uri):
            for key, value in tags.items():
                self.server.client.set_model_version_tag(self.name, number, key, value)
