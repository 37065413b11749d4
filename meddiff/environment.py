"""Process settings that must stand before heavy libraries are imported: silence and threads. Called by entry points only."""

import os

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    # Passive waiting: with spinning OpenMP threads one busy neighbour slows a training step 30 times or more.
    "OMP_WAIT_POLICY": "PASSIVE",
    "MPLBACKEND": "Agg",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # the libraries' bars; ours is drawn by `progress`
}


def quiet() -> None:
    """Turn telemetry off and make waiting threads sleep; what the user has set already wins."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
