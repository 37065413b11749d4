"""What files of many frames, slices and segments have in common: which are taken, through which window, as which class."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from meddiff.errors import MeddiffError, some
from meddiff.params import PrepareParams

Item = TypeVar("Item")


@dataclass(frozen=True)
class Slicing:
    """How frames and slices become images.

    Attributes:
        window: centre and width of what becomes 0 to 255, in the file's units; None: as the file says, or by percentiles.
        axis: across which a volume is cut: `axial`, `coronal` or `sagittal`.
        frames: at most so many of a video's frames, and of a volume's slices, without a lesion mask.
    """

    window: tuple[float, float] | None = None
    axis: str = "axial"
    frames: int = 16

    @classmethod
    def chosen(cls, settings: PrepareParams) -> "Slicing":
        """As the settings say."""
        centre, _, width = settings.window.partition(",")
        return cls((float(centre), float(width)) if width else None, settings.axis, settings.frames)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spread, in order."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def class_by_name(names: Collection[str], classes: Sequence[str], where: object) -> Callable[[int, str], int]:
    """What tells the class of a segment by its number and name, 0 where it is none of `classes`.

    If any name in the dataset is a class's, names count, in capitals or not, and other segments are none. Otherwise one class is
    what all segments are, and several are told by the segments' numbers.

    Args:
        names: of all segments of the dataset, so that a file without lesions doesn't count by other rules than its neighbour.
        where: for the error.

    Raises:
        MeddiffError: in the call, a number is above that of the classes.
    """
    wanted = {name.casefold(): label for label, name in enumerate(classes, start=1)}
    if any(name.casefold() in wanted for name in names):
        return lambda number, name: wanted.get(name.casefold(), 0)
    if len(classes) == 1:
        return lambda number, name: 1

    def by_number(number: int, name: str) -> int:
        if number not in range(1, len(classes) + 1):
            raise MeddiffError(where, f"segments must be named as `prepare.classes`, or numbered 1 to {len(classes)}; these are "
                               f"{some(sorted(names))}", "Write their names into `prepare.classes`")
        return number

    return by_number
