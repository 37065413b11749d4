"""Backups: a folder with every database, file and object of a project's state, and `manifest.json` with their hashes and rows."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meddiff.cases import sha256
from meddiff.errors import MeddiffError, some
from meddiff.layout import Layout, replacing
from meddiff.services.backup.databases import copy_sqlite, count_postgres, count_sqlite, dump_postgres, load_postgres
from meddiff.services.backup.places import places_of
from meddiff.services.backup.servers import check_stopped, serving
from meddiff.services.backup.team import BUCKETS, DATABASES, team_state
from meddiff.services.storage import bucket_client, fetch_bucket, fill_bucket
from meddiff.services.tracking import settle_files

_MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Contents:
    """What a backup holds.

    Attributes:
        rows: database -> table -> number of rows.
        files, bytes: of all that it is made of.
        created: when, in UTC.
    """

    rows: Mapping[str, Mapping[str, int]]
    files: int
    bytes: int
    created: str


def make_backup(layout: Layout, target: Path, releases: Path | None = None, force: bool = False) -> Contents:
    """Write a backup; the platform may run. Databases come first, so that the files that they name are there afterwards.

    Args:
        target: a new or empty folder.
        releases: a folder of releases, to be kept with the rest.
        force: replace an earlier backup there.

    Raises:
        MeddiffError: `target` holds something, or lies in what is backed up; a database or server fails.
    """
    root, target, places = layout.root.resolve(), target.resolve(), places_of(layout, releases)
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (force and (target / _MANIFEST).is_file()):
        raise MeddiffError(target, "the folder for the backup must be new or empty", "Name another; --force replaces a backup")
    if inside := next((folder for folder in places.folders.values() if target.is_relative_to(folder)), None):
        raise MeddiffError(target, f"the backup must not lie in {inside}, which is part of it", "Name another folder")
    rows: dict[str, dict[str, int]] = {}
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as fresh:
        fresh.chmod(0o700)  # patients' images and passwords are in it
        for name, file in places.databases.items():
            copy_sqlite(file, copy := fresh / f"sqlite/{name}.db")
            rows[f"{name}.db"] = count_sqlite(copy)
        if has_team := bool(team_state(layout).settings):
            with serving(layout) as state:
                for name in DATABASES:
                    rows[name] = dump_postgres(state, name, fresh / f"postgresql/{name}.dump")
                for bucket in BUCKETS:
                    fetch_bucket(bucket_client(state.s3_url, state.key("admin")), bucket, fresh / "buckets" / bucket)
        for name, folder in places.folders.items():
            shutil.copytree(folder, fresh / "folders" / name, copy_function=_copy_if_there)
        for name, file in places.files.items():
            (fresh / "files").mkdir(exist_ok=True)
            shutil.copy2(file, fresh / "files" / name)
        files = {path.relative_to(fresh).as_posix(): _fingerprint(path) for path in sorted(fresh.rglob("*")) if path.is_file()}
        homes = {f"{kind}/{name}{end}": str(path.relative_to(root) if path.is_relative_to(root) else path)
                 for kind, end, paths in (("sqlite", ".db", places.databases), ("folders", "", places.folders),
                                          ("files", "", places.files)) for name, path in paths.items()}
        manifest = {"format": _FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"), "project": str(root),
                    "team": has_team, "rows": rows, "homes": homes, "files": files}
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    return _contents(manifest)


def restore_backup(layout: Layout, source: Path, force: bool = False) -> Contents:
    """Put a backup into a project whose platform stands still, and count the rows of every table again.

    Args:
        force: replace what the project has.

    Raises:
        MeddiffError: a file of the backup isn't as it was written, the project has state of its own, the platform runs, or a
            table has another number of rows than when it was saved.
    """
    root, source = layout.root.resolve(), source.resolve()
    manifest = _read(source)
    check_stopped(layout)
    homes = {name: root / home for name, home in manifest["homes"].items()}  # an absolute home stays as it is
    team = layout.work / "team"
    state = [home for name, home in homes.items() if not name.startswith("files/")] + [team] * manifest["team"]
    taken = [home for home in state if home.is_file() or (home.is_dir() and any(home.iterdir()))]
    if taken and not force:
        raise MeddiffError(some(taken), "a project that gets a backup must have no state of its own",
                           "Restore into a fresh clone; --force replaces what is there")
    if manifest["team"]:
        shutil.rmtree(team, ignore_errors=True)
    for name, home in homes.items():
        home.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("folders/"):
            with replacing(home) as fresh:
                shutil.copytree(source / name, fresh, dirs_exist_ok=True)
        elif name.startswith("files/"):
            home.unlink(missing_ok=True)
            shutil.copy2(source / name, home)
        else:
            for rest in ("", "-wal", "-shm", "-journal"):
                home.with_name(home.name + rest).unlink(missing_ok=True)
            copy_sqlite(source / name, home)
            _compare(home.name, manifest["rows"][home.name], count_sqlite(home))
    settle_files(layout.work / "mlflow.db")
    if manifest["team"]:
        _restore_team(layout, source, manifest["rows"])
    return _contents(manifest)


def _copy_if_there(source: str, target: str) -> None:
    """A run that is at work takes away files of its own; none that a database names."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def _restore_team(layout: Layout, source: Path, rows: Mapping[str, Mapping[str, int]]) -> None:
    with serving(layout) as state:
        for name in DATABASES:
            load_postgres(state, name, source / f"postgresql/{name}.dump")
            _compare(name, rows[name], count_postgres(state, name))
        for bucket in BUCKETS:
            fill_bucket(bucket_client(state.s3_url, state.key("admin")), bucket, source / "buckets" / bucket)


def _read(source: Path) -> dict[str, Any]:
    """The manifest, after every file was held against it."""
    try:
        manifest: dict[str, Any] = json.loads((source / _MANIFEST).read_text())
        files, kind = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise MeddiffError(source, f"it must be a folder that `meddiff backup` wrote ({e})", "Name one") from e
    if kind != _FORMAT:
        raise MeddiffError(source, f"this meddiff reads backups of format {_FORMAT}, not {kind}", "Upgrade meddiff")
    spoilt = [name for name, known in files.items() if not (source / name).is_file() or _fingerprint(source / name) != known]
    if spoilt:
        raise MeddiffError(source, f"every file must be as it was written, but {some(spoilt)}", "Use another backup")
    return manifest


def _fingerprint(file: Path) -> list[Any]:
    return [sha256(file), file.stat().st_size]


def _compare(database: str, saved: Mapping[str, int], restored: Mapping[str, int]) -> None:
    if different := [table for table in sorted({*saved, *restored}) if saved.get(table) != restored.get(table)]:
        told = some([f"{table}: {saved.get(table)} rows saved, {restored.get(table)} there" for table in different])
        raise MeddiffError(f"database {database}", f"every table must have the rows that were saved ({told})",
                           "Restore once more")


def _contents(manifest: Mapping[str, Any]) -> Contents:
    files = manifest["files"].values()
    return Contents(manifest["rows"], len(files), sum(size for _, size in files), manifest["created"])
