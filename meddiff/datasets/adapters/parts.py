"""`split.json` beside the images: which of them are to train with, to validate and to test."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from meddiff.datasets.adapters.groups import names_of_cases, read_json
from meddiff.datasets.adapters.listing import composed, entry
from meddiff.datasets.adapters.raw import RawCase
from meddiff.errors import MeddiffError, likewise

_PARTS = ("train", "val", "test")
_REMEDY = "Complete it, or delete the file to have a split made"


def listed_parts(file: Path, images: Collection[str]) -> dict[str, str]:
    """Name of each image -> part; nothing where there is no such file.

    Raises:
        MeddiffError: it is malformed, names what is no image or an image twice, or lacks one.
    """
    parts = _read_parts(file, images)
    if parts and len(parts) < len(images):
        missing = min(set(images) - parts.keys())
        raise MeddiffError(file, f"every image must be in a part, `{missing}` is in none", _REMEDY)
    return parts


def with_parts(cases: Sequence[RawCase], path: Path) -> list[RawCase]:
    """The cases with the parts of `split.json` in `path`, where there is one; a file is named for all its frames and slices.

    Raises:
        MeddiffError: it is malformed, names what is no case or a case in two parts, or lacks one that has a mask.
    """
    file, ids = entry(path, "split.json"), names_of_cases(cases, path)
    listed, parts = _read_parts(file, ids), dict[str, str]()
    for name, part in listed.items():
        for id in ids[name]:
            if parts.setdefault(id, part) != part:
                raise MeddiffError(file, f"`{id}` must be in one part, it is in `{parts[id]}` and `{part}`", "Remove one")
    if listed and (lone := [case.id for case in cases if case.masks and case.id not in parts]):
        others = likewise(lone[1:])
        raise MeddiffError(file, f"every image with a mask must be in a part, `{lone[0]}` is in none{others}", _REMEDY)
    return [replace(case, part=parts[case.id]) if case.id in parts else case for case in cases]


def _read_parts(file: Path, names: Collection[str]) -> dict[str, str]:
    listed = read_json(file, _REMEDY)
    if listed and (set(listed) != set(_PARTS) or not all(isinstance(each, list) for each in listed.values())):
        raise MeddiffError(file, "a split has the lists `train`, `val` and `test`", _REMEDY)
    parts: dict[str, str] = {}
    for part, each in listed.items():
        for name in map(composed, map(str, each)):
            if name not in names:
                raise MeddiffError(file, f"`{name}` in `{part}` must be an image that is here", "Correct it, or add the image")
            if name in parts:
                raise MeddiffError(file, f"`{name}` must be in one part, it is in `{parts[name]}` and `{part}`", "Remove one")
            parts[name] = part
    return parts
