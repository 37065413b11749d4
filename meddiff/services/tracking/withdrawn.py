"""Registered versions that must not serve any more, since they learned from a patient who was withdrawn."""

import re
from typing import Any

from meddiff.errors import MeddiffError
from meddiff.services.tracking.server import Server, answering

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
    if WITHDRAWN in version.tags:
        raise MeddiffError(uri, f"the version must not be withdrawn, and it is ({version.tags[WITHDRAWN]})",
                           "Use another version, or run `dvc repro` for a new one")
