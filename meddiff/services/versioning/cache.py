"""What DVC's cache holds, and what of it is referred to: by more than DVC's own `gc` knows, since runs leave their `dvc.lock`
outside of git, in `.work/`."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from meddiff.errors import MeddiffError
from meddiff.services.versioning.lock import LOCK, dvc_repo, run_git

_OBJECT = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


def cache_folder(root: Path) -> Path:
    """The folder with DVC's objects (`files/`) and the results of stages (`runs/`)."""
    with dvc_repo(root) as repo:
        return Path(repo.cache.legacy.path).resolve()


def dvc_folders(root: Path) -> dict[str, Path]:
    """DVC's cache, and its remotes that are folders as `remote-NAME`, by all of its configurations; needs no git.

    Raises:
        MeddiffError: a configuration can't be read.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        config = Config(str(root / ".dvc"))
    except DvcException as e:
        raise MeddiffError(root / ".dvc/config", f"DVC must be able to read it ({' '.join(str(e).split())})", "Mend it") from e
    places = {"cache": config["cache"].get("dir") or root / ".dvc/cache"}
    places |= {f"remote-{name}": own["url"] for name, own in config["remote"].items() if "://" not in own["url"]}
    return {name: Path(place).resolve() for name, place in places.items()}


def hashes_in(text: str, where: object) -> set[str]:
    """The hashes of the outputs that a `dvc.lock` or a `.dvc` file names.

    Raises:
        MeddiffError: it can't be read; `where` is its place.
    """
    try:
        content = yaml.safe_load(text) or {}
        entries = [content, *(content.get("stages") or {}).values()]
        return {str(out["md5"]) for entry in entries for out in entry.get("outs") or () if "md5" in out}
    except (yaml.YAMLError, AttributeError, TypeError) as e:
        raise MeddiffError(where, "it must be readable: what it refers to can't be told from what is unused", "Mend it") from e


def referred(root: Path, since: float) -> set[str]:
    """Hashes that the project refers to: as it lies there, and in git in all branches, tags, experiments and recent commits.

    Args:
        root: of the project.
        since: commits before this time count only where a branch or a tag ends [seconds since 1970].

    Raises:
        MeddiffError: a `dvc.lock` can't be read, or DVC can't work here.
    """
    with dvc_repo(root) as repo:
        hashes = {str(out.hash_info.value) for out in repo.index.outs if out.hash_info}
    day = datetime.fromtimestamp(since, UTC).isoformat()
    commits = (run_git(root, "for-each-ref", "--format=%(objectname)") or "") + (
        run_git(root, "log", "--all", "--reflog", f"--since={day}", "--format=%H") or "")
    seen = set[str]()
    for commit in dict.fromkeys(commits.split()):
        for line in (run_git(root, "ls-tree", "-r", commit) or "").splitlines():
            about, _, name = line.partition("\t")
            blob = about.split()[-1]
            if (name.rpartition("/")[2] == LOCK or name.endswith(".dvc")) and blob not in seen:
                seen.add(blob)
                hashes |= hashes_in(run_git(root, "cat-file", "blob", blob) or "", f"{name} of commit {commit[:8]}")
    return hashes


def unused_objects(cache: Path, kept: Iterable[str], since: float) -> list[Path]:
    """The files of the cache that neither a kept hash nor a folder behind one names, and that are older.

    Args:
        cache: see `cache_folder`.
        kept: hashes.
        since: what was written later is kept [seconds since 1970].
    """
    names = set(kept)
    for name in [name for name in names if name.endswith(".dir")]:
        names |= {str(entry["md5"]) for place in _places(cache, name) if place.is_file()
                  for entry in json.loads(place.read_text())}
    used = {place for name in names for place in _places(cache, name)}
    return [path for path in _objects(cache) if path not in used and path.stat().st_mtime < since]


def forget_missing(cache: Path) -> None:
    """Remove the noted results of stages whose outputs aren't in the cache any more."""
    for path in list((cache / "runs").glob("*/*/*")):
        hashes = hashes_in(path.read_text(), path)
        if not all(any(place.is_file() for place in _places(cache, name)) for name in hashes):
            path.unlink()


def _places(cache: Path, name: str) -> Iterator[Path]:
    yield from (base / name[:2] / name[2:] for base in (cache / "files/md5", cache))  # the second is that of DVC 2


def _objects(cache: Path) -> Iterator[Path]:
    for base in (cache / "files/md5", cache):
        yield from (path for path in base.glob("[0-9a-f][0-9a-f]/*") if _OBJECT.fullmatch(f"{path.parent.name}/{path.name}"))


def lock_hashes(lock: Path) -> set[str]:
    """`hashes_in` of a file."""
    return hashes_in(lock.read_text(), lock)


def remote_answers(root: Path) -> tuple[str, str]:
    """The address of DVC's default remote, empty without one, and why it can't be listed, empty if it can."""
    with dvc_repo(root) as repo:
        name = repo.config["core"].get("remote")
        if not name:
            return "", ""
        address = str(repo.config["remote"][name].get("url", name))
        try:
            storage: Any = repo.cloud.get_remote(name)
            storage.fs.exists(storage.path)
        except Exception as e:  # of whatever library speaks with this kind of storage
            return address, " ".join(str(e).split())[:160] or type(e).__name__
        return address, ""
