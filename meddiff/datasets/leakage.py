"""Proof before the score: nothing of the test cases has reached what the generator, the filter or the segmenters have seen.

It owns the rules; which folders are looked at is said by stage `evaluate`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from meddiff.cases import Case, Frame, Pixels
from meddiff.datasets.splits import near_duplicates, thumbnail
from meddiff.errors import MeddiffError

_FINE, _BAND = 64, (0.7, 2.0)    # side of the fine picture, and the two blurs whose difference it holds [pixels]
_AROUND, _FLAT = 4.0, 1.0        # blur of the strength that it is divided by [pixels], and what counts as flat [gray levels]
# Ours. `prepare` keeps near-duplicates of real images apart, so one that is found was put there. Nobody sorts painted images, and
# by thumbnails alone about 2 of 2.3 million pairs of ISIC-2017 are alike by chance. Of 1408 pairs of its test cases and painted
# images whose thumbnails correlate by 0.8 and more, fine pictures correlate by 0.59 at most; those of 744 images of BUSI and
# ISIC-2017 and their brightened copies of half the resolution by 0.78 and more (at 64 px).
_SAME_DETAIL = 0.65


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is compared of an image.

    Attributes:
        digest: SHA-256 of its pixels.
        thumbnail: `[32, 32]` float32 gray levels 0 to 255 of the frame, without bars.
        detail: `[64, 64]` float32 fine structure of the frame, of mean 0 and norm 1 (0 for a blank image). It is as strong
            everywhere: the edge of a round field of view, alike in many images, must not outweigh what is in it.
    """

    digest: str
    thumbnail: NDArray[np.float32]
    detail: NDArray[np.float32]


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
    gray = Image.fromarray(np.ascontiguousarray(seen)).convert("L").resize((_FINE, _FINE), Image.Resampling.BILINEAR)
    fine = np.asarray(gray, np.float32)
    detail = gaussian_filter(fine, _BAND[0]) - gaussian_filter(fine, _BAND[1])
    detail /= np.sqrt(gaussian_filter(detail**2, _AROUND)) + _FLAT
    detail -= detail.mean()
    return Fingerprint(hashlib.sha256(image.tobytes()).hexdigest(), thumbnail(np.ascontiguousarray(seen)),
                np.asarray(detail / (np.linalg.norm(detail) + 1e-6), np.float32))


def refuse_leaks(test: Sequence[Case], used: Iterable[Used], bits: int) -> None:
    """Stop where a test case is among the used images: by id, by group, by its pixels or as a near-duplicate.

    Near-duplicates are those of `splits.near_duplicates`, as they are, turned by right angles, and mirrored; painted images and
    turned and mirrored ones, which `prepare` doesn't keep apart, must agree with the test image in detail, too.

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
    for flip, turns in product((1, -1), range(4)):
        changed = [np.rot90(view.thumbnail[:, ::flip], turns) for _, view in seen]
        pairs = near_duplicates(np.stack([*(view.thumbnail for view in looks[:len(test)]), *changed]), bits, len(test))
        for i, j in pairs[pairs[:, 1] >= len(test)]:
            one, view = seen[j - len(test)]
            sure = not one.painted and (flip, turns) == (1, 0)
            if sure or float((looks[i].detail * np.rot90(view.detail[:, ::flip], turns)).sum()) > _SAME_DETAIL:
                words = [*(["mirrored"] if flip < 0 else []), *([f"turned by {90 * turns}°"] if turns else [])]
                kind = " ".join([", ".join(words), "near-duplicate"]).strip()
                yield f"{one.where}/{one.id}", f"`{one.id}` is a {kind} of test case `{test[i].id}`"
