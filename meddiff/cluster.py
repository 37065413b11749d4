"""Units of work that don't depend on each other: in this process, in further ones of this machine, or on a Dask cluster.

What a unit gives must not depend on where it is done, nor on the units beside it: so results are equal, bit for bit, whatever
the number of workers. Nothing but this module knows Dask.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from meddiff.environment import quiet, require_extra
from meddiff.errors import MeddiffError
from meddiff.finished import PACKAGE, key
from meddiff.params import ComputeParams

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
PATIENCE = 20  # seconds to wait for a scheduler
_INSIDE = "MEDDIFF_UNIT"  # set in the environment of what does a unit
_AGAIN = 3     # times that a unit whose worker died is tried on another one
_C = TypeVar("_C")
_U = TypeVar("_U")
_R = TypeVar("_R")
_Begin = Callable[[], _C]
_Work = Callable[[_C, Sequence[_U], Callable[[_R], None]], None]
_loading, _loaded = Lock(), dict[str, Any]()  # of a worker: what it has begun


def share_out(units: Sequence[_U], begin: _Begin[_C], work: _Work[_C, _U, _R], receive: Callable[[_R], None],
              compute: ComputeParams, context: _C | None = None) -> None:
    """Do all units: here together, so that `work` may overlap them, or each by itself on a worker of `compute.cluster`.

    The units of what is itself a unit, such as the batches of a trial, are done where that is.

    Args:
        units, begin, work: sent to the workers, which see the same files at the same paths.
        begin: gives what the units of a process share, such as a loaded network; called once in each process.
        work: gets that, some units, and what to call with the result of each.
        receive: gets each result in this process, in any order.
        compute: the cluster; on a GPU each worker that has one does one unit at a time.
        context: what `begin` would give here, where it is there already.

    Raises:
        MeddiffError: the cluster isn't there any more, a worker runs another version, or died of a unit again and again. What a
            unit raises is raised here; units that are done have been received.
    """
    if not compute.cluster or not units or os.environ.get(_INSIDE):
        if units:
            work(begin() if context is None else context, units, receive)
        return
    require_extra("cluster", "distributed")
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    task, fine = uuid4().hex, identity()
    with _client(compute, len(units)) as client:
        futures = client.map(lambda unit: _do(task, fine, begin, work, unit), units, pure=False, retries=0,
                             resources={"GPU": 1} if compute.device == "cuda" else None)
        try:
            for future in as_completed(futures):
                for result in future.result():
                    receive(result)
                future.release()
        except KilledWorker as e:
            raise MeddiffError("compute.cluster", f"a unit of the work ended {_AGAIN + 1} workers ({e.last_worker.address})",
                               "Look at the worker's log: most often it had too little memory; the same command goes on") from e
        except (FutureCancelledError, OSError) as e:
            raise _gone(compute.cluster, e) from e


def identity() -> tuple[str, str]:
    """Meddiff's code and torch's version, which must be equal everywhere, or results wouldn't be."""
    return _code(), version("torch")


def serve_units(address: str, name: str | None = None) -> None:
    """Be a worker of the scheduler at an address until it ends: one unit at a time, with this machine's GPU where it has one.

    Dask has no sign-on: the worker listens where the scheduler is reached alone, for one of this machine on the loopback.

    Raises:
        MeddiffError: no scheduler answers.
    """
    quiet()
    require_extra("cluster", "distributed")
    import asyncio

    import torch
    from distributed import Nanny
    from distributed.utils import get_ip

    async def serve() -> None:
        own = _resources(torch.cuda.is_available())
        async with Nanny(address, nthreads=1, name=name, memory_limit=0, resources=own,
                         host=get_ip(urlsplit(address).hostname or "127.0.0.1")) as nanny:
            await nanny.finished()

    try:
        with _settings():
            asyncio.run(serve())
    except OSError as e:
        raise _gone(address, e) from e


@cache
def _code() -> str:
    return key(*(str(path.relative_to(PACKAGE)) for path in _sources()), *_sources())


def _sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def _do(task: str, fine: tuple[str, str], begin: _Begin[_C], work: _Work[_C, _U, _R], unit: _U) -> list[_R]:
    """One unit on a worker; of tasks it keeps what the last one began."""
    if (own := identity()) != fine:
        raise MeddiffError(f"worker on {os.uname().nodename}", f"it must run the same code and torch {fine[1]}, it has torch "
                           f"{own[1]}", "Install the same version there, and start the worker again")
    os.environ[_INSIDE] = "1"
    with _loading:
        if task not in _loaded:
            _loaded.clear()
            _loaded[task] = begin()
    results = list[_R]()
    work(_loaded[task], [unit], results.append)
    return results


@contextmanager
def _client(compute: ComputeParams, units: int) -> Iterator["Client"]:
    """A client of the cluster; one of this machine is started for it and ends with it."""
    from distributed import Client, LocalCluster

    kind, _, count = compute.cluster.partition(":")
    with _settings():
        if kind == LOCAL:
            gpu, workers = compute.device == "cuda", min(int(count or os.cpu_count() or 1), units)
            quiet_pages = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # its metrics alone
            with LocalCluster(n_workers=1 if gpu else workers, threads_per_worker=1, host="127.0.0.1", memory_limit=0,
                              resources=_resources(gpu), scheduler_kwargs=quiet_pages, silence_logs="CRITICAL") as cluster, \
                    Client(cluster) as client:
                yield client
            return
        try:
            client = Client(compute.cluster, timeout=PATIENCE)
        except (OSError, ValueError) as e:
            raise _gone(compute.cluster, e) from e
        with client:
            if not client.scheduler_info()["workers"]:
                raise MeddiffError(compute.cluster, "the cluster needs workers, it has none",
                                   f"Start some: meddiff worker {compute.cluster}")
            yield client


def _settings() -> Any:
    """Dask's configuration, without the MALLOC_TRIM_THRESHOLD_ of its workers: torch's steps take 2.5 times as long with it.

    Nobody looks at its profiles and ticks, which take 9 % of a core with two idle workers, 2 % so.
    """
    import dask

    return dask.config.set({"distributed.nanny.pre-spawn-environ": {}, "distributed.worker.profile.enabled": False,
                            "distributed.admin.tick.interval": "1s", "distributed.admin.system-monitor.interval": "10s",
                            "distributed.scheduler.allowed-failures": _AGAIN, "distributed.comm.timeouts.connect": f"{PATIENCE}s",
                            "distributed.admin.large-graph-warning-threshold": "1GB"})


def _resources(gpu: bool) -> dict[str, float]:
    return {"GPU": 1.0} if gpu else {}


def _gone(address: str, error: Exception) -> MeddiffError:
    words = " ".join(str(error).split())[:200]
    return MeddiffError(address, f"the Dask scheduler must answer ({words})", "Start it (`dask scheduler`), then the same "
                        "command goes on; or set compute.cluster to `local`, or to nothing for this process")
