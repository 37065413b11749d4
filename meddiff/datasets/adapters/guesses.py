"""Pairs of images and masks that don't lie in `images/` and `masks/` by the same stem: one reading of the names, or none.

A mask lies in a folder such as `labels` or `Ground Truth`, or its name ends on such as `_mask`, begins with such as `mask_`, or
is `mask` beside `image` in a folder of their own; capitals and suffixes may differ from its image's, and folders may be nested,
as long as they are alike on both sides.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meddiff.datasets.adapters.listing import (
    IMAGE_FOLDERS,
    LONE_IMAGE,
    MASK_FOLDERS,
    composed,
    folder_word,
    parts_of,
    place_ids,
)
from meddiff.errors import MeddiffError, likewise

_MASK = r"(?:masks?|segmentation|seg|gt|ground[ _-]?truth|labels?|lesion|annotation)"
_ENDING = re.compile(rf"(.+?)([ _.-]+{_MASK})", re.IGNORECASE)
_BEGINNING = re.compile(rf"({_MASK}[ _.-]+)(.+)", re.IGNORECASE)
_IMAGE = re.compile(r"(?:images?|imgs?|im|originals?|pictures?|photos?)[ _.-]+(.+)", re.IGNORECASE)
_FREE, _BARE = {"normal"}, {"unlabelled", "unlabeled"}
_Key = tuple[str, ...]


@dataclass(frozen=True)
class Guess:
    """How files are read.

    Attributes:
        ids: of the images.
        masks: image -> mask.
        free, bare: images declared lesion-free, and those without annotation.
        parts: image -> part, where folders name all.
        lone: images without mask, then masks without image, neither read.
    """

    ids: dict[Path, str]
    masks: dict[Path, Path]
    free: set[Path]
    bare: set[Path]
    parts: dict[Path, str]
    lone: tuple[list[Path], list[Path]]

    def refuse_lone(self, root: Path) -> None:
        """Refuse what has no counterpart, by the pairs that are there."""
        images, masks = self.lone
        pair = [file.relative_to(root) for file in next(iter(self.masks.items()))]
        files, kind, other = (images, "an image", "mask") if images else (masks, "a mask", "image")
        further = likewise([file.name for file in files[1:]])
        raise MeddiffError(files[0], f"{kind} must have its {other}, as {pair[0]} has {pair[1]}{further}",
                           LONE_IMAGE if images else "Add the image, or take the mask out")


def other_reading(root: Path, stems: Mapping[Path, str], images: Mapping[str, Path], masks: Mapping[str, Path]
                  ) -> Guess | None:
    """`guess_pairs` where it pairs everything, and what lies in `images/` and `masks/` isn't paired by the same stem.

    Args:
        images, masks: in these folders, by stem.

    Raises:
        MeddiffError: names can be read in two ways, or what is alone couldn't be told by `images` and `masks`.
    """
    if images and images.keys() == masks.keys():
        return None
    try:
        guess = guess_pairs(root, stems)
    except MeddiffError:
        if not images:
            raise
        return None
    if guess.masks and any(guess.lone) and not images.keys() & masks.keys():
        guess.refuse_lone(root)
    return guess if guess.masks and not any(guess.lone) else None


def guess_pairs(root: Path, stems: Mapping[Path, str]) -> Guess:
    """The one reading of files below a folder; without masks where none is named as one.

    Args:
        stems: file -> its name without suffix.

    Raises:
        MeddiffError: names can be read in two ways, which are named.
    """
    words = {file: [folder_word(step) for step in file.relative_to(root).parent.parts] for file in stems}
    apart = [file for file in stems if MASK_FOLDERS & set(words[file])]
    kinds = {next(word for word in reversed(words[file]) if word in MASK_FOLDERS): file for file in reversed(apart)}
    if len(kinds) > 1:
        first, second = sorted(kinds.values())[:2]
        places = [file.parent.relative_to(root) for file in (first, second)]
        raise MeddiffError(root, f"masks may be those of {places[0]}/ or of {places[1]}/",
                           "Rename their folder to masks/, and the images' to images/")
    others = [file for file in stems if not MASK_FOLDERS & set(words[file])]
    named = [file for file in others if IMAGE_FOLDERS & set(words[file]) or (_FREE | _BARE) & set(words[file])]
    plain = any(IMAGE_FOLDERS & set(words[file]) for file in named)
    # Beside a folder of masks the images' one may have any name.
    tops = {word for file in others if file not in named for word in words[file][:1] or [""]} if apart and not plain else set()
    passed = IMAGE_FOLDERS | MASK_FOLDERS | (tops if len(tops) == 1 else set())

    def key(file: Path, stem: str) -> _Key:
        return *(word for word in words[file] if word not in passed), composed(stem).casefold()

    alike = defaultdict[_Key, list[Path]](list)
    for file in named if plain else others:
        alike[key(file, stems[file])].append(file)
    images = {at: same[0] for at, same in alike.items()}
    shorter = {key(file, match[1]): at for at, file in images.items() if (match := _IMAGE.fullmatch(stems[file]))} | {
        key(file, ""): at for at, file in images.items() if folder_word(stems[file]) in IMAGE_FOLDERS}

    def reading(file: Path) -> tuple[str, _Key] | None:
        """How a mask is named after which image."""
        stem = stems[file]
        if apart and (at := key(file, stem)) in images:
            return "", at
        if (match := _ENDING.fullmatch(stem)) and (at := key(file, match[1])) in images:
            return match[2].casefold(), at
        if match := _BEGINNING.fullmatch(stem):
            at = key(file, match[2])
            if at in images or at in shorter:
                return match[1].casefold(), at if at in images else shorter[at]
        if folder_word(stem) in MASK_FOLDERS and (at := key(file, "")) in shorter:
            return folder_word(stem), shorter[at]
        return None

    readings = {file: how for file in apart or images.values() if (how := reading(file)) is not None}
    images = {at: file for at, file in images.items() if file not in readings}
    readings = {file: how for file, how in readings.items() if how[1] in images}
    lone = [file for file in apart if file not in readings]
    endings: dict[str, Path] = {}
    pairs: dict[_Key, list[Path]] = {}
    for file, (ending, at) in readings.items():
        endings.setdefault(ending, file)
        pairs.setdefault(at, []).append(file)
    if len(endings) > 1:
        first, second = list(endings.values())[:2]
        raise MeddiffError(second, f"masks must be named in one way, {first.name} is named in another", "Rename the masks alike")
    if pairs and (twice := [same for same in alike.values() if len(same) > 1]):
        raise MeddiffError(twice[0][1], f"a stem must be unique, {twice[0][0].name} has it too"
                           f"{likewise([both[1].name for both in twice[1:]])}", "Remove or rename one")
    if twice := [both for both in pairs.values() if len(both) > 1]:
        raise MeddiffError(twice[0][1], f"an image has one mask, this may be it or {twice[0][0].relative_to(root)}"
                           f"{likewise([both[1].name for both in twice[1:]])}", "Remove one")
    masks = {images[key]: files[0] for key, files in pairs.items()}
    ids = place_ids(root, images.values(), stems, passed)
    bare = {file for file in ids if _BARE & set(words[file]) and file not in masks}
    free = {file for file in ids if _FREE & set(words[file]) and file not in bare}
    without = [file for file in ids if file not in masks and file not in free and file not in bare]
    return Guess(ids, masks, free, bare, parts_of({file: words[file] for file in ids}), (without, lone))
