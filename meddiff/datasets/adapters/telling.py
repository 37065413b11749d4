"""What was taken for images and masks, and what wasn't read, in lines for the user."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from meddiff.datasets.adapters.listing import LeftOut, composed, ending_of
from meddiff.errors import some

_FEW = 4   # places, or files of annotations, that are named one by one


def tell_left_out(listed: Sequence[LeftOut]) -> list[str]:
    """What isn't used, a line for each kind: how many, the first names, and what helps."""
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    tops = {each: each.id.partition("/")[0] if each.what == "file" and "/" in each.id else "" for each in listed}
    many = {kind for kind, n in Counter((what, reason) for what, reason, _ in {
        (each.what, each.reason, top) for each, top in tops.items()}).items() if n > _FEW}
    for each in listed:
        kinds[each.what, each.reason, "" if (each.what, each.reason) in many else tops[each]].append(each.id)
    words = {"file": ("file isn't read", "files aren't read"), "name": ("name has no image", "names have no image"),
             "annotation": ("annotation isn't used", "annotations aren't used"),
             "case": ("image is left out", "images are left out"),
             "patient": ("patient is left out", "patients are left out"), "flag": ("image is flagged", "images are flagged"),
             "frames": ("file gives some of its frames or slices", "files give some of their frames or slices")}
    return [f"{len(ids)} {words[what][len(ids) > 1]} ({some(ids)}): {reason}" for (what, reason, _), ids in kinds.items()]


def tell_pairs(root: Path, pairs: Sequence[tuple[Path, Sequence[Path]]]) -> list[str]:
    """What was taken for images and what for masks, by place and ending, a line for each.

    Args:
        root: the dataset's folder.
        pairs: each image's file, and those of its masks; of an export that file.
    """
    images = Counter(file for file, _ in pairs)
    masks = Counter(mask for _, own in pairs for mask in own)
    few = len(masks) <= _FEW
    named = {mask: f"*{end or ending_of(mask)}" if (end := _behind(mask, file)) or not few else mask.name
             for file, own in pairs for mask in own}
    taken = {"images": {file: (*_steps(file, root), _one_name(images) or f"*{ending_of(file)}") for file in images},
             "masks": {mask: (*_steps(mask, root), _one_name(masks) or named[mask]) for mask in masks}}
    return [f"taken for {what}: {some(_tell_places(places, images if what == 'images' else masks), _FEW)}"
            for what, places in taken.items() if places]


def _tell_places(places: Mapping[Path, tuple[str, ...]], uses: Mapping[Path, int]) -> list[str]:
    """Places and how many files they hold, the most first; of many those alike in depth and ending as one, with stars."""
    if len(set(places.values())) > _FEW:
        alike: dict[tuple[int, str], set[tuple[str, ...]]] = defaultdict(set)
        for place in places.values():
            alike[len(place), place[-1]].add(place)
        stars = {key: tuple(step[0] if len(set(step)) == 1 else "*" for step in zip(*same, strict=True))
                 for key, same in alike.items()}
        places = {file: stars[len(place), place[-1]] for file, place in places.items()}
    files, total = Counter(places.values()), Counter[tuple[str, ...]]()
    for file, place in places.items():
        total[place] += uses[file]
    shared = {place: total[place] if not place[-1].startswith("*") else f"{n} file{'s' * (n > 1)}, for {total[place]} images"
              for place, n in files.items() if total[place] > n}
    return [f"{'/'.join(place)} ({shared.get(place, n)})" for place, n in files.most_common()]


def _one_name(files: Collection[Path]) -> str:
    """The name of all of several files, such as `mask.png` in a folder for each case; empty where they differ."""
    names = {file.name for file in files}
    return min(names) if len(names) == 1 < len(files) else ""


def _steps(file: Path, root: Path) -> tuple[str, ...]:
    return file.relative_to(root).parent.parts


def _behind(mask: Path, image: Path) -> str:
    """What a mask's name has behind its image's; empty where it isn't named after it."""
    name, start = composed(mask.name), composed(image.name.removesuffix(ending_of(image)))
    return name[len(start):] if name.casefold().startswith(start.casefold()) else ""
