"""Images alone, wherever they lie: what a trained segmenter is given."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from meddiff.datasets.adapters.listing import READABLE, composed, is_shown
from meddiff.datasets.adapters.raw import RawCase
from meddiff.errors import MeddiffError


def list_inputs(path: Path, but: Collection[Path] = ()) -> tuple[list[RawCase], list[Path]]:
    """Every picture file of a folder, nested ones too, or one file.

    A case's id is where its outputs go: its place below the folder without ending, which stays where two files would share it.

    Args:
        path: file or folder.
        but: folders that are passed over, such as that of the outputs.

    Returns:
        The cases without annotation, by id, and the other files that lie there, hidden ones left out.

    Raises:
        MeddiffError: nothing is there, or no picture.
    """
    if not path.exists():
        raise MeddiffError(path, "a picture or a folder of pictures must be there", "Correct the path")
    root, files = (path, _files(path, but)) if path.is_dir() else (path.parent, [path])
    pictures = [file for file in files if file.suffix.lower() in READABLE]
    places = {file: composed(file.relative_to(root).as_posix()) for file in pictures}
    stems = {file: place.removesuffix(file.suffix) for file, place in places.items()}
    shared = Counter(stem.casefold() for stem in stems.values())
    cases = [RawCase(stem if shared[stem.casefold()] == 1 else places[file], file, ()) for file, stem in stems.items()]
    if not cases:
        raise MeddiffError(path, f"there must be a picture ({', '.join(READABLE)})", "Name another place, or save images as PNG")
    return sorted(cases, key=lambda case: case.id), sorted(set(files) - set(pictures))


def _files(folder: Path, but: Collection[Path]) -> list[Path]:
    listed = list[Path]()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if is_shown(Path(name)) and Path(place, name).resolve() not in but]
        listed += [Path(place, name) for name in names if is_shown(Path(name))]
    return listed
