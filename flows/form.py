"""The form of a run: each section's settings that people set, and one field for all others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema, to_jsonable_python

from meddiff.errors import MeddiffError
from meddiff.params import MAIN, Params, Section
from meddiff.params.overrides import Overrides


class Main:
    """Lets a form show those settings of a section alone that `params.yaml` holds; through the API it takes all."""

    def __init__(self, section: str) -> None:
        self.names = MAIN[section]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler.resolve_ref_schema(handler(core))
        fields = whole["properties"]
        hidden = {f"^{name}$": field for name, field in fields.items() if name not in self.names}  # which no form draws
        return whole | {"properties": {name: fields[name] for name in self.names}, "patternProperties": hidden}


def given(sections: Mapping[str, Section], advanced: Mapping[str, Mapping[str, Any]], project: Path) -> Overrides:
    """Section -> name -> value of the settings that were given; a model's relative folder counts from the project.

    Raises:
        MeddiffError: a setting stands in the form and under `advanced`.
    """
    values: Overrides = {name: section.model_dump(mode="json", exclude_unset=True) for name, section in sections.items()}
    for section, own in advanced.items():
        if twice := values.get(section, {}).keys() & own.keys():
            raise MeddiffError(f"advanced: {section}.{min(twice)}", "the form has this setting", "Set it there")
        values[section] = values.get(section, {}) | dict(own)
    source = values["foundation"].get("source")
    if source and (project / source).is_dir():
        values["foundation"]["source"] = str((project / source).resolve())
    return {name: own for name, own in values.items() if own}


def filled(params: Params) -> dict[str, Any]:
    """Values of the form's fields: the settings as they are now, under `advanced` those that differ from their default."""
    default, values = Params(), to_jsonable_python(params.model_dump())
    usual = to_jsonable_python(default.model_dump())
    rest = {section: {name: value for name, value in values[section].items()
                      if name not in main and value != usual[section][name]} for section, main in MAIN.items()}
    return {section: {name: values[section][name] for name in main} for section, main in MAIN.items()} | {
        "advanced": {section: own for section, own in rest.items() if own}}
