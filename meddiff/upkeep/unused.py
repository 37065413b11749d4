"""What a project keeps that nothing refers to any more: in DVC's cache, MLflow's files and `.work/`; and its removal."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout
from meddiff.params import Params
from meddiff.services import tracking, versioning

KEEP = "champion,releases,results,30d"
_HOUR, _DAY = 3600.0, 86400.0
_DAYS = re.compile(r"\d+(\.\d+)?d")
_SEARCHES = ("tune", "ablate", "benchmark", "advise")


@dataclass(frozen=True)
class Keep:
    """What stays beside all that the project itself, git's branches and tags and the champions refer to.

    Attributes:
        releases, results: what published releases and the kept results of flow runs (`.work/results`) refer to.
        days: whatever is younger.
    """

    releases: bool
    results: bool
    days: float


@dataclass(frozen=True)
class UnusedPart:
    """Things of one kind that can go.

    Attributes:
        what: they are.
        paths: files and folders.
        bytes: that they hold.
    """

    what: str
    paths: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True)
class Unused:
    """What can go.

    Attributes:
        parts: by kind.
        files: those of MLflow among them, which need its word.
        cache: DVC's, empty where it lies outside of the project and other projects may use it.
        notes: lines for the user.
    """

    parts: tuple[UnusedPart, ...]
    files: tuple[tracking.UnusedFiles, ...]
    cache: Path | None
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def parse_keep(text: str) -> Keep:
    """What `--keep` says: `releases`, `results`, a number of days as `30d`, and `champion`, which is always kept.

    Raises:
        MeddiffError: another word, or no days.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    days = [float(word[:-1]) for word in words if _DAYS.fullmatch(word)]
    unknown = [word for word in words if word not in ("champion", "releases", "results") and not _DAYS.fullmatch(word)]
    if unknown or len(days) != 1:
        raise MeddiffError("--keep", f"it has words with commas between, of them one number of days, not `{text}`",
                           f"Write it as {KEEP}")
    return Keep("releases" in words, "results" in words, days[0])


def find_unused(layout: Layout, params: Params, keep: Keep) -> Unused:
    """Look for what nothing refers to.

    What was written within the hour stays in any case, as do trees that a process works in.

    Raises:
        MeddiffError: a `dvc.lock` can't be read, DVC or MLflow doesn't answer: then nothing is known to be unused.
    """
    since = time.time() - max(keep.days * _DAY, _HOUR)
    busy = tuple(_folders_of_processes())
    old = [path for path in _old_folders(layout, keep, since) if not any(folder.is_relative_to(path) for folder in busy)]
    files = tracking.unused_files(layout, params, since)
    parts = [_part(f".work/{name}", [path for path in old if path.relative_to(layout.work).parts[0] == name])
             for name in sorted({path.relative_to(layout.work).parts[0] for path in old})]
    parts += [_part(f"MLflow: {why}", [each.path for each in files if each.why == why])
              for why in dict.fromkeys(each.why for each in files)]
    cache = versioning.cache_folder(layout.root)
    notes = []
    if not cache.is_relative_to(layout.root.resolve()):
        notes.append(f"DVC's cache is at {cache}, outside of the project: it stays, since other projects may use it")
    else:
        kept = versioning.referred(layout.root, since) | tracking.kept_outputs(layout, params, since)
        for lock in _locks(layout, [*old, *([] if keep.releases else [layout.work / "releases"])]):
            kept |= versioning.lock_hashes(lock)
        parts.append(_part("DVC's cache", versioning.unused_objects(cache, kept, since)))
    return Unused(tuple(part for part in parts if part.paths), tuple(files), cache if not notes else None, tuple(notes))


def free_unused(layout: Layout, params: Params, unused: Unused) -> None:
    """Remove it.

    Raises:
        MeddiffError: MLflow doesn't answer.
    """
    tracking.remove_files(layout, params, list(unused.files))
    for part in unused.parts:
        for path in part.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if unused.cache:
        versioning.forget_missing(unused.cache)


def pin_release(layout: Layout, name: str, url: str) -> Path:
    """Note what a published release was made from, so that it stays: `dvc.lock`, settings, address in `.work/releases/NAME`."""
    folder = layout.work / "releases" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "url").write_text(f"{url}\n", encoding="utf-8")
    for file in (layout.params, layout.root / "dvc.lock"):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    return folder


def _old_folders(layout: Layout, keep: Keep, since: float) -> Iterator[Path]:
    """Of `.work/`: trees of runs that failed, results, and what stages and searches resume from."""
    names = ["runs", *STAGES, *(f"{name}/trees" for name in _SEARCHES), *([] if keep.results else ["results"])]
    places = [layout.work / name for name in names]
    yield from (path for place in places if place.is_dir() for path in sorted(place.iterdir())
                if path.is_dir() and _newest(path) < since)


def _newest(folder: Path) -> float:
    """When a tree was last worked in: its files, not its outputs, which may be links to old ones."""
    inside = [folder, *folder.iterdir(), *folder.glob(".work/*"), *folder.glob(".work/*/*"), *folder.glob(".dvc/tmp/*")]
    return max(path.lstat().st_mtime for path in inside)


def _locks(layout: Layout, without: Iterable[Path]) -> Iterator[Path]:
    """Every `dvc.lock` in `.work/` that isn't below one of some folders."""
    gone = tuple(without)
    for depth in range(2, 6):
        for lock in layout.work.glob("/".join(["*"] * depth) + "/dvc.lock"):
            if not any(lock.is_relative_to(folder) for folder in gone):
                yield lock


def _folders_of_processes() -> Iterator[Path]:
    for process in psutil.process_iter():
        try:
            yield Path(process.cwd())
        except (psutil.Error, OSError):  # other users' processes
            continue


def _part(what: str, paths: list[Path]) -> UnusedPart:
    seen, size = set[tuple[int, int]](), 0
    for top in paths:
        for path in [top] if top.is_file() else (Path(place, name) for place, _, names in os.walk(top) for name in names):
            about = path.lstat()
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                size += about.st_size
    return UnusedPart(what, tuple(paths), size)
