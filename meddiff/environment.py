"""The process: settings that must stand before heavy libraries are imported (silence and threads), and the memory it took."""

import os
import resource
import sys

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
    """Turn telemetry off and make waiting threads sleep; what the user has set already wins. Called by entry points only."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def greatest_memory(usage: resource.struct_rusage) -> float:
    """Greatest resident memory of the process, or of the one of several that had most [MB]."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes, Linux KiB
