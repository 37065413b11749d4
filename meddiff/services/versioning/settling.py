"""DVC where it was killed, or its disk was full: what keeps it from going on by itself, and what it doesn't tell."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from meddiff.services.versioning.cache import dvc_folders
from meddiff.services.versioning.lock import LOCK

# DVC ends with 0 where its cache has no room for an output, which would then be lost with the next change: it only says so.
_STRICT = """
import logging, sys
from dvc.cli import main
told = []
handler = logging.Handler(logging.ERROR)
handler.emit = told.append
logging.getLogger("dvc_data").addHandler(handler)
sys.exit(main(sys.argv[2:]) or bool(told))
"""


def dvc_command(*words: str) -> list[str]:
    """The command line of a DVC that fails, too, where an output can't be put into its cache."""
    return [sys.executable, "-c", _STRICT, "dvc", *words]


def settle_dvc(root: Path) -> tuple[str, ...]:
    """Let DVC go on after a death at any moment; what it has noted and cached stays, and nothing is done otherwise.

    Returns:
        A line for each thing that was put right.

    Raises:
        MeddiffError: DVC's configuration can't be read.
    """
    return tuple(_settle(root)) if (root / ".dvc").is_dir() else ()


def _settle(root: Path) -> Iterator[str]:
    for folder in (dvc_folders(root)["cache"] / "runs").glob("*/*"):
        if not any(folder.iterdir()):
            # DVC can't look for a result in it. A removal would disturb one that is about to write there: this it takes for
            # a broken note, and removes it.
            (folder / "unfinished").touch()
            yield "a result of a stage was about to be noted when DVC died"
    if not _is_json(file := root / ".dvc/tmp/rwlock"):
        from dvc.lock import make_lock

        with make_lock(str(file.with_name("rwlock.lock")), tmp_dir=str(file.parent)):
            if not _is_json(file):  # and not one that is being written
                file.unlink()
                yield f"{file} was cut short: it is removed"
    if not _is_lock(file := root / LOCK):
        aside = root / f".work/{LOCK}.broken"
        aside.parent.mkdir(exist_ok=True)
        file.replace(aside)
        yield f"{file} can't be read, and is moved to {aside}: it is made anew, with the outputs from DVC's cache"


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _is_lock(file: Path) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(file.read_text(encoding="utf-8")) or {"schema": "2.0"})
    except FileNotFoundError:
        return True
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True
