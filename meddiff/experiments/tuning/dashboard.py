"""The pages of Optuna's dashboard on the project's studies."""

import logging

from meddiff.environment import require_extra
from meddiff.errors import MeddiffError
from meddiff.experiments.tuning.search import study_url
from meddiff.layout import Layout
from meddiff.params import Params


def serve_studies(layout: Layout, params: Params, port: int) -> None:
    """Serve the pages on 127.0.0.1 until interrupted: they have no passwords, so no other machine reaches them.

    Raises:
        MeddiffError: the extra `tuning` isn't installed, or the port is taken.
    """
    require_extra("tuning", "optuna_dashboard")
    from optuna_dashboard import run_server

    logging.getLogger("optuna").setLevel(logging.ERROR)
    layout.work.mkdir(parents=True, exist_ok=True)
    try:
        run_server(study_url(layout, params), host="127.0.0.1", port=port)
    except OSError as e:
        raise MeddiffError(f"port {port}", f"the port must be free ({e})", "Choose another by --port") from e
