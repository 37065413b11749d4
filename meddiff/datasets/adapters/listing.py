"""The files of a raw dataset: the one listing of all adapters, pairs of images and masks, and what no adapter reads.

Names are compared, and become ids, in composed letters (NFC): a copy from a Mac holds them decomposed. Hidden files, such as the
`._x.png` that a Mac leaves on other file systems, are passed over without a word.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meddiff.errors import CONTROLS, MeddiffError, likewise, some

READABLE = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
NO_FORMULA = re.compile(r"(?![=+\-@\t\r])|[+-]?\d+([.,]\d+)?$")  # what a spreadsheet takes for text or a number
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".pdf", ".xlsx", ".xls", ".ods", ".docx", ".html", ".dvc", ".py", "")
_ELSEWHERE = "only images/, masks/, normal/ and unlabelled/ are read, no folders in them: move it, under a name of its own"
_NO_PLACE = "the layout has no such name or place"
_REMEDIES = (
    ((".dcm", ".dicom", ".ima"), "save DICOM as PNG, with the window that you read it in"),
    ((".nii", ".nrrd", ".mha", ".mhd", ".npy", ".npz", ".mat"), "save its slices as PNG"),
    ((".zip", ".tar", ".gz", ".7z", ".rar"), "unpack it"),
    (_TEXTS, "it is no image; patients are read from groups.json or groups.csv, parts from split.json"))


@dataclass(frozen=True)
class LeftOut:
    """Something that isn't used.

    Attributes:
        id: of a case, or a file's place below the dataset's folder.
        what: `case`, `annotation` of a case that is used, `file`, or `name` in groups.json or groups.csv.
        reason: why, and what helps.
    """

    id: str
    what: str
    reason: str


def composed(text: str) -> str:
    """A name in composed letters, in which names are compared."""
    return unicodedata.normalize("NFC", text)


def harmless(name: str) -> str:
    """A name as a table may hold it that isn't checked as an id is: UTF-8 without control characters, and no formula."""
    shown = CONTROLS.sub("�", name)
    return shown if NO_FORMULA.match(shown) else f"'{shown}"


def entry(folder: Path, *names: str) -> Path:
    """What lies in a folder under the first of `names` that is there, in capitals or not; under the first where none is."""
    near = {path.name.casefold(): path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    for name in names:
        if (folder / name).exists():
            return folder / name
        if name in near:
            return near[name]
    return folder / names[0]


def list_files(folder: Path, suffixes: Sequence[str] = READABLE) -> dict[str, Path]:
    """The files of a folder by their stem in composed letters, in order; suffixes in capitals count too.

    Raises:
        MeddiffError: the folder is missing, or files share a stem.
    """
    if not folder.is_dir():
        raise MeddiffError(folder, "the dataset's layout needs this folder",
                           "Correct `prepare.path`, or unpack the dataset as its authors publish it")
    files: dict[str, list[Path]] = defaultdict(list)
    for path in _visible(folder):
        if path.suffix.lower() in suffixes and not path.is_dir():
            files[composed(path.stem)].append(path)
    if shared := [paths for paths in files.values() if len(paths) > 1]:
        first, second, *_ = shared[0]
        how = "" if first.stem == second.stem else ", but for the encoding of its letters"
        further = likewise([paths[-1].name for paths in shared[1:]])
        raise MeddiffError(second, f"a stem must be unique, {first.name} has it too{how}{further}",
                           "Remove or rename one")
    return {stem: paths[0] for stem, paths in files.items()}


def require_pairs(images: Mapping[str, Path], masks: Mapping[str, Path], places: tuple[Path, Path], ending: str = "",
                  remedy: str = "Add the mask, or take the image out") -> None:
    """Check that images and masks have the same names.

    Args:
        images, masks: stem -> file.
        places: folders of the images and of the masks.
        ending: what a mask's stem has behind its image's.
        remedy: for an image without mask.

    Raises:
        MeddiffError: names the first images without mask, or masks without image, and what lies there instead.
    """
    for kind, other, lone, folder, what, help in (
            ("image", "mask", sorted(images.keys() - masks.keys()), places[1], ending, remedy),
            ("mask", "image", sorted(masks.keys() - images.keys()), places[0], "", "Add the image, or take the mask out")):
        if lone:
            name, own = lone[0], images if kind == "image" else masks
            stem = re.compile(rf"{re.escape(name)}(?![^\W_])", re.IGNORECASE)
            near = [path for path in _visible(folder) if stem.match(composed(path.name)) and path != own[name]]
            instead = f"; there is {near[0].name} instead: {_as_pair(near[0])}" if near else ""
            raise MeddiffError(own[name], f"{'an' if kind == 'image' else 'a'} {kind} must have its {other} "
                               f"`{folder.name}/{name}{what}.png`{instead}{likewise(lone[1:])}", help)


def unread(root: Path, used: Collection[Path], aside: str | None) -> list[LeftOut]:
    """The files of a dataset that no adapter reads.

    Args:
        root: the dataset's folder.
        used: the files that are read.
        aside: names that the layout's authors publish beside what is read, as a regular expression; then only the folders of the
            files that are read are looked at. None: all are the user's own.
    """
    tops = {root} if aside is None else {file.parent for file in used}
    links = [path for path in _visible(root) if path.is_symlink() and path.is_dir()] if aside is None else []
    files = {Path(folder, name) for top in (*tops, *links) for folder, _, names in os.walk(top)
             if is_shown(Path(folder).relative_to(root)) for name in names if is_shown(Path(name))}
    if aside is not None:
        files = {file for file in files if not re.fullmatch(aside, file.name, re.IGNORECASE)}
    rest = sorted(files - set(used))
    return [LeftOut(harmless(file.relative_to(root).as_posix()), "file", _remedy(file, aside is None)) for file in rest]


def tell_left_out(listed: Sequence[LeftOut]) -> list[str]:
    """What isn't used, a line for each kind: how many, the first names, and what helps."""
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in listed:
        folder, _, _ = each.id.rpartition("/") if each.what == "file" else ("", "", "")
        kinds[each.what, each.reason, folder.split("/")[0]].append(each.id)
    words = {"file": ("file isn't read", "files aren't read"), "name": ("name has no image", "names have no image"),
             "annotation": ("annotation isn't used", "annotations aren't used"),
             "case": ("image is left out", "images are left out")}
    return [f"{len(ids)} {words[what][len(ids) > 1]} ({some(ids)}): {reason}" for (what, reason, _), ids in kinds.items()]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_shown(Path(path.name))) if folder.is_dir() else []


def is_shown(place: Path) -> bool:
    """Whether a file isn't hidden, nor a system's own."""
    return not any(part.startswith(".") or part.lower() in _SYSTEM for part in place.parts)


def _remedy(file: Path, own: bool) -> str:
    suffix = file.suffix.lower()
    if suffix in (READABLE if own else (*READABLE, *_TEXTS)):
        return _ELSEWHERE if own else _NO_PLACE
    return next((remedy for suffixes, remedy in _REMEDIES if suffix in suffixes), "save it as PNG")


def _as_pair(file: Path) -> str:
    return "both must have one name" if file.suffix.lower() in READABLE else _remedy(file, own=True)
