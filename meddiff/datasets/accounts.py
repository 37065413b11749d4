"""What a preparation counts, leaves out, merges and cannot know, for tables and for the user."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meddiff.cases import DEEP
from meddiff.datasets.adapters import LeftOut
from meddiff.datasets.leakage import photographed
from meddiff.datasets.neighbours import standardised
from meddiff.datasets.plausibility import count_lesions, tell_masks
from meddiff.datasets.preparation import Division, PreparedCase
from meddiff.params import PrepareParams

_GRAY = ("1", "L", "LA", *DEEP)   # pixel formats of one channel
_TRAITS = {
    "turned": "images were turned as their EXIF orientation says",
    "as_stored": "images have an EXIF orientation that their masks' sizes don't follow: they weren't turned",
    "min_is_white": "cases have TIFF files tagged MinIsWhite, or DICOM files of MONOCHROME1: they are read as viewers show them",
    "windowed": "images have more than 8 bits and were windowed, as their DICOM file or `prepare.window` says",
    "deep_colour": "cases have files of 16 bits a colour channel: the upper 8 are kept",
    "halos": "masks are JPEG files whose gray levels near black and white became these",
}


@dataclass(frozen=True)
class SimilarPair:
    """Two images that are of one group by their look.

    Attributes:
        first, second: ids.
        kind: `near-duplicate`, turned and cropped copies too, or `frames` that follow each other in a video.
        correlation: of their thumbnails, -1 to 1; 0 for blank ones.
        group: of both; empty where one is left out.
    """

    first: str
    second: str
    kind: str
    correlation: float
    group: str


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


def left_out_cases(cases: Sequence[PreparedCase], division: Division) -> list[LeftOut]:
    """Every case that is in no part, and every annotation that holds nothing, and why."""
    parts = division.parts
    reasons = (("its lesion is smaller than a pixel at this size: raise `prepare.size`",
                [case.raw.id for case in cases if case.vanished]),
               ("its mask holds nothing, and the dataset's own split puts it into validation or test",
                [case.raw.id for case in cases if not case.usable and not case.vanished]),
               ("a near-duplicate is in a later part of the dataset's own split", parts.dropped),
               ("it is lesion-free, but a near-duplicate has a lesion, or is in a later part of the dataset's own split",
                parts.dropped_backgrounds),
               ("it has no annotation, and a relative or near-duplicate is in validation or test", parts.dropped_unannotated))
    empty = [LeftOut(case.raw.id, "annotation", "its mask holds nothing: the image counts as "
                     + ("lesion-free" if case.raw.masks else "not annotated")) for case in cases if case.empty and case.usable]
    return [*(LeftOut(id, "case", reason) for reason, ids in reasons for id in ids), *empty]


def flagged_cases(cases: Sequence[PreparedCase]) -> list[LeftOut]:
    """The images that may show whose they are: text is burned in as their file says, or as it seems."""
    reasons = {"burned_in": "its DICOM header says that text is burned in: look whether it names anyone",
               "text": "it seems to hold burned-in text: look whether it names anyone"}
    return [LeftOut(case.raw.id, "flag", reason) for trait, reason in reasons.items() for case in cases if trait in case.traits]


def similar_pairs(division: Division) -> list[SimilarPair]:
    """The near-duplicates and the frames of a video, each pair once."""
    cases, groups, neighbours = list(division.cases.values()), division.parts.groups, division.neighbours
    kinds = {tuple(pair): "frames" for pair in neighbours.pairs.tolist()}
    kinds |= {tuple(pair): "near-duplicate" for pair in division.pairs.tolist()}
    seen, rows = standardised(np.stack([case.thumbnails[0] for case in cases])), []
    for (i, j), kind in sorted(kinds.items()):
        first, second = cases[i].raw.id, cases[j].raw.id
        group = groups.get(first, "") if groups.get(first) == groups.get(second) else ""
        rows.append(SimilarPair(first, second, kind, round(float(seen[i] @ seen[j]), 4), group))
    return rows


def tell_groups(division: Division, pairs: Sequence[SimilarPair]) -> list[str]:
    """What a user must know of patients, near-duplicates and videos, one line each.

    Args:
        division: the split.
        pairs: `similar_pairs` of it.
    """
    cases, near, lines = division.cases.values(), division.neighbours, list[str]()
    side = {id: part for part, ids in division.parts.parts.items() for id in ids}
    side |= dict.fromkeys(division.parts.backgrounds, "train")
    for kind, words in (("near-duplicate", "near-duplicates"), ("frames", "frames of a video, alike and in a row by name")):
        own = [pair for pair in pairs if pair.kind == kind]
        joined = Counter(pair.group for pair in own if pair.group)
        if own:
            images = {id for pair in own for id in (pair.first, pair.second)}
            apart = sum(len({side.get(pair.first), side.get(pair.second), None}) > 2 for pair in own)
            lines.append(f"{words}: {len(own)} pairs ({len(images)} images), merged into groups: {len(joined)}; see "
                         "data/near_duplicates.csv"
                         + (f"; WARNING: {apart} of the pairs lie on two sides of the dataset's own split" if apart else ""))
    unknown = sum(not case.raw.group for case in cases)
    if unknown:
        others = "" if unknown == len(cases) else f" of {len(cases)}"
        lines.append(f"WARNING: the patients of {unknown}{others} images aren't known, each counts as one: images of one patient "
                     "may lie on both sides of the test. Name them in groups.json or groups.csv (id,group) beside the images, or "
                     "by `prepare.group_pattern`")
        if near.alike > 0.03 * near.compared:
            lines.append(f"{near.alike} of {near.compared} images resemble the next by name (thumbnails correlate by more than "
                         f"{near.bound:.2f}), as 1 % of others do: they may be of one patient"
                         + ("" if len(near.pairs) == 0 else "; what looks like a video was kept together"))
    return lines
