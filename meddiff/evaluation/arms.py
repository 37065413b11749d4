"""How the arms look to a reader: words, colour, and which are shown where there is room for a few."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from meddiff.params.arms import BASELINE, COMBINED, PUBLISHED, TREATED, arm_of

ROOM = 6  # arms


@dataclass(frozen=True)
class ArmLook:
    """Of one arm.

    Attributes:
        words: what it is trained on.
        colour: of Okabe and Ito, and one of Tol's, told apart by the colour-blind.
        place: where there is room for a few; 0: not there.
        pairs: of a method, what its gain is the gain of.
    """

    words: str
    colour: str
    place: int = 0
    pairs: str = ""


LOOKS = {
    BASELINE: ArmLook("real images only", "#52606d", 1),
    TREATED: ArmLook("real + synthetic images", "#0072b2", 5, "synthetic pairs"),
    COMBINED: ArmLook("real + synthetic + unlabelled images", "#332288", 6, "synthetic pairs with unlabelled images"),
    "copy_paste": ArmLook("real + pasted real lesions", "#d55e00", 3),
    "copy_paste_sites": ArmLook("real + real lesions pasted where lesions were", "#f0e442"),
    "self_training": ArmLook("real + unlabelled images, lesions as found", "#000000", 4),
    "consistency": ArmLook("real + unlabelled images, a mean teacher's word", "#661100"),
    "combined_pasted": ArmLook("real + real lesions pasted where lesions were + unlabelled images", "#88ccee"),
    "combined_all": ArmLook("real + synthetic + pasted + unlabelled images", "#44aa99"),
    "augmented": ArmLook("real images, tuned augmentation", "#cc79a7", 2),
    PUBLISHED: ArmLook("real + the paper's recipe", "#009e73", 7),
    "unfiltered": ArmLook("real + as many unfiltered synthetic images", "#e69f00"),
    "uncorroded": ArmLook("the same without corrosion", "#56b4e9"),
    "synthetic_only": ArmLook("synthetic images only", "#999999"),
}


def look_of(arm: str) -> ArmLook:
    """How an arm looks, `synthetic_xRATIO` included."""
    return LOOKS.get(arm) or ArmLook(f"real + synthetic images, up to {arm_of(arm).ratio:g} for each real one", "#9aa5b1")


def arm_name(arm: str) -> str:
    """What an arm is trained on, in words."""
    return look_of(arm).words


def main_arms(arms: Sequence[str]) -> list[str]:
    """The arms to show where there is room for a few: all, or those that have a place."""
    placed = sorted((arm for arm in arms if look_of(arm).place), key=lambda arm: look_of(arm).place)
    return list(arms) if len(arms) <= ROOM else (placed or list(arms))[:ROOM]


def best_arm(validation: pd.DataFrame) -> str | None:
    """The arm to use: of the highest mean Dice on the validation cases, of equal ones the first; None where none has a Dice.

    Args:
        validation: one row an arm and seed: arm, dice (NaN where there was none).
    """
    means = validation.groupby("arm", sort=False)["dice"].mean().dropna()
    return None if means.empty else str(means.idxmax())
