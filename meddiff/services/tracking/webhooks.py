"""Webhooks of an MLflow server: a change of an alias, such as a new champion, is posted to whoever serves the model.

MLflow posts every change of every registered model's aliases, since it filters by neither model nor alias: the receiver looks at
`name` and `alias`. Each post is signed with the secret (HMAC-SHA256 of `id.timestamp.body`).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from meddiff.errors import MeddiffError, redacted
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking.server import Server, answering, connect, is_absent

SECRET_VARIABLE = "MEDDIFF_WEBHOOK_SECRET"  # nosec B105: where the secret stands
_EVENTS = ("model_version_alias.created", "model_version_alias.deleted")
_LEAST_SECRET = 16  # characters
_NAME = "meddiff-"  # begins the names of ours


@dataclass(frozen=True)
class Hook:
    """A webhook of ours: the server's id of it, its receiver with passwords hidden, and whether it is active."""

    id: str
    url: str
    active: bool


def add_webhook(layout: Layout, params: Params, url: str, secret: str) -> Hook:
    """Let the server post alias changes to `url`, signed; a webhook to this receiver that is there gets both anew.

    Raises:
        MeddiffError: there is no server, it refuses the URL, or the secret is short.
    """
    if len(secret) < _LEAST_SECRET:
        raise MeddiffError(SECRET_VARIABLE, f"it must hold a secret of {_LEAST_SECRET} characters or more, by which the receiver "
                           "knows that a post is the server's", "Set it, the same at the receiver: openssl rand -hex 32")
    parts = urlsplit(url)  # a name has at most 62 letters, digits, dots and dashes
    name = _NAME + hashlib.sha256(f"{parts.hostname}:{parts.port}{parts.path}".encode()).hexdigest()[:16]
    with _asking(layout, params, url) as server:
        known = next((hook for hook in server.client.list_webhooks() if hook.name == name), None)
        if known:
            made = server.client.update_webhook(known.webhook_id, url=url, secret=secret, events=list(_EVENTS), status="ACTIVE")
        else:
            made = server.client.create_webhook(name, url, list(_EVENTS), "alias changes, made by meddiff", secret)
    return Hook(str(made.webhook_id), redacted(made.url), True)


def list_webhooks(layout: Layout, params: Params) -> list[Hook]:
    """Those that `add_webhook` made. Raises a MeddiffError where there is no server."""
    with _asking(layout, params) as server:
        return [Hook(str(hook.webhook_id), redacted(hook.url), hook.status.is_active()) for hook in server.client.list_webhooks()
                if hook.name.startswith(_NAME)]


def try_webhook(layout: Layout, params: Params, id: str) -> str:
    """Let the server post an example, and say what the receiver answered.

    Raises:
        MeddiffError: it didn't take it.
    """
    with _asking(layout, params, id) as server:
        answer = server.client.test_webhook(id)
    if not answer.success:
        raise MeddiffError(f"webhook {id}", f"the receiver must take the post ({answer.error_message or answer.response_status})",
                           "Start it, and let it answer with a status below 400")
    return f"status {answer.response_status}"


def remove_webhook(layout: Layout, params: Params, id: str) -> None:
    """Raises a MeddiffError where there is none with this id."""
    with _asking(layout, params, id) as server:
        server.client.delete_webhook(id)


@contextmanager
def _asking(layout: Layout, params: Params, where: str = "webhook") -> Iterator[Server]:
    server = connect(layout, params.tracking)
    if not server.uri.startswith("http"):
        raise MeddiffError(server.uri, "webhooks are sent by an MLflow server, and here runs go into a database without one",
                           "Start one (infra/README.md), and name it by MLFLOW_TRACKING_URI")
    with answering(server.uri):
        from mlflow.exceptions import MlflowException

        try:
            yield server
        except MlflowException as e:
            if not is_absent(e):
                raise
            raise MeddiffError(where, f"the server must take it ({' '.join(str(e).split())[:200]})",
                               "Use https and a public address, or set MLFLOW_WEBHOOK_ALLOWED_SCHEMES and "
                               "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS at the server; `meddiff webhook list` has the ids") from e
