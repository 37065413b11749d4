"""The files of a raw dataset: the one listing of all adapters, pairs of images and masks, and what no adapter reads.

Names are compared, and become ids, in composed letters (NFC): a copy from a Mac holds them decomposed. Hidden files, such as the
`._x.png` that a Mac leaves on other file systems, are passed over without a word.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from meddiff.errors import CONTROLS, MeddiffError, likewise

READABLE = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
NO_FORMULA = re.compile(r"(?![=+\-@\t\r])|[+-]?\d+([.,]\d+)?$")  # what a spreadsheet takes for text or a number
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".pdf", ".xlsx", ".xls", ".ods", ".docx", ".html", ".dvc", ".py", "")
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "original", "originals", "inputs", "input", "data", "jpegimages"}
MASK_FOLDERS = {"masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "segmentation", "groundtruth",
                "groundtruths", "gt", "segmentationclass"}
_NO_PLACES = IMAGE_FOLDERS | {"normal", "unlabelled", "unlabeled"}  # folders that say what an image is, not which
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}
ELSEWHERE = "only images/, masks/, normal/ and unlabelled/ are read, no folders in them: move it, under a name of its own"
_NO_PLACE = "the layout has no such name or place"
_DICOM, _VOLUMES = (".dcm", ".dicom", ".ima"), (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_REMEDIES = (
    (_DICOM, "DICOM is read from a folder of its own, by --dataset dicom"),
    (_VOLUMES, "volumes are read from a folder of their own, by --dataset volumes"),
    ((".npy", ".npz", ".mat"), "save its slices as PNG"),
    ((".zip", ".tar", ".gz", ".7z", ".rar"), "unpack it"))
_NO_IMAGE = "it is no image; patients are read from groups.json or groups.csv, parts from split.json"
LONE_IMAGE = "Add the mask, or move the image to unlabelled/"
RECIPE = "docs/how-to/prepare-a-dataset.md#kinds-beside-each-other has a recipe"


_T = TypeVar("_T")


@dataclass(frozen=True)
class LeftOut:
    """Something that isn't used, or is flagged.

    Attributes:
        id: of a case, or a file's place below the dataset's folder.
        what: `case`, `patient` (a salted hash), `annotation` of a case that is used, `file`, `name` in groups.json or groups.csv,
            `frames` of a file that gives others, or `flag` of a case that is used and should be looked at.
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


def files_below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder and of all below it with these suffixes, in order; hidden ones are passed over."""
    return [path for path in _all_below(root) if path.suffix.lower() in suffixes]


def count_suffixes(root: Path) -> dict[str, int]:
    """How many files of each suffix lie below a folder, the most first."""
    return dict(Counter(ending_of(path).lower() for path in _all_below(root)).most_common())


def folder_word(name: str) -> str:
    """A folder's name without capitals and what stands between words, as in `Ground Truth`."""
    return re.sub(r"[\W_]+", "", composed(name).casefold())


def picture_stems(root: Path) -> dict[Path, str]:
    """The picture files of a folder and of all below it, and their names without suffix."""
    return {file: file.stem for file in files_below(root, READABLE)}


def place_ids(root: Path, files: Iterable[Path], stems: Mapping[Path, str] | None = None,
              passed: Collection[str] = ()) -> dict[Path, str]:
    """Ids of files in nested folders: the steps below the folder that they share, without such as `images`, joined by `_`.

    Args:
        stems: names without suffix, where a suffix has several dots.
        passed: further words of folders that say what an image is, not which.
    """
    steps = {file: file.relative_to(root).parent.parts for file in files}
    ends = min(steps.values(), default=()), max(steps.values(), default=())
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*ends, strict=False)))
    return {file: "_".join([*(composed(step) for step in parts[shared:] if folder_word(step) not in _NO_PLACES.union(passed)),
                            composed((stems or {}).get(file, file.stem))]) for file, parts in steps.items()}


def parts_of(words: Mapping[_T, Iterable[str]]) -> dict[_T, str]:
    """Which part each is of by the words of its place, such as the folders `train` and `test2017`; nothing unless each is of one.

    Where a part isn't there, the training part is divided, so that it is no preset then.
    """
    named = {each: {part for word in own if (part := _PARTS.get(folder_word(word).rstrip("0123456789")))}
             for each, own in words.items()}
    parts = {each: min(own) for each, own in named.items() if len(own) == 1}
    there = set(parts.values())
    if len(parts) < len(named) or "train" not in there or len(there) < 2:
        return {}
    return {each: part for each, part in parts.items() if len(there) == 3 or part != "train"}


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
            instead = f"; there is {near[0].name} instead: {_as_pair(near[0], own[name])}" if near else ""
            raise MeddiffError(own[name], f"{'an' if kind == 'image' else 'a'} {kind} must have its {other} "
                               f"`{folder.name}/{name}{what}{_meant(own[name])}`{instead}{likewise(lone[1:])}", help)


def unread(root: Path, used: Collection[Path], aside: str, elsewhere: str,
           explain: Callable[[Path], str] | None = None) -> list[LeftOut]:
    """The files of a dataset that no adapter reads.

    Args:
        root: the dataset's folder.
        used: the files that are read.
        aside: names that lie beside what is read rightly, as a regular expression.
        elsewhere: what helps with a picture file; empty where only the folders of the files that are read are the user's.
        explain: why a file isn't read and what helps, empty for one that nobody misses; None: as its suffix tells.
    """
    files = set(_all_below(root)) if elsewhere else {
        Path(folder, name) for top in {file.parent for file in used} for folder, _, names in os.walk(top)
        if is_shown(Path(folder).relative_to(root)) for name in names if is_shown(Path(name))}
    rest = sorted(file for file in files - set(used) if not re.fullmatch(aside, file.name, re.IGNORECASE))
    return [LeftOut(harmless(file.relative_to(root).as_posix()), "file", reason) for file in rest
            if (reason := explain(file) if explain else _remedy(file, elsewhere))]


def ending_of(file: Path) -> str:
    """A file's suffix, such as `.png` or `.nii.gz`; empty for a number, as in names that are UIDs."""
    match = re.search(r"(\.(nii|seg|tar))?\.[a-z]\w*$", file.name, re.IGNORECASE)
    return match[0] if match else ""


def visible_files(root: Path) -> list[Path]:
    """The files below a folder, at any depth, without hidden ones and those of the system, in order."""
    return sorted(_all_below(root))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_shown(Path(path.name))) if folder.is_dir() else []


def is_shown(place: Path) -> bool:
    """Whether a file isn't hidden, nor a system's own."""
    return not any(part.startswith(".") or part.lower() in _SYSTEM for part in place.parts)


def _all_below(root: Path) -> list[Path]:
    links = [path for path in _visible(root) if path.is_symlink() and path.is_dir()]
    return sorted({Path(folder, name) for top in (root, *links) for folder, _, names in os.walk(top)
                   if is_shown(Path(folder).relative_to(root)) for name in names if is_shown(Path(name))})


def _remedy(file: Path, elsewhere: str) -> str:
    name, suffix = file.name.lower(), file.suffix.lower()
    if suffix in (READABLE if elsewhere else (*READABLE, *_TEXTS)):
        return elsewhere or _NO_PLACE
    if suffix in _TEXTS:
        return _NO_IMAGE
    return next((remedy for suffixes, remedy in _REMEDIES if name.endswith(suffixes)), "save it as PNG")


def _as_pair(file: Path, other: Path) -> str:
    clinical = [each.name.lower().endswith(_DICOM + _VOLUMES) for each in (file, other)]
    if _meant(file) == _meant(other):
        return "both must have one name"
    return f"both must be of one kind ({RECIPE})" if any(clinical) else _remedy(file, ELSEWHERE)


def _meant(file: Path) -> str:
    """The suffix that a counterpart of a file may have."""
    return ".png" if file.suffix.lower() in READABLE else ending_of(file)
