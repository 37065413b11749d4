"""What all sections of settings are made of: ranges, names, and the base class."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from meddiff.params.arms import arm_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Precision = Literal["float32", "bfloat16"]
# Fields that no file sets: `Params` fills them in, so that a function finds all that it needs in its section.
SharedSeed = Annotated[Seed, Field(exclude=True, description="that of `prepare.seed`"), SkipJsonSchema()]
SharedPrecision = Annotated[Precision, Field(exclude=True, description="that of `compute.precision`"), SkipJsonSchema()]
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,39}$")]
ArmName = Annotated[str, AfterValidator(lambda name: arm_of(name).name)]  # an arm of the comparison of segmenters


class Section(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def settable(cls) -> dict[str, FieldInfo]:
        """Name -> field of what a file may set."""
        return {name: field for name, field in cls.model_fields.items() if not field.exclude}

    @classmethod
    def shared(cls) -> frozenset[str]:
        """Names of the fields that other sections' settings fill."""
        return frozenset(cls.model_fields) - frozenset(cls.settable())
