"""The pages of Optuna's dashboard on the project's studies."""

import ipaddress
import logging
import os
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from meddiff.environment import require_extra
from meddiff.errors import MeddiffError
from meddiff.experiments.tuning.search import study_url
from meddiff.layout import Layout
from meddiff.params import Params

PASSWORD_VARIABLE = "MEDDIFF_STUDIES_PASSWORD"  # nosec B105: its name
_USER = "meddiff"
_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve_studies(layout: Layout, params: Params, port: int, host: str = "127.0.0.1") -> None:
    """Serve the pages until interrupted; they ask for `meddiff` and MEDDIFF_STUDIES_PASSWORD, if that is set.

    Raises:
        MeddiffError: the extra `tuning` isn't installed, the port is taken, or other machines could reach the pages without a
            password.
    """
    require_extra("tuning", "optuna_dashboard")
    import optuna_dashboard
    from optuna.storages import RDBStorage

    password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password and not _loopback(host):
        raise MeddiffError(f"--host {host}", "pages that other machines reach must ask for a password",
                           f"Set {PASSWORD_VARIABLE}, or leave --host out")
    logging.getLogger("optuna").setLevel(logging.ERROR)
    layout.work.mkdir(parents=True, exist_ok=True)
    pages = optuna_dashboard.wsgi(RDBStorage(study_url(layout, params)))  # of a mere URL it makes no tables, and fails without
    try:
        server = make_server(host, port, _signed_on(pages, password) if password else pages, _Server, _Quiet)
    except OSError as e:
        raise MeddiffError(f"port {port}", f"the port must be free ({e})", "Choose another by --port") from e
    with server:
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _signed_on(pages: _App, password: str) -> _App:
    expected = b"Basic " + b64encode(f"{_USER}:{password}".encode())

    def guarded(request: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        if secrets.compare_digest(request.get("HTTP_AUTHORIZATION", "").encode("latin-1"), expected):
            return pages(request, respond)
        respond("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="studies"'), ("Content-Type", "text/plain")])
        return [b"Sign on.\n"]

    return guarded
