"""Images alone, wherever they lie: what a trained segmenter is given."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from meddiff.datasets.adapters.dicom import dicom_frames
from meddiff.datasets.adapters.dicom_headers import is_dicom
from meddiff.datasets.adapters.listing import READABLE, composed, is_shown
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.adapters.volumes import volume_slices, volume_suffix
from meddiff.environment import require_extra
from meddiff.errors import MeddiffError, joined


def list_inputs(path: Path, but: Collection[Path] = (), slicing: Slicing | None = None
                ) -> tuple[list[RawCase], list[Path], list[MeddiffError]]:
    """Every picture of a folder, nested ones too, or of one file: picture files, frames of DICOM files and slices of volumes.

    A case's id is where its outputs go: its place below the folder without ending, which stays where two files would share it;
    of DICOM files modality and a hash, as in the layout `dicom`.

    Args:
        path: file or folder.
        but: folders that are passed over, such as that of the outputs.
        slicing: window and axis; every frame and slice is taken.

    Returns:
        The cases without annotation, by id; the other files that lie there, hidden ones left out; the faults of volumes whose
        header can't be read.

    Raises:
        MeddiffError: nothing is there, or no picture.
    """
    if not path.exists():
        raise MeddiffError(path, "a picture or a folder of pictures must be there", "Correct the path")
    root, files = (path, _files(path, but)) if path.is_dir() else (path.parent, [path])
    slicing = slicing or Slicing()
    pictures = {file: file.suffix for file in files if file.suffix.lower() in READABLE}
    volumes = {file: suffix for file in files if (suffix := volume_suffix(file))}
    places = {file: composed(file.relative_to(root).as_posix()) for file in (*pictures, *volumes)}
    stems = {file: place.removesuffix({**pictures, **volumes}[file]) for file, place in places.items()}
    shared = Counter(stem.casefold() for stem in stems.values())
    names = {file: stem if shared[stem.casefold()] == 1 else places[file] for file, stem in stems.items()}
    cases = [RawCase(names[file], file, ()) for file in pictures]
    faults = dict[Path, MeddiffError]()
    if volumes:
        require_extra("volumes", "SimpleITK")
    for file in volumes:
        try:
            cases += volume_slices(file, names[file], slicing)
        except MeddiffError as fault:
            faults[file] = fault
    if frames := [file for file in files if file not in names and is_dicom(file)]:
        cases += dicom_frames(frames, slicing)
    if not cases and faults:
        raise joined(list(faults.values()))
    if not cases:
        raise MeddiffError(path, f"there must be a picture ({', '.join(READABLE)}), a DICOM image or a volume",
                           "Name another place, or save images as PNG")
    used = {case.file for case in cases} | faults.keys()
    others = sorted(file for file in files if file not in used)
    return sorted(cases, key=lambda case: case.id), others, list(faults.values())


def _files(folder: Path, but: Collection[Path]) -> list[Path]:
    listed = list[Path]()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if is_shown(Path(name)) and Path(place, name).resolve() not in but]
        listed += [Path(place, name) for name in names if is_shown(Path(name))]
    return listed
