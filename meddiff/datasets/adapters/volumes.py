"""The layout `volumes`: images and masks as NIfTI, NRRD or MetaImage, in two dimensions or three, by the same stem."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from meddiff.datasets.adapters.guesses import other_reading
from meddiff.datasets.adapters.listing import LONE_IMAGE, composed, entry, require_pairs, visible_files
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.slicing import Slicing, class_by_name, evenly
from meddiff.datasets.adapters.volume_headers import VolumeHeader, read_volume_header
from meddiff.datasets.adapters.volume_pixels import VolumeMask, VolumeSlice, label_values, read_labels, values_by_slice
from meddiff.environment import require_extra
from meddiff.errors import MeddiffError, joined, likewise

_SUFFIXES = (".nii", ".nii.gz", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
_SINGLE = "Name the classes in `prepare.classes`, or save the mask of the lesion alone"


def volumes(path: Path, classes: Sequence[str] = ("lesion",), slicing: Slicing | None = None) -> list[RawCase]:
    """Pairs `images/STEM.*` and `masks/STEM.*` (or STEM.seg.nrrd), or nnU-Net's `imagesTr/STEM_0000.*` and `labelsTr/STEM.*`,
    else what `guesses` reads.

    A volume is cut into slices, which are of one group. All slices with a lesion are cases, and `slicing.frames` of its others,
    which are lesion-free; a volume of `unlabelled/` or `normal/` gives as many. Masks, whose content decides which slices are
    cases, are read here; of images the header alone.

    Raises:
        MeddiffError: see `read`; or volumes can't be read, or masks don't lie on their images or hold other values than classes:
            all are named.
    """
    require_extra("volumes", "SimpleITK")
    slicing = slicing or Slicing()
    places = entry(path, "images", "imagesTr"), entry(path, "masks", "labelsTr")
    images, masks = (_files(place) for place in places)
    if guess := other_reading(path, _stems(path), images, masks):
        every = [(stem, file, guess.masks.get(file), file in guess.free) for file, stem in guess.ids.items()]
    else:
        require_pairs(images, masks, places, remedy=LONE_IMAGE)
        normal, unlabelled = (_files(entry(path, *names)) for names in (("normal",), ("unlabelled", "unlabeled", "imagesTs")))
        every = [(stem, file, masks.get(stem) if files is images else None, files is normal)
                 for files in (images, normal, unlabelled) for stem, file in files.items()]
    parts = guess.parts if guess else {}
    headers, faults = dict[Path, VolumeHeader](), list[MeddiffError]()
    for file in (file for _, image, mask, _ in every for file in (image, mask) if file):
        try:
            headers[file] = read_volume_header(file)
        except MeddiffError as fault:
            faults.append(fault)
    names = {name for header in headers.values() for _, _, name in header.segments}
    label_of = class_by_name(names, classes, path)
    cases = list[RawCase]()
    for stem, image, mask, free in every:
        if image in headers and (mask is None or mask in headers):
            try:
                drawn = _drawn(headers[mask], image, label_of, classes) if mask else ()
                segments = headers[mask].segments if mask else ()
                cases += [replace(case, part=parts.get(image)) for case in
                          _slices(stem, headers[image], mask, drawn, segments, free, slicing, len(classes))]
            except MeddiffError as fault:
                faults.append(fault)
    if faults:
        raise joined(faults)
    return cases


def count_volumes(path: Path) -> int:
    """How many files of a folder, at any depth, are volumes by their names."""
    return sum(bool(volume_suffix(file)) for file in visible_files(path))


def volume_suffix(file: Path) -> str:
    """By which a file is a volume; empty where it is none."""
    return next((file.name[-len(suffix):] for suffix in _SUFFIXES if file.name.lower().endswith(suffix)), "")


def volume_slices(file: Path, name: str, slicing: Slicing) -> list[RawCase]:
    """Every slice of a volume file, `NAME` or `NAME_INDEX`.

    Raises:
        MeddiffError: its header can't be read.
    """
    require_extra("volumes", "SimpleITK")
    header = read_volume_header(file)
    return [_case(name, header, index, slicing) for index in range(header.slices(slicing.axis))]


def explain_volume(ids: Collection[str], file: Path) -> str:
    """Why a file that no case is read from isn't used, and what helps."""
    heads = (file.with_suffix(suffix) for suffix in (".mhd", ".nhdr"))
    if file.suffix.lower() in (".raw", ".zraw") and any(head.exists() for head in heads):
        return ""
    if not volume_suffix(file):
        return "it is no volume: NIfTI, NRRD and MetaImage are read"
    if file.parent.name.startswith("imagesT"):
        return "of several channels the first, _0000, is read"
    return "it is of no pair of image and mask, nor in normal/ or unlabelled/: name masks after their images, in masks/"


def _stems(root: Path) -> dict[Path, str]:
    """The volume files below a folder and their names without suffix, `a_seg` for `a.seg.nrrd` beside `a.nrrd`."""
    suffixes = {file: suffix for file in visible_files(root) if (suffix := volume_suffix(file))}
    stems = {file: file.name.removesuffix(suffix) for file, suffix in suffixes.items()}
    taken = {(file.parent, stem) for file, stem in stems.items() if suffixes[file] != ".seg.nrrd"}
    return {file: f"{stem}_seg" if suffixes[file] == ".seg.nrrd" and (file.parent, stem) in taken else stem
            for file, stem in stems.items()}


def _files(folder: Path) -> dict[str, Path]:
    """The volume files of a folder by their stem in composed letters, without nnU-Net's channel number."""
    files: dict[str, list[Path]] = {}
    nnunet = folder.name.startswith("imagesT")
    for file in (file for file in visible_files(folder) if file.parent == folder):
        suffix = volume_suffix(file)
        if suffix and not (nnunet and re.search(r"_000[1-9]$", file.name[:-len(suffix)])):
            stem = composed(file.name[:-len(suffix)])
            files.setdefault(stem.removesuffix("_0000") if nnunet else stem, []).append(file)
    if shared := [paths for paths in files.values() if len(paths) > 1]:
        first, second, *_ = shared[0]
        further = likewise([each[-1].name for each in shared[1:]])
        raise MeddiffError(second, f"a stem must be unique, {first.name} has it too{further}", "Remove or rename one")
    return {stem: paths[0] for stem, paths in files.items()}


def _drawn(mask: VolumeHeader, image: Path, label_of: Callable[[int, str], int], classes: Sequence[str]
           ) -> tuple[tuple[int, int, int], ...]:
    """Layer, value and class of what a mask file draws.

    Raises:
        MeddiffError: it holds other values than the classes.
    """
    if mask.segments:
        return tuple((layer, value, label) for number, (layer, value, name) in enumerate(mask.segments, start=1)
                     if (label := label_of(number, name)))
    values = label_values(mask.path)
    if len(classes) == 1 and len(values) > 1:
        raise MeddiffError(mask.path, f"a mask of one class holds one value beside 0, this one {len(values)}", _SINGLE)
    if len(classes) == 1:
        return tuple((layer, value, 1) for layer, value in values)
    if wrong := [value for _, value in values if value not in range(1, len(classes) + 1)]:
        raise MeddiffError(mask.path, f"a mask of {len(classes)} classes holds the indices 0 to {len(classes)}, this one holds "
                           f"{wrong[0]}", "Name every class in `prepare.classes`")
    return tuple((layer, value, value) for layer, value in values)


def _slices(stem: str, image: VolumeHeader, mask: Path | None, drawn: tuple[tuple[int, int, int], ...],
            segments: Sequence[tuple[int, int, str]], free: bool, slicing: Slicing, classes: int) -> list[RawCase]:
    """The cases of one volume."""
    total = image.slices(slicing.axis)
    held = values_by_slice(read_labels(mask, image.path, drawn)[0], slicing.axis) if mask else []
    marked = [index for index, values in enumerate(held) if values]
    empty = evenly([index for index in range(total) if index not in set(marked)], slicing.frames)
    # A mask that holds nothing at all says of no slice that it is lesion-free, see `prepare.empty_masks`.
    blank = mask is not None and not marked
    names = _names(segments, mask, image, slicing.axis) if mask else {}
    return [replace(_case(stem, image, index, slicing), lesion_free=free or bool(marked and index not in marked), classes=classes,
                    masks=(VolumeMask(mask, image.path, slicing.axis, index, drawn),)
                    if mask and (blank or index in marked) else (), categories=names.get(index, ()))
            for index in sorted([*marked, *empty])]


def _names(segments: Sequence[tuple[int, int, str]], mask: Path, image: VolumeHeader, axis: str) -> dict[int, tuple[str, ...]]:
    """Slice -> names of the segments seen there, of which a later one may hide an earlier."""
    numbered = tuple((layer, value, number) for number, (layer, value, _) in enumerate(segments[:255], start=1))
    found = values_by_slice(read_labels(mask, image.path, numbered)[0], axis) if numbered else []
    return {index: tuple(segments[number - 1][2] for number in numbers) for index, numbers in enumerate(found)}


def _case(name: str, image: VolumeHeader, index: int, slicing: Slicing) -> RawCase:
    """A slice of a volume, without annotation: `NAME`, or of several `NAME_INDEX`, which are of one group."""
    total = image.slices(slicing.axis)
    return RawCase(name if total == 1 else f"{name}_{index:04d}",
                   VolumeSlice(image.path, slicing.axis, index, total, slicing.window), (), "" if total == 1 else name)
