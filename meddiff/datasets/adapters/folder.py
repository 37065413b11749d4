"""The plain layout for one's own images: `images/` and `masks/` by same stem, and what may lie beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddiff.datasets.adapters.raw import RawCase, image_files, require_pairs
from meddiff.errors import MeddiffError

_PARTS = ("train", "val", "test")
_REMEDY = "Complete it, or delete the file to have a split made"


def folder(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """Pairs `images/STEM.*` and `masks/STEM.*` (png, jpg, bmp or tif; masks better not jpg).

    With several classes the masks hold class indices: 0 for the background, 1 for the first of `classes`, and so on.

    Optional beside them: `normal/` with lesion-free images; `unlabelled/` with images without annotation; `groups.json`
    `{id: group}` (patient), which must name every image of `images/` and `unlabelled/`; `split.json`
    `{"train": [id…], "val": […], "test": […]}`, which must name each of `images/` once.

    Raises:
        MeddiffError: see `read`; or a JSON file is malformed or incomplete.
    """
    images, masks = image_files(path / "images"), image_files(path / "masks")
    require_pairs(images, masks, "masks/{}.png", "Add the mask, or move the image to unlabelled/")
    normal, unlabelled = (image_files(path / name) if (path / name).is_dir() else {} for name in ("normal", "unlabelled"))
    groups = _groups(path / "groups.json", images | unlabelled)
    parts = _parts(path / "split.json", images)
    cases = [RawCase(name, file, (masks[name],), groups.get(name, name), part=parts.get(name), classes=len(classes))
             for name, file in images.items()]
    return cases + [RawCase(name, file, (), groups.get(name, name), lesion_free) for files, lesion_free
                    in ((normal, True), (unlabelled, False)) for name, file in files.items()]


def _groups(file: Path, images: dict[str, Path]) -> dict[str, str]:
    groups = _read_json(file)
    if not all(isinstance(group, str | int) for group in groups.values()):
        raise MeddiffError(file, "each id has one group's name", 'Write {"id": "patient", …}')
    for name in images if file.is_file() else ():
        if name not in groups:
            raise MeddiffError(file, f"every image must have its group, `{name}` has none", "Add it; the id will do as group")
    return {name: str(group) for name, group in groups.items()}


def _parts(file: Path, images: dict[str, Path]) -> dict[str, str]:
    listed = _read_json(file)
    if listed and (set(listed) != set(_PARTS) or not all(isinstance(names, list) for names in listed.values())):
        raise MeddiffError(file, "a split has the lists `train`, `val` and `test`", _REMEDY)
    parts: dict[str, str] = {}
    for part, names in listed.items():
        for name in names:
            if name not in images:
                raise MeddiffError(file, f"`{name}` in `{part}` must be an image of images/", "Correct the id, or add the image")
            if name in parts:
                raise MeddiffError(file, f"`{name}` must be in one part, it is in `{parts[name]}` and `{part}`", "Remove one")
            parts[name] = part
    if listed and len(parts) < len(images):
        missing = min(images.keys() - parts.keys())
        raise MeddiffError(file, f"every image must be in a part, `{missing}` is in none", _REMEDY)
    return parts


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise MeddiffError(file, f"the file must be JSON ({e})", "Mend the place named") from e
    if not isinstance(content, dict):
        raise MeddiffError(file, "the file must hold one JSON object", "See docs for the layout, or delete the file")
    return content
