"""From raw cases to a split: each is decoded, checked and made square, then all find their parts; and what to tell of it.

Pixels go to a callback one case at a time, so that thousands of large images never lie in memory together.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from meddiff.cases import Frame, Pixels, sha256_once
from meddiff.datasets.adapters import RawCase, decode, fit_square, in_memory, read
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.burned_text import shows_text
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.neighbours import Neighbours, find_neighbours
from meddiff.datasets.plausibility import MaskMeasures, measure, refuse_colours
from meddiff.datasets.registration import KEPT_TOGETHER, picture, registered_pairs
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

_TOGETHER = 16  # cases that make a unit of work
_PHANTOMS = 0  # their seed: the demo is one dataset, whatever `prepare.seed` chooses from it


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
        picture: `[64, 64]` uint8 gray levels of the frame at the chosen size.
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
    picture: Pixels
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


_Unit = Sequence[tuple[int, RawCase]]
_Receive = Callable[[tuple[int, PreparedCase | MeddiffError]], None]


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


@dataclass(frozen=True)
class Preparer:
    """What a process needs to prepare cases.

    Attributes:
        settings: of the stage.
        threads: as many cases are in memory together.
        keep: gets the id, the image `[S, S, 3]` uint8 and the mask `[S, S]` uint8 of 0 to K (empty without annotation) of each.
    """

    settings: PrepareParams
    threads: int
    keep: Callable[[str, Pixels, Pixels], None]

    def work(self, units: Sequence[_Unit], receive: _Receive) -> None:
        """Prepare the cases of some units; `receive` gets each with its number, or what rule it breaks."""
        pool = ThreadPoolExecutor(self.threads)
        try:
            with warnings.catch_warnings():  # of large images: those that are too large are refused
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                for done in pool.map(lambda one: (one[0], self._prepare(one[1])), chain(*units)):
                    receive(done)
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, raw: RawCase) -> PreparedCase | MeddiffError:
        try:
            case = decode(raw)
        except MeddiffError as fault:
            return fault
        fitted = fit_square(case.image, case.mask, self.settings.size, self.settings.fit, case.steps)
        areas = np.bincount(fitted.mask.ravel(), minlength=2)[1:]
        label = int(areas.argmax()) + 1 if areas.any() else 0
        empty = bool(raw.masks) and not raw.lesion_free and not case.mask.any()
        if empty and self.settings.empty_masks == "unannotated":
            raw = replace(raw, masks=())
        self.keep(raw.id, fitted.image, fitted.mask)
        frame = fitted.image[fitted.frame.top:, fitted.frame.left:][:fitted.frame.height, :fitted.frame.width]
        raw_sha256 = sha256_once(raw.file) if raw.file else ""
        traits = case.traits | {"text"} if raw.file and shows_text(case.image) else case.traits
        return PreparedCase(raw, label, bool(case.mask.any()) and not label, fitted.frame, case.mode, raw_sha256,
                            np.stack([thumbnail(case.image), thumbnail(frame)]), picture(frame),
                            measure(case.mask, fitted.mask, fitted.frame), case.colours, traits, empty)


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


def prepare_cases(cases: Sequence[RawCase], share: Callable[[Sequence[_Unit], _Receive], None],
                  report: Report = silent) -> list[PreparedCase]:
    """Decode, check and resize each case.

    Args:
        share: has all units, some cases each, done by `Preparer.work`, wherever.

    Raises:
        MeddiffError: images or masks break a rule, see `adapters`: all of them are named.
    """
    found, numbered = dict[int, PreparedCase | MeddiffError](), [*enumerate(cases)]

    def receive(done: tuple[int, PreparedCase | MeddiffError]) -> None:
        found.update([done])
        report(len(found), len(cases), {})

    share([numbered[start:start + _TOGETHER] for start in range(0, len(cases), _TOGETHER)], receive)
    each = [found[i] for i in range(len(cases))]
    if faults := [case for case in each if isinstance(case, MeddiffError)]:
        raise joined(faults)
    prepared = [case for case in each if isinstance(case, PreparedCase)]
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


def _near_duplicates(cases: Sequence[PreparedCase], bits: int) -> NDArray[np.intp]:
    """Pairs at the original size or at the chosen one, in which `evaluate` looks for leaks: at the bounds the two differ; and
    pairs of which one is a copy of the other, turned, mirrored or cropped."""
    sizes = np.stack([case.thumbnails for case in cases], axis=1)
    copies = registered_pairs(np.stack([case.picture for case in cases]), KEPT_TOGETHER)
    return np.unique(np.concatenate([copies, *(near_duplicates(thumbnails, bits) for thumbnails in sizes)]), axis=0)


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
