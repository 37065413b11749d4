"""Pairs of images and masks that don't lie in `images/` and `masks/` by the same stem: one reading of the names, or none.

A mask lies in a folder such as `labels` or `Ground Truth`, or its name ends on such as `_mask`; capitals and suffixes may differ
from its image's, and folders may be nested, as long as they are alike on both sides.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from meddiff.datasets.adapters.listing import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    READABLE,
    composed,
    files_below,
    folder_word,
    parts_of,
    place_ids,
)
from meddiff.errors import MeddiffError, likewise

_ENDING = re.compile(r"(.+?)([ _.-]+(?:masks?|segmentation|seg|gt|ground[ _-]?truth|labels?|lesion|annotation))", re.IGNORECASE)
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


def guess_pairs(root: Path) -> Guess:
    """The one reading of the picture files below a folder; without masks where none is named as one.

    Raises:
        MeddiffError: names can be read in two ways, which are named.
    """
    files = files_below(root, READABLE)
    words = {file: [folder_word(step) for step in file.relative_to(root).parent.parts] for file in files}
    apart = [file for file in files if MASK_FOLDERS & set(words[file])]
    kinds = {next(word for word in reversed(words[file]) if word in MASK_FOLDERS): file for file in reversed(apart)}
    if len(kinds) > 1:
        first, second = sorted(kinds.values())[:2]
        places = [file.parent.relative_to(root) for file in (first, second)]
        raise MeddiffError(root, f"masks may be those of {places[0]}/ or of {places[1]}/",
                           "Rename their folder to masks/, and the images' to images/")
    others = [file for file in files if not MASK_FOLDERS & set(words[file])]
    named = [file for file in others if IMAGE_FOLDERS & set(words[file]) or (_FREE | _BARE) & set(words[file])]
    alike = defaultdict[_Key, list[Path]](list)
    for file in named if any(IMAGE_FOLDERS & set(words[file]) for file in named) else others:
        alike[_key(file, words, file.stem)].append(file)
    images = {key: same[0] for key, same in alike.items()}
    candidates = dict.fromkeys(apart or [file for file in images.values() if (match := _ending(file)) and
                                         _key(file, words, match[1]) in images])
    if not apart:
        images = {key: file for key, file in images.items() if file not in candidates}
    endings: dict[str, Path] = {}
    pairs: dict[_Key, list[Path]] = {}
    lone = list[Path]()
    for file in candidates:
        match = _ending(file)
        if (key := _key(file, words, file.stem)) in images:
            ending = ""
        elif match and (key := _key(file, words, match[1])) in images:
            ending = match[2].casefold()
        else:
            lone.append(file)
            continue
        endings.setdefault(ending, file)
        pairs.setdefault(key, []).append(file)
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
    ids = place_ids(root, images.values())
    bare = {file for file in ids if _BARE & set(words[file]) and file not in masks}
    free = {file for file in ids if _FREE & set(words[file]) and file not in bare}
    without = [file for file in ids if file not in masks and file not in free and file not in bare]
    return Guess(ids, masks, free, bare, parts_of({file: words[file] for file in ids}), (without, lone))


def _ending(file: Path) -> re.Match[str] | None:
    return _ENDING.fullmatch(file.stem)


def _key(file: Path, words: dict[Path, list[str]], stem: str) -> _Key:
    return *(word for word in words[file] if word not in IMAGE_FOLDERS | MASK_FOLDERS), composed(stem).casefold()
