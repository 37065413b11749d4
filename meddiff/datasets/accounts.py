"""What a preparation leaves out, merges and cannot know, for tables and for the user."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meddiff.datasets.adapters import LeftOut
from meddiff.datasets.neighbours import standardised
from meddiff.datasets.preparation import Division, PreparedCase


@dataclass(frozen=True)
class SimilarPair:
    """Two images that are of one group by their look.

    Attributes:
        first, second: ids.
        kind: `near-duplicate`, or `frames` that follow each other in a video.
        correlation: of their thumbnails, -1 to 1; 0 for blank ones.
        group: of both; empty where one is left out.
    """

    first: str
    second: str
    kind: str
    correlation: float
    group: str


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
