"""The plain layout for one's own images: `images/` and `masks/` by same stem, and what may lie beside them."""

from collections.abc import Sequence
from pathlib import Path

from meddiff.datasets.adapters.groups import read_json
from meddiff.datasets.adapters.listing import composed, entry, list_files, require_pairs
from meddiff.datasets.adapters.raw import RawCase
from meddiff.errors import MeddiffError

_PARTS = ("train", "val", "test")
_REMEDY = "Complete it, or delete the file to have a split made"


def folder(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """Pairs `images/STEM.*` and `masks/STEM.*` (png, jpg, bmp, tif or webp; masks better not jpg).

    With several classes the masks hold class indices: 0 for the background, 1 for the first of `classes`, and so on.

    Optional beside them: `normal/` with lesion-free images; `unlabelled/` (or `unlabeled/`) with images without annotation;
    `split.json` `{"train": [id…], "val": […], "test": […]}`, which must name each of `images/` once; groups, see `groups`.

    Raises:
        MeddiffError: see `read`; or a JSON file is malformed or incomplete.
    """
    places = entry(path, "images"), entry(path, "masks")
    images, masks = map(list_files, places)
    require_pairs(images, masks, places, remedy="Add the mask, or move the image to unlabelled/")
    normal, unlabelled = (list_files(place) if (place := entry(path, *names)).is_dir() else {}
                          for names in (("normal",), ("unlabelled", "unlabeled")))
    parts = _parts(entry(path, "split.json"), images)
    cases = [RawCase(name, file, (masks[name],), part=parts.get(name), classes=len(classes)) for name, file in images.items()]
    return cases + [RawCase(name, file, (), lesion_free=free) for files, free in ((normal, True), (unlabelled, False))
                    for name, file in files.items()]


def _parts(file: Path, images: dict[str, Path]) -> dict[str, str]:
    listed = read_json(file, _REMEDY)
    if listed and (set(listed) != set(_PARTS) or not all(isinstance(names, list) for names in listed.values())):
        raise MeddiffError(file, "a split has the lists `train`, `val` and `test`", _REMEDY)
    parts: dict[str, str] = {}
    for part, names in listed.items():
        for name in map(composed, map(str, names)):
            if name not in images:
                raise MeddiffError(file, f"`{name}` in `{part}` must be an image of images/", "Correct the id, or add the image")
            if name in parts:
                raise MeddiffError(file, f"`{name}` must be in one part, it is in `{parts[name]}` and `{part}`", "Remove one")
            parts[name] = part
    if listed and len(parts) < len(images):
        missing = min(images.keys() - parts.keys())
        raise MeddiffError(file, f"every image must be in a part, `{missing}` is in none", _REMEDY)
    return parts
