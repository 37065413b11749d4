"""The process: settings that must stand before heavy libraries are imported (silence and threads), its machine and its memory."""

import importlib.util
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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


def stage_gpus(stage: str, device: str) -> tuple[str, ...]:
    """`gpu_names` for a stage: `prepare` needs none."""
    return gpu_names(device) if stage != "prepare" else ()


def gpu_names(device: str, driver: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """UUIDs of the GPUs that this process may use, that which networks run on first; empty where they run on the CPU.

    Asks the driver, not torch, whose import takes seconds.

    Args:
        device: `compute.device`.
        driver: folder in which NVIDIA's driver tells of its GPUs.
    """
    from importlib.metadata import version

    if device == "cpu" or version("torch").endswith("+cpu"):
        return ()
    lines = [line for file in sorted(driver.glob("*/information")) for line in file.read_text().splitlines()]
    names = [line.split()[-1] for line in lines if line.startswith("GPU UUID")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(names))
    chosen = [names[int(each)] if each.isdigit() and int(each) < len(names) else each for each in visible.split(",")]
    return tuple(each for each in chosen if each in names)


def device_turn(name: str, runs: int) -> AbstractContextManager[None]:
    """Hold one of a device's places on this machine (see `turn`).

    Args:
        name: of the device.
        runs: its places.
    """
    import tempfile

    return turn(name, [Path(tempfile.gettempdir(), f"meddiff-{name}-{number}.lock") for number in range(runs)])


@contextmanager
def turn(name: str, files: Sequence[Path]) -> Iterator[None]:
    """Hold one of several places, and wait for it where all are taken; the kernel frees those of killed processes.

    Args:
        name: of what has the places.
        files: a file for each, in folders that are there.
    """
    import time

    with ExitStack() as held:
        places = [_open_lock(file) for file in files]
        for place in places:
            held.callback(os.close, place)
        told = False
        while (mine := next((place for place in places if _lock(place)), None)) is None:
            if not told:
                holder = os.pread(places[0], 1000, 0).decode(errors="replace")
                print(f"waiting for {name}, which {holder or 'another process'} uses", file=sys.stderr)
                told = True
            time.sleep(1)
        with suppress(OSError):  # of another user
            os.ftruncate(mine, 0)
            os.pwrite(mine, f"process {os.getpid()} in {os.getcwd()}".encode(), 0)
        yield


def _open_lock(place: Path) -> int:
    try:
        return os.open(place, os.O_CREAT | os.O_RDWR, 0o666)
    except PermissionError:  # another user's file, which can be locked all the same
        return os.open(place, os.O_RDONLY)


def _lock(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def require_port(port: int, flag: str) -> None:
    """Refuse to go on where something listens on this port of 127.0.0.1.

    Raises:
        MeddiffError: it is taken; names the program where that can be seen, and the flag that names another.
    """
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise MeddiffError(f"port {port}", f"the port must be free, it is taken{_holder(port)}",
                               f"End that program, or choose another port with {flag}") from e


def _holder(port: int) -> str:
    import psutil

    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN]
        return f" by {psutil.Process(found[0].pid).name()}, process {found[0].pid}" if found and found[0].pid else ""
    except psutil.Error:  # other users' processes
        return ""


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
