"""What all sections of settings are made of: ranges, names, and the base class."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
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
DatasetName = Literal["demo", "folder", "busi", "isic2017", "isic2018", "ph2", "ddti", "coco", "labelme", "cvat",
                      "label_studio", "yolo", "via", "dicom", "volumes"]
ArmName = Annotated[str, AfterValidator(lambda name: arm_of(name).name)]  # an arm of the comparison of segmenters
_LIMIT = 2**31  # of every number: beyond it steps, seeds and sizes break libraries in ways of their own


def _database(url: str) -> str:
    if url and not re.match(r"[a-z][a-z0-9_+]*://", url):
        raise ValueError("a database URL has the form sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    return url


DatabaseUrl = Annotated[str, AfterValidator(_database)]


class Section(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        each = value if isinstance(value, list | tuple) else [value]
        if cls.model_fields[str(info.field_name)].annotation is not bool and any(isinstance(item, bool) for item in each):
            raise ValueError("it must not be true or false")
        return value

    @field_validator("*")
    @classmethod
    def _sane(cls, value: Any) -> Any:
        for each in value if isinstance(value, tuple) else [value]:
            if isinstance(each, int | float) and abs(each) >= _LIMIT:
                raise ValueError(f"it must be a number below {_LIMIT}")
            if isinstance(each, str) and re.search("[\0\ud800-\udfff]", each):
                raise ValueError("it must be text in UTF-8 without zero bytes")
        return value

    @classmethod
    def settable(cls) -> dict[str, FieldInfo]:
        """Name -> field of what a file may set."""
        return {name: field for name, field in cls.model_fields.items() if not field.exclude}

    @classmethod
    def shared(cls) -> frozenset[str]:
        """Names of the fields that other sections' settings fill."""
        return frozenset(cls.model_fields) - frozenset(cls.settable())
