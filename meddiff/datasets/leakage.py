"""Proof before the score: nothing of the test cases has reached what the generator, the filter or the segmenters have seen.

It owns the rules; which folders are looked at is said by stage `evaluate`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import Case, Frame, Pixels
from meddiff.datasets.registration import SAME_PICTURE, picture, registered_pairs
from meddiff.datasets.splits import near_duplicates, thumbnail
from meddiff.errors import MeddiffError


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is compared of an image.

    Attributes:
        digest: SHA-256 of its pixels.
        thumbnail: `[32, 32]` float32 gray levels 0 to 255 of the frame, without bars.
        picture: `[64, 64]` uint8 gray levels of the same, in which copies are recognised that are turned or cropped.
    """

    digest: str
    thumbnail: NDArray[np.float32]
    picture: Pixels


@dataclass(frozen=True, eq=False)
class Used:
    """An image that the chain has used.

    Attributes:
        where: place of the image, such as `data/train`.
        id: its name there.
        origin: id of the dataset's image that it is, or was made from.
        group: patient or near-duplicate group, empty where none is known.
        look: None where only the names are known.
        painted: it was made by the chain, so that chance may have made it resemble a test image.
    """

    where: str
    id: str
    origin: str
    group: str = ""
    look: Fingerprint | None = None
    painted: bool = False


def look(image: Pixels, frame: Frame | None = None) -> Fingerprint:
    """What is compared of an image `[S, S, 3]` uint8; without a frame all of it shows the original."""
    seen = image if frame is None else image[frame.top:frame.top + frame.height, frame.left:frame.left + frame.width]
    return Fingerprint(hashlib.sha256(image.tobytes()).hexdigest(), thumbnail(np.ascontiguousarray(seen)), picture(seen))


def refuse_leaks(test: Sequence[Case], used: Iterable[Used], bits: int) -> None:
    """Stop where a test case is among the used images: by id, by group, by its pixels, as a near-duplicate or as a copy.

    Near-duplicates are those of `splits.near_duplicates`; of smooth images chance may paint one, so that painted images must be
    copies: they agree in fine structure, though turned, mirrored or cropped, see `registration.registered_pairs`.

    Args:
        test: the test cases.
        used: everything that the chain has used.
        bits: greatest Hamming distance of the hashes, `prepare.duplicate_bits`.

    Raises:
        MeddiffError: names the first image and its test case, the rule, how many more there are, and the remedy.
    """
    everything = list(used)
    leaks = list(dict.fromkeys([*_by_name(test, everything), *_by_pixels(test, everything, bits)]))
    if leaks:
        where, rule = leaks[0]
        further = f" ({len(leaks) - 1} more leaks were found)" if len(leaks) > 1 else ""
        raise MeddiffError(where, f"no test case may reach the training, but {rule}{further}",
                           "Undo what was put there by hand and run `dvc repro`, or give both images one group in the dataset's "
                           "groups.json; segmenters trained on it must be trained again")


def photographed(hashes: Mapping[str, str], photographs: Mapping[str, str]) -> dict[str, str]:
    """The test cases on which a foundation was trained.

    Args:
        hashes: test case id -> SHA-256 of its raw file, empty where it isn't known.
        photographs: file name -> SHA-256 of the foundation's training images, `photographs` of its `training.json`.

    Returns:
        Test case id -> file name. A case counts by its file's bytes, or by its name: another resolution has other bytes.
    """
    by_hash = {digest: name for name, digest in photographs.items()}
    by_stem = {PurePath(name).stem: name for name in photographs}
    found = {id: by_hash.get(digest) or by_stem.get(id) for id, digest in hashes.items()}
    return {id: name for id, name in found.items() if name}


def refuse_photographed(found: Mapping[str, str], source: str) -> None:
    """Stop where the foundation has seen test cases; `found` as `photographed` returns it, `source` as `foundation.source`.

    Raises:
        MeddiffError: there is one.
    """
    if found:
        id, name = next(iter(found.items()))
        raise MeddiffError(f"data/test/{id}", f"no test case may be among the images on which the foundation `{source}` was "
                           f"trained, but {len(found)} are, `{id}` as photograph `{name}`",
                           "Set `foundation.source` to `scratch`, or move these cases from the test to the training part")


def _by_name(test: Sequence[Case], used: Sequence[Used]) -> Iterator[tuple[str, str]]:
    ids, groups = {case.id for case in test}, {case.group: case.id for case in test if case.group}
    for one in used:
        if one.origin in ids:
            yield f"{one.where}/{one.id}", f"`{one.id}` is test case `{one.origin}` or made from it"
        elif one.group in groups:
            yield f"{one.where}/{one.id}", f"`{one.id}` and test case `{groups[one.group]}` are of one group, `{one.group}`"


def _by_pixels(test: Sequence[Case], used: Sequence[Used], bits: int) -> Iterator[tuple[str, str]]:
    seen = [(one, one.look) for one in used if one.look]
    looks = [look(case.image, case.frame) for case in test] + [view for _, view in seen]
    if not test or not seen:
        return
    digests = {view.digest: case.id for view, case in zip(looks, test, strict=False)}
    for one, view in seen:
        if view.digest in digests:
            yield f"{one.where}/{one.id}", f"`{one.id}` has the very pixels of test case `{digests[view.digest]}`"
    apart = near_duplicates(np.stack([view.thumbnail for view in looks]), bits, len(test))
    near = [(i, j) for i, j in apart.tolist() if j >= len(test) and not seen[j - len(test)][0].painted]
    copies = map(tuple, registered_pairs(np.stack([view.picture for view in looks]), SAME_PICTURE, len(test)).tolist())
    kinds = dict.fromkeys(copies, "copy, perhaps turned, mirrored or cropped,") | dict.fromkeys(near, "near-duplicate")
    for (i, j), kind in kinds.items():
        one = seen[j - len(test)][0]
        yield f"{one.where}/{one.id}", f"`{one.id}` is a {kind} of test case `{test[i].id}`"
