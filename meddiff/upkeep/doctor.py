"""What is amiss with a project, its machine and the services that it uses: each thing looked at is a line."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement

from meddiff import __version__
from meddiff.errors import MeddiffError, redacted, some
from meddiff.layout import Layout
from meddiff.pages import counted
from meddiff.params import Params
from meddiff.services import backup, catalog, storage, tracking, versioning

_LEAST_DISK, _LEAST_MEMORY = 5e9, 2e9  # bytes free
_SKEW = 60.0  # seconds that a clock may be off; S3 refuses at 15 minutes
_HUB_WORDS = ("embedded", "scratch")


@dataclass(frozen=True)
class Symptom:
    """What one look gave.

    Attributes:
        name: of what was looked at.
        ok: whether all is well.
        says: what is so.
        remedy: what to do, empty if nothing.
    """

    name: str
    ok: bool
    says: str
    remedy: str = ""


def examine(layout: Layout, params: Params) -> Iterator[Symptom]:
    """Look at everything, a symptom each as it comes; secrets in them are `redacted`."""
    looks: tuple[tuple[str, Callable[[Layout, Params], Iterator[Symptom]]], ...] = (
        ("versions", _versions), ("device", _device), ("memory", _memory), ("disk", _disk), ("folders", _folders), ("DVC", _dvc),
        ("MLflow", _mlflow), ("Prefect", _prefect), ("catalogue", _catalogue), ("studies", _studies), ("storage", _storage),
        ("hub", _hub), ("unfinished", _unfinished), ("clock", _clock))
    for name, look in looks:
        try:
            for symptom in look(layout, params):
                yield Symptom(symptom.name, symptom.ok, redacted(symptom.says), redacted(symptom.remedy))
        except MeddiffError as e:
            yield Symptom(name, False, f"{e.where}: {e.rule}", e.remedy)
        except Exception as e:  # a look that fails must not hide the others
            yield Symptom(name, False, redacted(f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"), "Mend what this names")


def _versions(layout: Layout, params: Params) -> Iterator[Symptom]:
    try:
        needed = [Requirement(line) for line in importlib.metadata.requires("meddiff") or ()]
    except importlib.metadata.PackageNotFoundError:
        needed = []
    wrong = []
    for each in needed:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            try:
                found = importlib.metadata.version(each.name)
            except importlib.metadata.PackageNotFoundError:
                found = ""
            if not found or not each.specifier.contains(found, prereleases=True):
                wrong.append(f"{each.name} {found or 'is missing'} (needed: {each.specifier})")
    yield Symptom("versions", not wrong, some(wrong, 8) or f"meddiff {__version__}, Python {platform.python_version()}, "
                  f"{len(needed)} packages as needed", "Run `make install`" if wrong else "")


def _device(layout: Layout, params: Params) -> Iterator[Symptom]:
    import torch

    driver = Path("/proc/driver/nvidia/version").is_file()
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield Symptom("device", True, f"{torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    elif params.compute.device == "cuda" or driver:
        yield Symptom("device", False, f"torch {torch.__version__} sees no GPU, compute.device is {params.compute.device}"
                      + (", and the machine has one" if driver else ""), "Install with `make install CUDA=1`, or set `cpu`")
    else:
        yield Symptom("device", True, f"no GPU: CPU, {params.compute.threads} of {os.cpu_count()} cores by compute.threads")


def _memory(layout: Layout, params: Params) -> Iterator[Symptom]:
    memory = psutil.virtual_memory()
    ok = memory.available > _LEAST_MEMORY
    yield Symptom("memory", ok, f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
                  "" if ok else "End other programs: a stage needs 2 GB and more")


def _disk(layout: Layout, params: Params) -> Iterator[Symptom]:
    free = shutil.disk_usage(layout.root).free
    ok = free > _LEAST_DISK
    yield Symptom("disk", ok, f"{free / 1e9:.0f} GB free", "" if ok else "Run `meddiff gc`, or make room otherwise")


def _folders(layout: Layout, params: Params) -> Iterator[Symptom]:
    folders = [layout.root, layout.work, layout.root / ".dvc", Path(tempfile.gettempdir()), Path(os.environ.get("HF_HOME", "") or
               Path.home() / ".cache/huggingface")]
    wrong = []
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as e:
            wrong.append(f"{place} ({e.strerror})")
    yield Symptom("folders", not wrong, some(wrong, 5) if wrong else "can be written", "Give yourself the right to write there"
                  if wrong else "")


def _dvc(layout: Layout, params: Params) -> Iterator[Symptom]:
    cache = versioning.cache_folder(layout.root)
    known = versioning.lock(layout.root)
    yield Symptom("DVC", True, f"cache {cache}, {len(known)} stages in dvc.lock")
    address, fault = versioning.remote_answers(layout.root)
    if address:
        yield Symptom("DVC remote", not fault, f"{address}{': ' + fault if fault else ''}",
                      "Check the address (`dvc remote list`) and its credentials (AWS_ACCESS_KEY_ID, …)" if fault else "")


def _mlflow(layout: Layout, params: Params) -> Iterator[Symptom]:
    if missing := backup.missing_address(layout, params):
        yield Symptom("team", False, f"{missing} isn't set, and the platform of this project is a team's", backup.TEAM_REMEDY)
    address = tracking.tracking_uri(layout, params.tracking)
    tracking.connect(layout, params.tracking)
    yield Symptom("MLflow", True, address)
    if lost := tracking.end_lost(layout, params):
        yield Symptom("runs", True, f"{len(lost)} runs of processes that were killed were ended: "
                      f"{some((run.name for run in lost), 5)}")


def _prefect(layout: Layout, params: Params) -> Iterator[Symptom]:
    address = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not address:
        yield Symptom("Prefect", True, "not used here (PREFECT_API_URL isn't set)")
        return
    secret = os.environ.get("PREFECT_API_AUTH_STRING", "")
    user, _, password = secret.partition(":")
    with httpx.Client(base_url=address, timeout=10, auth=(user, password) if secret else None) as client:
        try:
            client.get("/health").raise_for_status()
            answer = client.post("/work_pools/meddiff/workers/filter", json={})
            answer.raise_for_status() if answer.status_code != httpx.codes.NOT_FOUND else None
        except httpx.HTTPError as e:
            line = " ".join(str(e).partition("For more information")[0].split())[:160]
            yield Symptom("Prefect", False, f"{address} must answer ({line})",
                          "Check PREFECT_API_URL and PREFECT_API_AUTH_STRING")
            return
    if answer.status_code == httpx.codes.NOT_FOUND:
        yield Symptom("Prefect", False, f"{address} has no work pool `meddiff`", "Run `python -m flows.deploy`")
        return
    online = [worker["name"] for worker in answer.json() if worker.get("status") == "ONLINE"]
    yield Symptom("Prefect", bool(online), f"{address}, {counted(len(online), 'worker')}", "" if online else
                  "Start one: `python infra/worker.py --pool meddiff --type process`")


def _catalogue(layout: Layout, params: Params) -> Iterator[Symptom]:
    if os.environ.get(catalog.URL_VARIABLE) or params.catalog.url or (layout.work / "catalog.db").is_file():
        yield Symptom("catalogue", True, catalog.check(layout, params))
    else:
        yield Symptom("catalogue", True, "none yet; `meddiff catalog rebuild` makes it")


def _studies(layout: Layout, params: Params) -> Iterator[Symptom]:
    if address := os.environ.get("MEDDIFF_TUNE_STORAGE") or params.tune.storage:
        yield Symptom("studies", True, catalog.reach_database(address, "MEDDIFF_TUNE_STORAGE or `tune.storage`"))


def _storage(layout: Layout, params: Params) -> Iterator[Symptom]:
    places = {file.read_text(encoding="utf-8").strip().rsplit("/", 2)[0] for file in layout.work.glob("releases/*/url")}
    if os.environ.get(storage.ENDPOINT_VARIABLE) or os.environ.get("AWS_ENDPOINT_URL"):
        yield Symptom("S3", True, storage.check_account())
    for place in sorted(places):
        try:
            storage.open_store(place).folders()
            yield Symptom("releases", True, place)
        except MeddiffError as e:
            yield Symptom("releases", False, f"{e.where}: {e.rule}", e.remedy)


def _hub(layout: Layout, params: Params) -> Iterator[Symptom]:
    source = params.foundation.source
    if source in _HUB_WORDS or (layout.root / source).is_dir():
        yield Symptom("model", True, f"foundation.source {source} is here")
        return
    from huggingface_hub import try_to_load_from_cache

    here = isinstance(try_to_load_from_cache(source, "model_index.json", revision=params.foundation.revision or None), str)
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    says = "is here" if here else "must be fetched from the hub"
    yield Symptom("model", here or not offline, f"foundation.source {source} {says}",
                  "Unset HF_HUB_OFFLINE, or copy the model's folder here and name it" if offline and not here else "")


def _unfinished(layout: Layout, params: Params) -> Iterator[Symptom]:
    for old in sorted(_swaps(layout)):
        whole = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        yield Symptom("swap", whole.exists(), f"{old} was left by a process that was killed",
                      "" if whole.exists() else f"Bring it back: mv '{old}' '{whole}'")
    trees = [path.name for path in (layout.work / "runs").glob("*") if path.is_dir()]
    if trees:
        yield Symptom("flow runs", True, f"{counted(len(trees), 'work tree')} of runs that go on, failed or were cancelled: "
                      f"{some(sorted(trees))}; Retry goes on, `meddiff gc` removes old ones")


def _swaps(layout: Layout) -> Iterator[Path]:
    for folder in (layout.root, layout.root / "data", layout.root / "models", layout.root / "reports", layout.work):
        yield from folder.glob(".*.old")


def _clock(layout: Layout, params: Params) -> Iterator[Symptom]:
    addresses = [tracking.tracking_uri(layout, params.tracking), os.environ.get("PREFECT_API_URL", "")]
    for address in (each for each in addresses if each.startswith("http")):
        try:
            told = parsedate_to_datetime(httpx.get(address, timeout=10).headers["date"]).timestamp()
        except (httpx.HTTPError, KeyError, ValueError):
            continue
        off = time.time() - told
        yield Symptom("clock", abs(off) < _SKEW, f"{off:+.0f} s against {httpx.URL(address).host}",
                      "" if abs(off) < _SKEW else "Set the machine's clock (NTP): tokens and signatures depend on it")
        return
    yield Symptom("clock", True, f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, no server to compare it with")
