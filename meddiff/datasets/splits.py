"""Near-duplicates, groups and the split: no patient and no picture on two sides.

Everything here is deterministic from the names and pictures alone; no random generator is involved.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError

SPLITS = ("train", "val", "test")
_THUMBNAIL = 32
# Ours, set by eye on BUSI and ISIC-2017: a hash alone takes smooth pictures of one kind for the same (17 of 26 pairs of 2150 ISIC
# images) and misses re-cropped ones; the correlation of the thumbnails rejects the first and finds the second. Both bounds are
# on the safe side: a pair too many costs a training image at most, a pair missed lets a test picture into the training.
_CONFIRMED = 0.9
_ALIKE = 0.97
_ENOUGH_BACKGROUNDS = 8  # ours: lesion-free images are held back for the test only as long as so many are left to paint into


@dataclass(frozen=True)
class Member:
    """What a split needs to know of an image: id, group, whether it has a lesion, its part where the dataset comes split, and the
    class of its largest lesion."""

    id: str
    group: str
    lesion: bool
    part: str | None = None
    label: int = 1


@dataclass(frozen=True)
class Split:
    """Who is where.

    Attributes:
        parts: ids of the cases, sorted, by `train`, `val`, `test`; the lesion-free ones among them are in `val` and `test`, those
            without annotation in `train`.
        backgrounds: ids of the lesion-free images that have no relative in `val` or `test`, sorted.
        groups: id → group, after near-duplicates were merged into one.
        dropped: cases with a lesion left out, since a near-duplicate is in a later part of the dataset's own split.
        dropped_backgrounds: lesion-free images left out: near-duplicates of a `val` or `test` image with a lesion, or of one in a
            later part of the dataset's own split.
        unannotated: ids of the training cases without annotation, sorted.
        dropped_unannotated: images without annotation left out, since `val` or `test` holds a relative or a near-duplicate.
    """

    parts: dict[str, tuple[str, ...]]
    backgrounds: tuple[str, ...]
    groups: dict[str, str]
    dropped: tuple[str, ...]
    dropped_backgrounds: tuple[str, ...]
    unannotated: tuple[str, ...] = ()
    dropped_unannotated: tuple[str, ...] = ()


def thumbnail(image: Pixels) -> NDArray[np.float32]:
    """`[32, 32]` float32 gray levels 0 to 255 of an image `[H, W, 3]` uint8, by area averaging of the whole frame."""
    small = Image.fromarray(image).convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def perceptual_hashes(thumbnails: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit perceptual hashes: signs of the 8×8 lowest DCT-II coefficients against their median (pHash, Zauner 2010, 3.2.1).

    Args:
        thumbnails: `[N, 32, 32]` gray levels.

    Returns:
        `[N]` uint64.
    """
    low = dctn(thumbnails, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(-1, 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near_duplicates(thumbnails: NDArray[np.float32], bits: int, first: int | None = None) -> NDArray[np.intp]:
    """Pairs that show the same picture: hashes within `bits` and thumbnails' correlation > 0.9, or correlation > 0.97, or equal.

    Args:
        thumbnails: `[N, 32, 32]` gray levels.
        bits: greatest Hamming distance of the 64-bit hashes.
        first: pairs within the others than so many first ones aren't looked for; None: all are.

    Returns:
        `[P, 2]` indices, the smaller first, sorted.
    """
    hashes = perceptual_hashes(thumbnails)
    flat = thumbnails.reshape(len(thumbnails), -1)
    _, codes = np.unique(flat, axis=0, return_inverse=True)   # blank ones have no correlation
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
    pairs = [np.empty((0, 2), dtype=np.intp)]
    n = len(flat) if first is None else first
    for start in range(0, n, 512):
        rows = slice(start, min(start + 512, n))
        distance = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:])
        correlation = flat[rows] @ flat[start:].T
        equal = codes[rows, None] == codes[None, start:]
        found = np.argwhere(((distance <= bits) & (correlation > _CONFIRMED)) | (correlation > _ALIKE) | equal) + start
        pairs.append(found[found[:, 0] < found[:, 1]])
    return np.concatenate(pairs)


def merged_groups(groups: Sequence[str], pairs: NDArray[np.intp]) -> list[str]:
    """Join the groups that near-duplicates connect; a joined group has its smallest name.

    Args:
        groups: `N` names.
        pairs: `[P, 2]` indices of near-duplicates.
    """
    names, codes = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    links = coo_array((np.ones(len(pairs)), (codes[pairs[:, 0]], codes[pairs[:, 1]])), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    first: dict[int, str] = {}
    for name, code in zip(names.tolist(), component.tolist(), strict=True):
        first.setdefault(code, name)
    return [first[component[code]] for code in codes]


def split(members: Sequence[Member], pairs: NDArray[np.intp], val_fraction: float, test_fraction: float) -> Split:
    """Divide cases by group into `train`, `val` and `test`.

    A group's part follows from the SHA-1 of its name alone, so that new cases don't move the old ones. Where the dataset comes
    split, its parts hold; if near-duplicates connect two of them, the case in the earlier part (train before val before test)
    is left out. A part that by chance would have no case, or none of a class, gets the training group that comes nearest.

    Lesion-free images are backgrounds where their group is in `train`, and cases of `val` or `test` where it is there. Groups of
    them alone go to `test`, then to `val`, by the same fractions, where the dataset gives lesion-free images no such part of
    their own and as long as 8 backgrounds are left. One that is a near-duplicate of an image with a lesion is no case of either:
    a mask must be wrong.

    Args:
        members: all images, lesion-free ones included.
        pairs: `[P, 2]` indices of near-duplicates among `members`.
        val_fraction, test_fraction: share of groups for parts that the dataset itself doesn't give.

    Raises:
        MeddiffError: the dataset's own split parts a group, or a part has no case.
    """
    _refuse_parted_groups(members)
    groups = merged_groups([member.group for member in members], pairs)
    given = {member.part for member in members if member.part}
    shares = {"test": 0.0 if "test" in given else test_fraction, "val": 0.0 if "val" in given else val_fraction}
    by_group: dict[str, list[Member]] = defaultdict(list)
    for group, member in zip(groups, members, strict=True):
        by_group[group].append(member)
    part_of = {group: _part(group, relatives, shares) for group, relatives in by_group.items()}
    _fill_empty_parts(part_of, by_group, shares)
    free, below = {member.part for member in members if not member.lesion}, 0.0
    for part, share in (("test", test_fraction), ("val", val_fraction)):
        if part not in free:
            _hold_back(part_of, by_group, part, below, below + share)
            below += share
    doubtful = {members[i].id for pair in pairs for i in pair if members[pair[0]].lesion != members[pair[1]].lesion}

    parts: dict[str, list[str]] = {part: [] for part in SPLITS}
    backgrounds: list[str] = []
    dropped: list[str] = []
    dropped_backgrounds: list[str] = []
    for group, relatives in by_group.items():
        for member in relatives:
            part = part_of[group]
            if member.lesion:
                (parts[part] if member.part in (None, part) else dropped).append(member.id)
            elif part != "train" and (member.part == part or (member.part is None and member.id not in doubtful)):
                parts[part].append(member.id)
            else:
                (backgrounds if part == "train" else dropped_backgrounds).append(member.id)
    with_lesion = {member.id for member in members if member.lesion}
    for part, ids in parts.items():
        if with_lesion.isdisjoint(ids):
            raise MeddiffError("prepare", f"the `{part}` part must have a case with a lesion",
                               "Add cases, or change `prepare.val_fraction` and `prepare.test_fraction`")
    return Split({part: tuple(sorted(ids)) for part, ids in parts.items()}, tuple(sorted(backgrounds)),
                 {member.id: group for member, group in zip(members, groups, strict=True)}, tuple(sorted(dropped)),
                 tuple(sorted(dropped_backgrounds)))


def with_unannotated(made: Split, members: Sequence[Member], others: Mapping[str, str], pairs: NDArray[np.intp]) -> Split:
    """Add images without annotation to the training cases; they move no case that is there.

    One is left out if its group, a near-duplicate, or any chain of both leads to a validation or test case.

    Args:
        made: the split of `members`.
        members: all annotated images, see `split`.
        others: id → group of the images without annotation.
        pairs: `[P, 2]` indices of near-duplicates among `[*members, *others]`.
    """
    joined = merged_groups([*(member.group for member in members), *others.values()], pairs)
    held_out = {*made.parts["val"], *made.parts["test"]}
    closed = {group for member, group in zip(members, joined, strict=False) if member.id in held_out}
    groups = dict(zip(others, joined[len(members):], strict=True))
    kept = sorted(id for id, group in groups.items() if group not in closed)
    return replace(made, parts=made.parts | {"train": tuple(sorted((*made.parts["train"], *kept)))},
                   groups=made.groups | {id: groups[id] for id in kept}, unannotated=tuple(kept),
                   dropped_unannotated=tuple(sorted(groups.keys() - kept)))


def choose_labelled(train: Iterable[str], groups: Mapping[str, str], n: int, seed: int,
                    labels: Mapping[str, int] | None = None, near: Collection[frozenset[str]] = ()) -> tuple[str, ...]:
    """Pick `n` training cases whose annotation the chain may see: one of each group in turn, so that they span many groups.

    `seed` sets the order of the groups and that of the cases in each; of a greater choice it is the first part. A near-duplicate
    of a case that comes before it in its group waits until no other case is left. With several classes the order is set within
    each, and classes take turns by their shares, each one's first case first.

    Args:
        train: ids of the training cases.
        groups: id → group.
        n: how many; all where there are fewer.
        seed: of the order.
        labels: id → class; None: one class.
        near: pairs of near-duplicates.
    """
    turns, before = dict[str, tuple[bool, int]](), defaultdict[str, list[str]](list)
    for id in sorted(train, key=lambda id: (_draw(f"{seed}:{id}"), id)):
        earlier = before[groups[id]]
        turns[id] = any({id, other} in near for other in earlier), len(earlier)
        if not turns[id][0]:
            earlier.append(id)
    ordered = sorted(turns, key=lambda id: (turns[id], _draw(f"{seed}:{groups[id]}"), id))
    label = dict.fromkeys(ordered, 1) if labels is None else {id: labels[id] for id in ordered}
    sizes, ranks, place = Counter(label.values()), Counter[int](), dict[str, float]()
    for id in ordered:
        place[id] = ranks[label[id]] / sizes[label[id]]
        ranks[label[id]] += 1
    return tuple(sorted(sorted(ordered, key=place.__getitem__)[:n]))


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12], 16) / 16**12


def _part(group: str, relatives: list[Member], shares: dict[str, float]) -> str:
    if given := [member.part for member in relatives if member.part]:
        return max(given, key=SPLITS.index)
    if not any(member.lesion for member in relatives):
        return "train"
    number = _draw(group)
    return "test" if number < shares["test"] else "val" if number < shares["test"] + shares["val"] else "train"


def _hold_back(part_of: dict[str, str], by_group: dict[str, list[Member]], part: str, low: float, high: float) -> None:
    """Move the groups that are lesion-free throughout and whose draw is in [low, high) to a part, smallest draw first."""
    left = sum(not member.lesion for group, relatives in by_group.items() if part_of[group] == "train" for member in relatives)
    free = [group for group, relatives in by_group.items()
            if not any(member.lesion or member.part for member in relatives) and low <= _draw(group) < high]
    for group in sorted(free, key=_draw):
        if left - len(by_group[group]) >= _ENOUGH_BACKGROUNDS:
            part_of[group] = part
            left -= len(by_group[group])


def _fill_empty_parts(part_of: dict[str, str], by_group: dict[str, list[Member]], shares: dict[str, float]) -> None:
    """Class by class, so that no part lacks one where enough groups have it."""
    for label in sorted({member.label for relatives in by_group.values() for member in relatives if member.lesion}):
        having = [group for group, relatives in by_group.items() if any(m.lesion and m.label == label for m in relatives)]
        free = sorted((group for group in having if part_of[group] == "train"
                       and not any(member.part for member in by_group[group])), key=_draw)
        for part in ("test", "val"):
            if shares[part] and len(free) > 1 and not any(part_of[group] == part for group in having):
                part_of[free.pop(0)] = part


def _refuse_parted_groups(members: Sequence[Member]) -> None:
    parts: dict[str, Member] = {}
    for member in members:
        if member.part:
            first = parts.setdefault(member.group, member)
            if first.part != member.part:
                raise MeddiffError("split.json", f"a group must not be parted: `{first.id}` in `{first.part}` and `{member.id}` "
                                   f"in `{member.part}` are both of group `{member.group}`", "Move the group to one part")
