"""A look at a raw dataset before it is prepared: every mask is opened, and every fault is told."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from meddiff.datasets.adapters import RawCase, decode_masks
from meddiff.datasets.plausibility import refuse_colours
from meddiff.errors import MeddiffError
from meddiff.progress import Report, silent

_TOLD = 20  # faults, a line for each


@dataclass(frozen=True)
class Inspection:
    """What the masks of a raw dataset hold.

    Attributes:
        marked: ids of the images whose mask holds something.
        empty: ids of those whose mask holds nothing though they aren't declared lesion-free.
        faults: of each case that can't be read.
    """

    marked: set[str]
    empty: set[str]
    faults: list[MeddiffError]

    def tell_faults(self) -> list[str]:
        """A line for each of the first faults, and how many more there are."""
        more = len(self.faults) - _TOLD
        return [str(fault) for fault in self.faults[:_TOLD]] + ([f"and {more} more"] if more > 0 else [])


def inspect_masks(cases: Sequence[RawCase], threads: int, report: Report = silent) -> Inspection:
    """Open the masks of all cases, of image files only the header.

    Raises:
        MeddiffError: the lesions of masks of one class have several colours.
    """
    marked, empty, faults, colours = set[str](), set[str](), list[MeddiffError](), dict[str, frozenset[str]]()

    def look(raw: RawCase) -> tuple[bool, frozenset[str]] | MeddiffError:
        try:
            case = decode_masks(raw)
        except MeddiffError as fault:
            return fault
        return bool(case.mask.any()), case.colours

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # those that are too large are refused
        for i, (raw, seen) in enumerate(zip(cases, pool.map(look, cases), strict=True), start=1):
            if isinstance(seen, MeddiffError):
                faults.append(seen)
            else:
                colours[raw.id] = seen[1]
                (marked if seen[0] else empty if raw.masks and not raw.lesion_free else set()).add(raw.id)
            report(i, len(cases), {})
    if not faults:
        refuse_colours(colours)
    return Inspection(marked, empty, faults)
