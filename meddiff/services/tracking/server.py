"""Where runs are recorded: the address, the client, and what a user reads when the server doesn't answer."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from meddiff.errors import MeddiffError, ServiceError, causes
from meddiff.layout import Layout
from meddiff.params import TrackingParams
from meddiff.services.tracking.places import files_beside, settle_files
from meddiff.services.tracking.view import VIEW_TAGS, show_columns

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
# The first question decides whether the server is there: seconds, not the minutes of MLflow's own patience.
_IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_REFUSED = re.compile(r"error code 40[13]\b")
_ACCOUNT = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of an account that may do it"
_VENDORS = {"mlflow", "requests", "urllib3", "sqlalchemy"}  # whose errors mean that the server or its database failed


@dataclass(frozen=True)
class Server:
    """An MLflow tracking server or database that has answered.

    Attributes:
        uri: its address.
        client: speaks with it.
        experiment: id of the experiment that holds the runs.
    """

    uri: str
    client: "MlflowClient"
    experiment: str


def tracking_uri(layout: Layout, params: TrackingParams) -> str:
    """MLFLOW_TRACKING_URI, else the setting, else a SQLite file in `.work/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.uri or f"sqlite:///{layout.home / '.work/mlflow.db'}"


def artifact_folder(layout: Layout, uri: str) -> Path:
    """Where files of runs lie when no server keeps them: beside the SQLite file, else in `.work/`."""
    if uri.startswith("sqlite:///"):
        return files_beside(Path(uri.removeprefix("sqlite:///")))
    return files_beside(layout.home / ".work/mlflow.db")


def connect(layout: Layout, params: TrackingParams) -> Server:
    """Reach the server, and make the experiment there if it is missing.

    Raises:
        MeddiffError: nothing answers within seconds, or the experiment is deleted.
    """
    uri = tracking_uri(layout, params)
    with answering(uri), _alone(uri), impatient():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if not uri.startswith("http"):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 4  # a second; ten times, as MLflow would try, are 102 seconds
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(params.experiment)
        if experiment is None:
            place = None if uri.startswith("http") else artifact_folder(layout, uri).as_uri()
            try:
                return Server(uri, client, client.create_experiment(params.experiment, artifact_location=place,
                                                                            tags=VIEW_TAGS))
            except MlflowException:  # another process made it in between
                experiment = client.get_experiment_by_name(params.experiment)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "deleted":
            show_columns(client, experiment)
    if experiment.lifecycle_stage == "deleted":
        raise MeddiffError(f"tracking.experiment {params.experiment}", f"the experiment is deleted at {uri}",
                           "Restore it, or set another name")
    return Server(uri, client, experiment.experiment_id)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time where MLflow makes the tables of a SQLite file, which two that start together would both do; of a
    file that was moved or copied the records are put right before."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f"{file.name}.lock")):
        settle_files(file)
        yield


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into ours, and keep it silent."""
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow", "urllib3.connectionpool"):  # migrations, registrations, retries
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as e:
        *_, last = traceback.walk_tb(e.__traceback__)
        theirs = isinstance(e, ValueError) and last[0].f_globals["__name__"].partition(".")[0] in _VENDORS  # no number, no port
        if not isinstance(e, OSError) and type(e).__module__.partition(".")[0] not in _VENDORS and not theirs:
            raise
        root = next((each for each in reversed(causes(e)) if isinstance(each, OSError)), e)  # what the network said
        line = " ".join(str(root).split())
        if refused := _REFUSED.search(line):
            rule = f"the account must be known and have the right ({refused[0]})"
            raise MeddiffError(f"MLflow at {uri}", rule, _ACCOUNT) from e
        raise ServiceError(f"MLflow at {uri}", f"the tracking server must answer ({line[:160]})",
                           "Start it, or correct MLFLOW_TRACKING_URI or `tracking.uri`; empty is a local file") from e


def is_absent(error: Exception) -> bool:
    """Whether MLflow says that something isn't there, or that nothing can have this name."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Make `uri` MLflow's process-wide address within the block: models are logged and loaded by functions without a client."""
    import mlflow

    kept = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # also writes the environment variable, which would outlive the block
    try:
        yield
    finally:
        mlflow.set_tracking_uri(kept or "")
        if kept is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


@contextmanager
def impatient() -> Iterator[None]:
    """Let MLflow give up within seconds in the block, unless the environment says otherwise."""
    added = {name: value for name, value in _IMPATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def ui_command(layout: Layout, params: TrackingParams, port: int) -> list[str]:
    """The command that serves MLflow's pages on 127.0.0.1 for runs in a database; empty if a server shows them already.

    It takes the database's address from MLFLOW_BACKEND_STORE_URI, since everybody on the machine sees a command's words.
    """
    uri = tracking_uri(layout, params)
    if uri.startswith("http"):
        return []
    if uri.startswith("sqlite:///"):
        settle_files(Path(uri.removeprefix("sqlite:///")))
    return [sys.executable, "-m", "mlflow", "server", "--default-artifact-root", artifact_folder(layout, uri).as_uri(),
            "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
