"""Registered versions that must not serve any more, since they learned from a patient who was withdrawn."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from meddiff.errors import MeddiffError
from meddiff.services.tracking.server import Server, answering, impatient

WITHDRAWN = "withdrawn"  # tag of a version, its value says why
MODEL_URI = re.compile(r"(?:models:/)?([^/@]+)[/@]([^/@]+)")


def refuse_withdrawn_version(server: Server, uri: str) -> None:
    """That a model isn't withdrawn; one that isn't there is left to who loads it.

    Raises:
        MeddiffError: it is.
    """
    from mlflow.exceptions import MlflowException

    if not (match := MODEL_URI.fullmatch(uri)):
        return
    name, which = match.groups()
    with answering(server.uri):
        try:
            version: Any = (server.client.get_model_version_by_alias(name, which) if "@" in uri
                            else server.client.get_model_version(name, which))
        except MlflowException:
            return
    _refuse(uri, version)


def refuse_withdrawn_files(folder: Path, uri: str = "") -> None:
    """That the files of a logged model, wherever they lie, aren't those of a withdrawn version, as far as MLflow can be asked.

    So also MLflow's own commands refuse, which load by `served`. Nothing is asked where no `MLmodel` lies at or above the folder
    and where MLflow's address isn't known; where it doesn't answer, one line says so.

    Args:
        uri: MLflow's address; empty for that of this process, if it has one.

    Raises:
        MeddiffError: they are.
    """
    place = next((each for each in (folder, *folder.parents) if (each / "MLmodel").is_file()), None)
    if place is None:
        return
    from mlflow import MlflowClient, get_tracking_uri
    from mlflow.tracking import is_tracking_uri_set

    model = (yaml.safe_load((place / "MLmodel").read_text(encoding="utf-8")) or {}).get("model_id")
    if not model or not (uri or is_tracking_uri_set() or (place / "registered_model_meta").is_file()):
        return
    uri = uri or get_tracking_uri()
    try:
        with answering(uri), impatient():
            versions: Any = MlflowClient(uri).search_model_versions(f"source_path = 'models:/{model}'")
    except MeddiffError as e:
        print(f"{place}: whether this model is withdrawn isn't known ({' '.join(str(e).split())})", file=sys.stderr)
        return
    for version in versions:
        _refuse(f"models:/{version.name}/{version.version}", version)


def _refuse(uri: str, version: Any) -> None:
    if WITHDRAWN in version.tags:
        raise MeddiffError(uri, f"the version must not be withdrawn, and it is ({version.tags[WITHDRAWN]})",
                           "Use another version, or run `dvc repro` for a new one")
