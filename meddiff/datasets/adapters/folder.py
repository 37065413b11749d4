"""The plain layout for one's own images: `images/` and `masks/` by same stem, and what may lie beside them."""

from collections.abc import Sequence
from pathlib import Path

from meddiff.datasets.adapters.guesses import Guess, guess_pairs, other_reading
from meddiff.datasets.adapters.listing import LONE_IMAGE, entry, list_files, picture_stems, require_pairs
from meddiff.datasets.adapters.parts import listed_parts
from meddiff.datasets.adapters.raw import RawCase
from meddiff.errors import MeddiffError


def folder(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """Pairs `images/STEM.*` and `masks/STEM.*` (png, jpg, bmp, tif or webp; masks better not jpg), else what `guesses` reads.

    With several classes the masks hold class indices: 0 for the background, 1 for the first of `classes`, and so on.

    Optional beside them: `normal/` with lesion-free images; `unlabelled/` (or `unlabeled/`) with images without annotation;
    `split.json` `{"train": [id…], "val": […], "test": […]}`, which must name each of `images/` once; groups, see `groups`.

    Raises:
        MeddiffError: see `read`; or a JSON file is malformed or incomplete.
    """
    places = entry(path, "images"), entry(path, "masks")
    plain = all(place.is_dir() for place in places)
    images, masks = map(list_files, places) if plain else ({}, {})
    if guess := other_reading(path, picture_stems(path), images, masks):
        return _guessed(path, guess, len(classes))
    images, masks = map(list_files, places)
    require_pairs(images, masks, places, remedy=LONE_IMAGE)
    normal, unlabelled = (list_files(place) if (place := entry(path, *names)).is_dir() else {}
                          for names in (("normal",), ("unlabelled", "unlabeled")))
    parts = listed_parts(entry(path, "split.json"), images)
    cases = [RawCase(name, file, (masks[name],), part=parts.get(name), classes=len(classes)) for name, file in images.items()]
    return cases + [RawCase(name, file, (), lesion_free=free) for files, free in ((normal, True), (unlabelled, False))
                    for name, file in files.items()]


def has_pairs(path: Path) -> bool:
    """Whether `folder` can read something below a folder, rightly or not."""
    places = entry(path, "images"), entry(path, "masks")
    try:
        return (all(place.is_dir() for place in places) and any(map(list_files, places))) or has_masks(path)
    except MeddiffError:
        return True


def has_masks(path: Path) -> bool:
    """Whether pictures below a folder are named as masks, or lie where these belong."""
    masks = entry(path, "masks")
    try:
        return (masks.is_dir() and bool(list_files(masks))) or bool(guess_pairs(path, picture_stems(path)).masks)
    except MeddiffError:
        return True


def _guessed(path: Path, guess: Guess, classes: int) -> list[RawCase]:
    listed = listed_parts(entry(path, "split.json"), {guess.ids[file]: file for file in guess.masks})
    return [RawCase(id, file, (guess.masks[file],) if file in guess.masks else (), lesion_free=file in guess.free,
                    part=listed.get(id) if listed else guess.parts.get(file), classes=classes) for file, id in guess.ids.items()]
