"""The form of a run: about ten settings that people change from run to run, and one field for all others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, to_jsonable_python

from meddiff.errors import MeddiffError
from meddiff.params import MAIN, Params
from meddiff.params.overrides import Overrides

# Field -> section and name of the setting.
FORM = {
    "dataset": ("prepare", "dataset"), "path": ("prepare", "path"), "size": ("prepare", "size"),
    "n_labelled": ("prepare", "n_labelled"), "source": ("foundation", "source"), "samples": ("generate", "n"),
    "guidance_scale": ("generate", "guidance_scale"), "arms": ("segment", "arms"), "seeds": ("segment", "seeds"),
    "steps": ("segment", "steps"), "device": ("compute", "device"),
}


class Setting:
    """Gives a field of the form the type, bounds and description of its setting. It has no default of its own, or the form would
    call it optional: the deployment fills it with the project's value."""

    def __init__(self, field: str) -> None:
        section, name = FORM[field]
        self.field = type(getattr(Params(), section)).model_fields[name]
        self.key = f"{section}.{name}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        together: Any = (self.field.annotation, *self.field.metadata, self.key)
        return handler.generate_schema(Annotated[together])

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(handler(core)) | {"description": f"{self.field.description} ({self.key})"}


def given(fields: Mapping[str, Any], advanced: Mapping[str, Mapping[str, Any]], project: Path) -> Overrides:
    """Section -> name -> value of the settings that were given; a model's relative folder counts from the project.

    Args:
        fields: of the form.
        advanced: section -> name -> value of others.

    Raises:
        MeddiffError: a setting of the form stands under `advanced`.
    """
    values: Overrides = {section: dict(own) for section, own in advanced.items()}
    for field, value in fields.items():
        section, name = FORM[field]
        own = values.setdefault(section, {})
        if name in own:
            raise MeddiffError(f"advanced: {section}.{name}", f"the form has this setting as `{field}`", "Set it there")
        own[name] = to_jsonable_python(value)
    source = values["foundation"]["source"]
    if (project / source).is_dir():
        values["foundation"]["source"] = str((project / source).resolve())
    return values


def filled(params: Params) -> dict[str, Any]:
    """Values of the form's fields: the settings as they are now, under `advanced` those that differ from their default."""
    values, usual = to_jsonable_python(params.model_dump()), to_jsonable_python(Params().model_dump())
    shown = {field: values[section][name] for field, (section, name) in FORM.items()}
    rest = {section: {name: value for name, value in values[section].items()
                      if (section, name) not in FORM.values() and value != usual[section][name]} for section in MAIN}
    return shown | {"advanced": {section: own for section, own in rest.items() if own}}
