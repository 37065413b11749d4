"""What each arm of the comparison learns from beside the real cases, and the settings that touch its segmenter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from meddiff.cases import Case
from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.params.arms import Arm, arm_of
from meddiff.segmentation.copy_paste import copy_paste
from meddiff.segmentation.segmenter import chosen


class Stored(Protocol):
    """A pair, or an image without mask, that isn't read yet."""

    def read(self) -> Case: ...


@dataclass(frozen=True, eq=False)
class Pool:
    """What one segmenter learns from beside the real cases.

    Attributes:
        pairs: with masks, but for the images of an arm that labels them itself.
        wanted: pairs that the arm would use if there were enough of each kind.
        settings: without those that don't touch this segmenter, so that changing them doesn't train it again.
    """

    pairs: list[Case]
    wanted: int
    settings: SegmentParams


class Pools:
    """The `Pool` of an arm and seed. Arms that filter otherwise have as many pairs as `synthetic`.

    Attributes:
        dropped: arm -> why it can't be trained; empty unless `empty_arms` is `real`.
    """

    def __init__(self, real: Sequence[Case], settings: SegmentParams, list_kind: Callable[[str], Sequence[Stored]],
                 nothing: Callable[[str, str], MeddiffError]) -> None:
        """What the arms need is looked for at once, so that nothing is trained before something is found missing.

        Args:
            real: annotated cases.
            list_kind: kind -> its pairs, see `params.arms.Arm`; called once each.
            nothing: kind and arm -> the error if there is no such pair.

        Raises:
            MeddiffError: an arm has no pairs (see `segment.empty_arms`), or no arm can be trained.
        """
        self.real, self.settings, self.dropped = real, settings, dict[str, str]()
        self._list, self._nothing, self._pasted = cache(list_kind), nothing, cache(self._paste)
        for arm in settings.arms:
            if error := self._impossible(arm_of(arm)):
                if settings.empty_arms == "refuse" or len(self.dropped) + 1 == len(settings.arms):
                    raise error
                self.dropped[arm] = " ".join(str(error).split())

    def of(self, name: str, seed: int) -> Pool:
        """What a trainable arm learns from with a seed."""
        arm = arm_of(name)
        kinds = [[pair.read() for pair in chosen(self._list(kind), self._most(arm), seed)] for kind in arm.adds]
        kinds = [pairs for pairs in (*kinds, self._pasted(arm, seed) if arm.pasted_on else []) if pairs]
        pairs, added = [pair for pairs in kinds for pair in pairs], len(kinds) * self.settings.share
        # What `share` says of one kind of pairs against the real cases, each further one has as well.
        share = 0.0 if not pairs else 1.0 if not arm.real else added / (1 - self.settings.share + added)
        own = {"arms": (), "seeds": (), "empty_arms": "refuse", "ratio": len(pairs) / max(1, len(self.real)), "share": share}
        if all(pair.mask is not None for pair in pairs):
            own["teacher_confidence"] = 1.0
        return Pool(pairs, (len(arm.adds) + bool(arm.pasted_on)) * self._most(arm), self.settings.model_copy(update=own))

    def _most(self, arm: Arm) -> int:
        return arm.most(self.settings.ratio, len(self.real))

    def _paste(self, arm: Arm, seed: int) -> list[Case]:
        """As many as the synthetic arm has, and where the filter left none as many as it would take."""
        grounds, limit = [stored.read() for stored in self._list(arm.pasted_on)], self._most(arm)
        sites = [np.asarray(ground.mask) for ground in grounds if ground.mask is not None]
        n = min(len(self._list("accepted")) or limit, limit)
        return copy_paste(self.real, [ground.image for ground in grounds], n, seed, self.settings.vertical_flips, sites)

    def _impossible(self, arm: Arm) -> MeddiffError | None:
        """Why the arm can't be trained; an arm that has no pair, but real cases, may be the real arm."""
        if arm.pasted_on:
            self._list(arm.pasted_on)  # a table that isn't there is no matter of this arm alone
            self._list("accepted")
            try:
                for seed in self.settings.seeds:
                    self._pasted(arm, seed)
            except MeddiffError as e:
                return e
        if self.settings.empty_arms == "refuse" or not arm.real:
            empty = [kind for kind in arm.adds if not self._list(kind)]
            return self._nothing(empty[0], arm.name) if empty else None
        return None
