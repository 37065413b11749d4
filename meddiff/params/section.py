"""What all sections of settings are made of: ranges, names of arms, and the base class."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Precision = Literal["float32", "bfloat16"]
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,39}$")]
ARMS = ("real", "augmented", "copy_paste", "copy_paste_sites", "self_training", "synthetic", "combined", "uncorroded",
        "unfiltered", "synthetic_only")
FOUND = ("self_training", "combined")  # arms that learn from images without annotation, by what the finders see in them


def ratio_of(arm: str) -> float | None:
    """RATIO of the arm `synthetic_xRATIO`, synthetic pairs for each real one; None for any other."""
    found = re.fullmatch(r"synthetic_x(\d{1,3}(?:\.\d{1,3})?)", arm)
    return float(found[1]) if found else None


def _arm(name: str) -> str:
    if name not in ARMS and not ratio_of(name):
        raise ValueError(f"an arm must be {', '.join(ARMS)}, or synthetic_xRATIO with a number above 0, such as synthetic_x0.5")
    return name


ArmName = Annotated[str, AfterValidator(_arm)]  # an arm of the comparison of segmenters


class Section(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
