"""Finished work that needn't be done again: folders under a name made from all that the work depends on.

The name changes with settings, files and code. Code is followed through its imports, so that no module can be forgotten.
"""

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from meddiff.cases import sha256
from meddiff.layout import replacing
from meddiff.params.section import Section

PACKAGE = Path(__file__).parent
# Rooms and files that change no result.
NEUTRAL = ("__init__", "errors", "progress", "environment", "finished", "cluster", "services", "served", "served_segmenter",
           "stages/resume")


def key(*parts: Section | Path | Mapping[str, Any] | Sequence[Any] | str | float) -> str:
    """Name of the work that depends on these parts, 16 characters.

    Args:
        parts: settings and other values by value, files and folders by content (one that isn't there has none), code by `code`.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256("".join(_words(part)).encode()).digest())
    return digest.hexdigest()[:16]


def code(*names: str, package: Path = PACKAGE) -> str:
    """Hash of modules and all that they import, directly or not, without the rooms that change no result.

    Args:
        names: modules (`stages.segment`) or rooms (`segmentation`) of the package.
        package: the folder `meddiff` whose code does the work: that of a project may differ from this process's.
    """
    return key(*(f"{file.relative_to(package)} {_content(*_state(file))}" for file in files_of(*names, package=package)))


def files_of(*names: str, package: Path = PACKAGE) -> tuple[Path, ...]:
    """The files behind `code`; what lies beside a room's modules, such as weights and templates, belongs to them."""
    closure, todo = set[Path](), [file for name in names for file in _files(package.joinpath(*name.split(".")))]
    while todo:
        path = todo.pop()
        if path in closure or any(path.relative_to(package).with_suffix("").is_relative_to(name) for name in NEUTRAL):
            continue
        closure.add(path)
        if path.suffix == ".py":
            todo += [file for name in _imports(*_state(path)) if (file := _module(name, package))]
            if path.parent != package:
                todo += [file for file in _files(path.parent) if file.suffix != ".py" or file == path.with_name("__init__.py")]
    return tuple(sorted(closure))


def finish(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of finished work: as it is kept, else made, and swapped in whole.

    Args:
        folder: its name should be a `key`.
        make: writes into the empty folder that it is given; what fails leaves nothing.
    """
    if not folder.is_dir():
        with replacing(folder) as fresh:
            make(fresh)
    return folder


def forget(folder: Path, but: Collection[Path] = ()) -> None:
    """Remove finished and unfinished work of other settings, code or data, which would grow without end."""
    for path in folder.glob("*"):
        if path not in but:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _words(part: object) -> Iterator[str]:
    if isinstance(part, Section):
        yield repr(part)  # with the fields that other sections fill
    elif isinstance(part, Path):
        for path in _files(part):
            yield f"{path.relative_to(part)} {_content(*_state(path))}\n"
    else:
        yield json.dumps(part, sort_keys=True, default=str)


def _files(place: Path) -> list[Path]:
    """The file, the module of this name, or all files of the folder."""
    below = (path for path in place.rglob("*") if path.suffix != ".pyc") if place.is_dir() else (place, place.with_suffix(".py"))
    return sorted(path for path in below if path.is_file())


def _state(path: Path) -> tuple[Path, int, int]:
    about = path.stat()
    return path, about.st_size, about.st_mtime_ns


@cache
def _content(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file, read again only when size or time have changed: a copy of a dataset, with times of its own, is the same."""
    return sha256(path)


@cache
def _imports(path: Path, size: int, changed_ns: int) -> frozenset[str]:
    """Dotted names that a file imports, inside functions too."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _module(name: str, package: Path) -> Path | None:
    """The file behind a dotted name, which may end in a function's name; None for another package."""
    first, *parts = name.split(".")
    for end in range(len(parts), 0, -1) if first == PACKAGE.name else ():
        place = package.joinpath(*parts[:end])
        if file := next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None):
            return file
    return None
