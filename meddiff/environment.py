"""The process: settings that must stand before heavy libraries are imported (silence and threads), its machine and its memory."""

import importlib.util
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from meddiff.params import Params

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


@contextmanager
def leave_out(*packages: str) -> Iterator[None]:
    """Let imports in the block find none of these packages but those that are loaded; for libraries that can do without."""
    unloaded = [name for name in packages if name not in sys.modules]
    modules = cast(dict[str, ModuleType | None], sys.modules)
    modules.update(dict.fromkeys(unloaded))
    try:
        yield
    finally:
        for name in unloaded:
            del modules[name]


def require_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without packages that only some users need.

    Raises:
        MeddiffError: one isn't installed; names the extra that brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MeddiffError(module, f"this needs the package {module}", f"Install it with: pip install 'meddiff[{extra}]'")


def interpreter_first() -> dict[str, str]:
    """A PATH on which `python`, as DVC's stages call it, is this interpreter, whatever environment is active."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def has_bfloat16(device: str) -> bool:
    """Whether torch's device, `cpu` or `cuda`, computes in bfloat16 in hardware; where that is emulated, float32 is faster."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


def greatest_memory(usage: resource.struct_rusage) -> float:
    """Greatest resident memory of the process, or of the one of several that had most [MB]."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes, Linux KiB


def use_machine(params: "Params") -> "Params":
    """Set torch's thread count; the settings with `auto` resolved, `device` to `cpu` or `cuda` and `precision` for that device.

    Raises:
        MeddiffError: `cuda` is asked for and there is none.
    """
    import torch

    from meddiff.params.overrides import merged

    compute = params.compute
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise MeddiffError(
            "compute.device", "`cuda` needs a GPU that torch can use", "Install with `make install CUDA=1`, or set `auto`"
        )
    device = "cuda" if compute.device != "cpu" and torch.cuda.is_available() else "cpu"
    fastest = "bfloat16" if has_bfloat16(device) else "float32"
    precision = fastest if compute.precision == "auto" else compute.precision
    return type(params).model_validate(merged(params, {"compute": {"device": device, "precision": precision}}))
