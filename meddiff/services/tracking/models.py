"""Generators and segmenters as registered MLflow models: logging, loading, and their aliases."""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

import meddiff
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.server import Server, answering, as_default, connect, is_absent
from meddiff.services.tracking.withdrawn import refuse_withdrawn_files, refuse_withdrawn_version

OUT = "meddiff.out."  # begins tags of a run that hold the hash of an output
COMPLETE = "meddiff.complete"
LOOK = "meddiff.test"  # digest of the test cases that an execution evaluated on
_REQUIREMENTS = ("torch", "safetensors", "numpy", "scipy", "scikit-image", "pandas", "pillow", "pydantic", "pyyaml", "rich",
                 "psutil", "filelock")
_Columns = tuple[tuple[str, str, bool], ...]  # name, MLflow's type, whether it is required


@dataclass(frozen=True)
class ModelKind:
    """A kind of registered model.

    Attributes:
        name: of what is logged.
        setting: of `promote.*`, the registered name.
        stage: that registers it.
        tag: of a run, NAME/VERSION of what it made or reused.
        loader: module with `_load_pyfunc(data_path)`; the package travels with the model, nothing is pickled.
        requires: packages beside those that all need.
        inputs, outputs: columns of the tables that its `predict` takes and gives.
    """

    name: str
    setting: str
    stage: str
    tag: str
    loader: str
    requires: tuple[str, ...]
    inputs: _Columns
    outputs: _Columns


GENERATOR = ModelKind(
    "generator", "model", "generate", "meddiff.model_version", "meddiff.served", ("diffusers", "transformers", "peft"),
    (("seed", "long", True), ("guidance_scale", "double", False), ("mask", "binary", False), ("background", "binary", False)),
    (("id", "string", True), ("seed", "long", True), ("background", "string", True), ("verdict", "string", True),
     ("image", "binary", True), ("mask", "binary", True)))
SEGMENTER = ModelKind(
    "segmenter", "segmenter", "evaluate", "meddiff.segmenter_version", "meddiff.served_segmenter", ("monai", "einops"),
    (("image", "binary", True),),
    (("mask", "binary", True), ("probability", "double", True), ("area_px", "long", True), ("share", "double", True),
     ("uncertainty", "double", True)))
KINDS_OF_MODELS = (GENERATOR, SEGMENTER)


def log_model(server: Server, run: str, folder: Path, name: str, kind: ModelKind, example: pd.DataFrame | None = None,
              tags: Mapping[str, str] | None = None) -> str:
    """Log a folder of safetensors and JSON as an MLflow pyfunc model, and register it.

    Args:
        server: where.
        run: id of the run that made it.
        folder: what the loader reads; a `README.md` in it becomes the version's description.
        name: registered model.
        kind: of the model.
        example: of its input.
        tags: of the version.

    Returns:
        The new version.

    Raises:
        MeddiffError: the tracking server doesn't answer.
    """
    with answering(server.uri), as_default(server.uri):
        import mlflow
        from mlflow import pyfunc

        # A model is filed under the active run's experiment, and MLflow prints news of its registration. It tries the example on
        # the model, whose own code it leaves in the path.
        known = sys.path
        with redirect_stderr(io.StringIO()), mlflow.start_run(run_id=run):
            info = pyfunc.log_model(name=kind.name, registered_model_name=name, loader_module=kind.loader, data_path=str(folder),
                                    code_paths=[str(Path(meddiff.__file__).parent)], signature=_signature(kind),
                                    input_example=example, pip_requirements=_requirements(kind))
        sys.path = known
        server.client.update_run(run, "RUNNING")  # the end of the block closed it
        version, card = str(info.registered_model_version), folder / "README.md"
        if card.is_file():
            server.client.update_model_version(name, version, card.read_text(encoding="utf-8")[:5000])
        for key, value in (tags or {}).items():
            server.client.set_model_version_tag(name, version, key, value)
    return version


def _signature(kind: ModelKind) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def schema(columns: _Columns) -> Any:
        return Schema([ColSpec(DataType[type_], name, required=required) for name, type_, required in columns])

    return ModelSignature(inputs=schema(kind.inputs), outputs=schema(kind.outputs))


def _requirements(kind: ModelKind) -> list[str]:
    pinned = []
    for name in (*_REQUIREMENTS, *kind.requires):
        try:
            pinned.append(f"{name}=={installed(name).partition('+')[0]}")  # no build, `+cpu`, which the index doesn't serve
        except PackageNotFoundError:
            continue
    return pinned


@contextmanager
def _registered(server: Server, uri: str) -> Iterator[None]:
    """Where a registered model is read, unless it is withdrawn."""
    refuse_withdrawn_version(server, uri)
    with answering(server.uri), as_default(server.uri):
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as e:
            if not is_absent(e):
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


def registered_name(params: Params, kind: ModelKind) -> str:
    """Under which models of a kind are registered."""
    return str(getattr(params.promote, kind.setting))


def fetch_model(layout: Layout, params: Params, uri: str, folder: Path) -> Path:
    """Copy a registered model into `folder`; where what its loader reads lies there. Raises as `load_generator` does."""
    server = connect(layout, params.tracking)
    with _registered(server, uri):
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        place = Path(download_artifacts(uri, dst_path=str(folder), tracking_uri=server.uri))
        refuse_withdrawn_files(place, server.uri)  # by whatever name it was asked for
        return place / str(Model.load(str(place)).flavors["python_function"]["data"])


class Registry:
    """The versions of a registered model.

    Args:
        layout: the project, for the default address of the tracking server.
        params: the settings; `params.promote` has the registered names.
        kind: of the model.

    Raises:
        MeddiffError: the tracking server doesn't answer; so does each method.
    """

    def __init__(self, layout: Layout, params: Params, kind: ModelKind = GENERATOR) -> None:
        self.server, self.name, self.kind = connect(layout, params.tracking), registered_name(params, kind), kind

    def number(self, number: str | None = None) -> str:
        """This version, the newest when `number` is None.

        Raises:
            MeddiffError: nothing is registered under the name, or not this version.
        """
        with answering(self.server.uri):
            versions = sorted(int(each.version) for each in self.server.client.search_model_versions(f"name = '{self.name}'"))
        if not versions or (number and number not in map(str, versions)):
            raise MeddiffError(f"{self.name} {number or ''}".strip(), f"the version must be registered at {self.server.uri}, "
                               f"there are {versions or 'none'}",
                               f"Run `dvc repro`, or `dvc repro -sf {self.kind.stage}` where DVC has all outputs already")
        return number or str(versions[-1])

    def refuse_withdrawn(self, number: str) -> None:
        """That a version isn't withdrawn; raises a MeddiffError if it is."""
        refuse_withdrawn_version(self.server, f"models:/{self.name}/{number}")

    def alias(self, alias: str) -> str | None:
        """The version that `alias` names, or None."""
        with answering(self.server.uri):
            registered = self.server.client.search_registered_models(f"name = '{self.name}'")
            number = registered[0].aliases.get(alias) if registered else None
        return None if number is None else str(number)

    def tags(self, number: str) -> dict[str, str]:
        """The tags of a version."""
        with answering(self.server.uri):
            return dict(self.server.client.get_model_version(self.name, number).tags)

    def table(self, number: str, file: str) -> pd.DataFrame | None:
        """A CSV file of the run that made a version, None where it isn't there (any more)."""
        with answering(self.server.uri), TemporaryDirectory(prefix="meddiff-") as folder:
            client, run = self.server.client, self.server.client.get_model_version(self.name, number).run_id
            if not run or file not in {each.path for each in client.list_artifacts(run)}:
                return None
            return pd.read_csv(client.download_artifacts(run, file, folder), dtype={"case": str, "group": str},
                               keep_default_na=False, na_values=[""])

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
