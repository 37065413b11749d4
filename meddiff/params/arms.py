"""The arms of the comparison of segmenters, a row each: what an arm adds to the real cases, and what it is in the comparison.

A further arm is a row here, a function of its pairs in `outputs.pairs.KINDS` if there is no such kind yet, and its words and
colour in `evaluation.arms.LOOKS`.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

BASELINE, TREATED, COMBINED = "real", "synthetic", "combined"
PUBLISHED = "paper"  # an arm of the benchmark alone: `synthetic` of cells with the paper's recipe, a rival like others


@dataclass(frozen=True)
class Arm:
    """An arm; whatever isn't said here is equal in all of them.

    Attributes:
        name: in params.yaml, in tables and as a folder.
        role: `baseline`; `method`, held against the baseline, the methods above it and all rivals; `rival`; `part`, which tells
            what a part of `synthetic` is worth; `other`, held against the baseline alone.
        adds: kinds of pairs beside the real cases, at most `ratio` of each for a real case.
        pasted_on: kind of images that real lesions are pasted into, as many as `synthetic` has pairs; empty: nothing is pasted.
        augmentation: of all cases.
        real: whether it learns from the real cases too.
        ratio: pairs for each real case; None for `segment.ratio`.
    """

    name: str
    role: Literal["baseline", "method", "rival", "part", "other"] = "other"
    adds: tuple[str, ...] = ()
    pasted_on: str = ""
    augmentation: Literal["classic", "strong"] = "classic"
    real: bool = True
    ratio: float | None = None

    @property
    def finds(self) -> bool:
        """Whether it learns from images without annotation, by what the finders see in them."""
        return "found" in self.adds

    def most(self, ratio: float, n_real: int) -> int:
        """Pairs of each kind that it takes at most: `ratio`, or its own, for each of the real cases, and one at least."""
        return max(1, round((self.ratio or ratio) * n_real))

    @property
    def in_files(self) -> bool:
        """Whether its training cases, which lie in files, are all that tells it from the others."""
        return not self.pasted_on and self.augmentation == "classic" and "unannotated" not in self.adds


ARMS = (
    Arm(BASELINE, "baseline"),
    Arm(TREATED, "method", ("accepted",)),
    Arm(COMBINED, "method", ("accepted", "found")),
    Arm("copy_paste", "rival", pasted_on="lesion_free"),
    Arm("copy_paste_sites", "rival", pasted_on="cleared"),
    Arm("self_training", "rival", ("found",)),
    Arm("consistency", "rival", ("unannotated",)),
    Arm("combined_pasted", "rival", ("found",), pasted_on="cleared"),
    Arm("combined_all", adds=("accepted", "found"), pasted_on="cleared"),
    Arm("augmented", "rival", augmentation="strong"),
    Arm("unfiltered", "part", ("unfiltered",)),
    Arm("uncorroded", "part", ("uncorroded",)),
    Arm("synthetic_only", adds=("accepted",), real=False),
)


def arm_of(name: str) -> Arm:
    """The arm of a name; `synthetic_xRATIO` is `synthetic` with RATIO pairs for each real case.

    Raises:
        ValueError: there is no such arm.
    """
    ratio = re.fullmatch(rf"{TREATED}_x(\d{{1,3}}(?:\.\d{{1,3}})?)", name)
    if ratio and float(ratio[1]):
        return replace(arm_of(TREATED), name=name, role="other", ratio=float(ratio[1]))
    for arm in ARMS:
        if arm.name == name:
            return arm
    raise ValueError(f"an arm must be {', '.join(arm_names())} with a number above 0, such as {TREATED}_x0.5")


def arm_names(in_files: bool = False) -> list[str]:
    """The names to choose from, only those of arms that are `in_files` if this is asked for; RATIO stands for a number."""
    return [*(arm.name for arm in ARMS if arm.in_files or not in_files), f"{TREATED}_xRATIO"]


def rivals_of() -> dict[str, tuple[str, ...]]:
    """Method -> the arms that it is held against in a benchmark, beside the baseline."""
    methods, rivals, parts = ([arm.name for arm in ARMS if arm.role == role] for role in ("method", "rival", "part"))
    return {method: (*methods[:i], *rivals, PUBLISHED, *(parts if method == TREATED else ())) for i, method in enumerate(methods)}
