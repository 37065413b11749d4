"""From raw cases to a split: each is decoded, checked and made square, then all find their parts; and what to tell of it.

Pixels go to a callback one case at a time, so that thousands of large images never lie in memory together.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from meddiff.cases import DEEP, Frame, Pixels, sha256_once
from meddiff.datasets.adapters import RawCase, decode, fit_square, in_memory, read
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.burned_text import shows_text
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.leakage import photographed
from meddiff.datasets.neighbours import Neighbours, find_neighbours
from meddiff.datasets.plausibility import MaskMeasures, count_lesions, measure, refuse_colours, tell_masks
from meddiff.datasets.splits import (
    SPLITS,
    Member,
    Split,
    choose_labelled,
    merged_groups,
    near_duplicates,
    split,
    thumbnail,
    with_unannotated,
)
from meddiff.errors import MeddiffError, joined
from meddiff.params import PrepareParams
from meddiff.progress import Report, silent

_PHANTOMS = 0  # their seed: the demo is one dataset, whatever `prepare.seed` chooses from it
_GRAY = ("1", "L", "LA", *DEEP)   # pixel formats of one channel
_TRAITS = {
    "turned": "images were turned as their EXIF orientation says",
    "as_stored": "images have an EXIF orientation that their masks' sizes don't follow: they weren't turned",
    "min_is_white": "cases have TIFF files tagged MinIsWhite, or DICOM files of MONOCHROME1: they are read as viewers show them",
    "windowed": "images have more than 8 bits and were windowed, as their DICOM file or `prepare.window` says",
    "deep_colour": "cases have files of 16 bits a colour channel: the upper 8 are kept",
    "halos": "masks are JPEG files whose gray levels near black and white became these",
}


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """What is known of a case whose square image and mask were handed on.

    Attributes:
        raw: where it came from.
        label: class of the largest part of the mask, 0 where it is empty.
        vanished: the mask holds something at the original size, but nothing at the chosen one.
        frame: the part of the square that shows the image.
        mode, colours, traits: of the raw files, see `adapters.Original`; and `text` where some seems to be burned in.
        raw_sha256: of the raw image file, empty for an image that never was one.
        thumbnails: `[2, 32, 32]` float32 gray levels, of the original frame and of the same at the chosen size.
        measures: of the mask.
        empty: an annotation is there and holds nothing, of an image that isn't declared lesion-free.
    """

    raw: RawCase
    label: int
    vanished: bool
    frame: Frame
    mode: str
    raw_sha256: str
    thumbnails: NDArray[np.float32]
    measures: MaskMeasures
    colours: frozenset[str]
    traits: frozenset[str]
    empty: bool

    @property
    def lesion(self) -> bool:
        """Whether the mask holds anything."""
        return self.label > 0

    @property
    def columns(self) -> tuple[int, int, int, int, str, str, str]:
        """The last ones of its row in the tables: frame, mode, SHA-256 and patient."""
        return *astuple(self.frame), self.mode, self.raw_sha256, self.raw.group

    @property
    def usable(self) -> bool:
        """Whether it has a place in the split: without annotation only in the training part."""
        return not self.vanished and (self.raw.annotated or self.raw.part in (None, "train"))


@dataclass(frozen=True, eq=False)
class Division:
    """Who is where.

    Attributes:
        parts: the split of the usable cases.
        labelled: ids of the training cases whose annotation the chain may see.
        choosable_groups: groups of the annotated training cases, which these were chosen from.
        cases: the usable ones by id: those that didn't vanish.
        pairs: `[P, 2]` near-duplicates among them.
        neighbours: among those whose patient nobody knows; frames of a video are of one group where the dataset has no split.
    """

    parts: Split
    labelled: tuple[str, ...]
    choosable_groups: int
    cases: dict[str, PreparedCase]
    pairs: NDArray[np.intp]
    neighbours: Neighbours

    def annotated(self, part: str) -> set[str]:
        """Ids of the cases of a part whose masks the chain may see."""
        return set(self.labelled if part == "train" else self.parts.parts[part])


def list_cases(folder: Path, settings: PrepareParams) -> list[RawCase]:
    """The raw cases of the dataset at `folder`, or the phantoms of the demo.

    Raises:
        MeddiffError: the folder breaks a rule of its layout, see `adapters`.
    """
    if settings.dataset == "demo":
        return [in_memory(case) for lesion, n in ((True, settings.demo_cases), (False, settings.demo_normal))
                for case in make_phantoms(n, lesion, settings.size, settings.demo_modality, _PHANTOMS,
                                          len(settings.classes), settings.demo_lesions)]
    return read(settings.dataset, folder, settings.classes, settings.group_pattern, Slicing.chosen(settings))


def prepare_cases(cases: Sequence[RawCase], settings: PrepareParams, threads: int, keep: Callable[[str, Pixels, Pixels], None],
                  report: Report = silent) -> list[PreparedCase]:
    """Decode, check and resize each case; as many are in memory as there are threads.

    Args:
        keep: gets the id, the image `[S, S, 3]` uint8 and the mask `[S, S]` uint8 of 0 to K (empty without annotation) of each.

    Raises:
        MeddiffError: images or masks break a rule, see `adapters`: all of them are named.
    """
    prepared, faults, pool = list[PreparedCase](), list[MeddiffError](), ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():  # of large images: those that are too large are refused
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for case in pool.map(lambda raw: _prepare(raw, settings, keep), cases):
                if isinstance(case, MeddiffError):
                    faults.append(case)
                else:
                    prepared.append(case)
                report(len(prepared) + len(faults), len(cases), {})
    finally:
        pool.shutdown(cancel_futures=True)
    if faults:
        raise joined(faults)
    refuse_colours({case.raw.id: case.colours for case in prepared})
    return prepared


def divide(cases: Sequence[PreparedCase], settings: PrepareParams) -> Division:
    """Split the cases that didn't vanish, and choose the labelled ones.

    Raises:
        MeddiffError: the split breaks a rule (see `splits`), or the dataset has no (labelled) lesion of a class.
    """
    usable = sorted((case for case in cases if case.usable), key=lambda case: not case.raw.annotated)
    if not any(case.lesion for case in usable):
        raise MeddiffError(settings.path, "one mask at least must hold a lesion", "Check the masks: all are empty")
    pairs = _near_duplicates(usable, settings.duplicate_bits)
    neighbours, divided = _neighbours(usable), any(case.raw.part for case in usable)
    linked = pairs if divided else np.concatenate([pairs, neighbours.pairs])  # the dataset's own parts hold, whatever is found
    members = _members([case for case in usable if case.raw.annotated], divided, settings)
    others = {case.raw.id: case.raw.group or case.raw.id for case in usable if not case.raw.annotated}
    among = pairs[(pairs < len(members)).all(axis=1)]
    parts = with_unannotated(split(members, among, settings.val_fraction, settings.test_fraction), members, others, linked)
    known = {case.raw.id: case for case in usable}
    labels = {id: known[id].label for id in parts.parts["train"] if known[id].raw.annotated}
    ids = np.array([case.raw.id for case in usable])
    near = {frozenset(pair) for pair in ids[pairs].tolist()}
    labelled = choose_labelled(labels, parts.groups, settings.n_labelled, settings.seed, labels, near)
    for label, name in enumerate(settings.classes, start=1):
        if label not in {labels[id] for id in labelled}:
            raise MeddiffError("prepare.classes", f"every class must have a labelled training case, `{name}` has none",
                               "Raise `prepare.n_labelled`, add cases of this class, or leave the class out")
    return Division(parts, labelled, len({parts.groups[id] for id in labels}), known, pairs, neighbours)


def count_cases(cases: Sequence[PreparedCase], division: Division, classes: Sequence[str],
                photographs: Mapping[str, str]) -> dict[str, float]:
    """Numbers by which a preparation is judged, of all cases and, where there are several classes, of each class.

    Args:
        photographs: file name -> SHA-256 of the images on which the shipped foundation was trained.
    """
    parts = division.parts
    test = {case.raw.id: case for case in cases if case.raw.id in set(parts.parts["test"])}
    ids, labelled = list(division.cases), set(division.labelled)
    shipped = photographed({id: case.raw_sha256 for id, case in test.items()}, photographs)
    used = [division.cases[id].mode for ids in (*parts.parts.values(), parts.backgrounds) for id in ids]
    groups = {**parts.parts, "labelled": division.labelled}
    by_class: dict[str, float] = {
        f"{part}_{name}": sum(division.cases[id].label == label for id in ids) for part, ids in groups.items()
        for label, name in enumerate(classes, start=1) if len(classes) > 1}
    return {"images": len(cases), **{part: len(ids) for part, ids in parts.parts.items()}, "labelled": len(labelled),
            "labelled_groups": len({parts.groups[id] for id in labelled}), "choosable_groups": division.choosable_groups,
            "labelled_repeats": len({ids[j] for i, j in division.pairs if {ids[i], ids[j]} <= labelled}),
            **{f"{part}_lesion_free": sum(not division.cases[id].lesion for id in parts.parts[part]) for part in ("val", "test")},
            "test_in_foundation": len(shipped),
            "groups": len(set(parts.groups.values())), "near_duplicate_pairs": len(division.pairs),
            "neighbour_pairs": len(division.neighbours.pairs), "without_patient": sum(not case.raw.group for case in cases),
            "unannotated": len(parts.unannotated), "left_out_unannotated": len(parts.dropped_unannotated),
            "left_out_vanished": sum(case.vanished for case in cases),
            "left_out_duplicates": len(parts.dropped), "left_out_lesion_free": len(parts.dropped_backgrounds),
            "empty_masks": sum(case.empty for case in cases), **count_lesions(case.measures for case in cases),
            **{trait: sum(trait in case.traits for case in cases) for trait in _TRAITS},
            "backgrounds_normal": len(parts.backgrounds), **by_class,
            "gray_images": sum(mode in _GRAY for mode in used), "deep_images": sum(mode in DEEP for mode in used)}


def tell_cases(cases: Sequence[PreparedCase], counts: Mapping[str, float], settings: PrepareParams) -> list[str]:
    """What a user must know of the split and the masks, one line each; `counts` are those of `count_cases`."""
    lines = ["{train} training ({labelled} labelled), {val} validation and {test} test cases; "
             "{backgrounds_normal} lesion-free images",
             "the labelled cases span {labelled_groups} of the {choosable_groups} groups of annotated training cases"]
    notes = {"unannotated": "of the training cases have no annotation at all: the foundation learns from them, and lesions found "
             "in them make sites",
             "left_out_unannotated": "images without annotation left out: a relative or near-duplicate is in validation or test",
             "left_out_vanished": "cases left out: their lesion is smaller than a pixel at this size",
             "left_out_duplicates": "cases left out: near-duplicates of cases in a later part of the dataset's own split",
             "labelled_repeats": "of the labelled cases are near-duplicates of others: no other cases are left",
             "left_out_lesion_free": "lesion-free images left out: a near-duplicate has a lesion, or is in a later part",
             "val_lesion_free": "of the validation cases are lesion-free: `segment.decision_cost` learns from them what is none",
             "test_lesion_free": "of the test cases are lesion-free: what is found in them is false",
             "test_in_foundation": "test cases are photographs that the foundation `embedded` was trained on: set "
             "`foundation.source` to `scratch` or make another split, else `evaluate` will refuse them",
             "gray_images": "images have one channel: it stands in red, green and blue alike",
             "deep_images": "images have more than 8 bits: the 0.1th to 99.9th percentile of each, or of its volume, became 0 to "
             "255", **_TRAITS}
    lines += [f"{{{name}}} {note}" for name, note in notes.items() if counts[name]]
    if len(settings.classes) > 1:
        lines += [f"{name}: " + ", ".join(f"{{{part}_{name}}} {part}" for part in ("train", "labelled", "val", "test"))
                  for name in settings.classes]
    if counts["labelled"] < settings.n_labelled:
        lines.append(f"`prepare.n_labelled` is {settings.n_labelled}; there are {{labelled}} annotated training cases, all are "
                     "labelled")
    empty = [case.raw.id for case in cases if case.empty]
    return [*(line.format(**counts) for line in lines),
            *tell_masks({case.raw.id: case.measures for case in cases if case.raw.masks}, empty, settings)]


def _prepare(raw: RawCase, settings: PrepareParams, keep: Callable[[str, Pixels, Pixels], None]) -> PreparedCase | MeddiffError:
    try:
        case = decode(raw)
    except MeddiffError as fault:
        return fault
    fitted = fit_square(case.image, case.mask, settings.size, settings.fit, case.steps)
    areas = np.bincount(fitted.mask.ravel(), minlength=2)[1:]
    label = int(areas.argmax()) + 1 if areas.any() else 0
    empty = bool(raw.masks) and not raw.lesion_free and not case.mask.any()
    if empty and settings.empty_masks == "unannotated":
        raw = replace(raw, masks=())
    keep(raw.id, fitted.image, fitted.mask)
    frame = fitted.image[fitted.frame.top:, fitted.frame.left:][:fitted.frame.height, :fitted.frame.width]
    raw_sha256 = sha256_once(raw.file) if raw.file else ""
    traits = case.traits | {"text"} if raw.file and shows_text(case.image) else case.traits
    return PreparedCase(raw, label, bool(case.mask.any()) and not label, fitted.frame, case.mode, raw_sha256,
                        np.stack([thumbnail(case.image), thumbnail(frame)]), measure(case.mask, fitted.mask, fitted.frame),
                        case.colours, traits, empty)


def _near_duplicates(cases: Sequence[PreparedCase], bits: int) -> NDArray[np.intp]:
    """Pairs at the original size or at the chosen one, in which `evaluate` looks for leaks: at the bounds the two differ."""
    sizes = np.stack([case.thumbnails for case in cases], axis=1)
    return np.unique(np.concatenate([near_duplicates(thumbnails, bits) for thumbnails in sizes]), axis=0)


def _members(cases: Sequence[PreparedCase], divided: bool, settings: PrepareParams) -> list[Member]:
    """The annotated cases by group; frames of a video are one, which no image without annotation may change."""
    groups = [case.raw.group or case.raw.id for case in cases]
    if not divided and (near := _neighbours(cases)).video:
        groups = merged_groups(groups, near.pairs)
        if len({group for case, group in zip(cases, groups, strict=True) if case.lesion}) < len(SPLITS):
            raise MeddiffError(settings.path, "three groups at least must have a lesion, but the images look like frames of one "
                               f"video: {near.alike} of {near.compared} resemble the next by name as 1 % of others do",
                               "Name groups in groups.json or groups.csv; `prepare.group_pattern: (.+)` makes each image one")
    return [Member(case.raw.id, group, case.lesion, case.raw.part, case.label) for case, group in zip(cases, groups, strict=True)]


def _neighbours(cases: Sequence[PreparedCase]) -> Neighbours:
    """Of the cases whose patient nobody knows, with indices of `cases`."""
    places = np.array([i for i, case in enumerate(cases) if not case.raw.group], np.intp)
    if not places.size:
        return Neighbours(np.empty((0, 2), np.intp))
    made = find_neighbours([cases[i].raw.id for i in places], np.stack([cases[i].thumbnails[0] for i in places]))
    return replace(made, pairs=places[made.pairs])
