"""Changes of settings: `section.name` -> value, or section -> name -> value."""

from collections.abc import Mapping
from typing import Any

from meddiff.params import Params

Overrides = dict[str, dict[str, Any]]  # section -> name -> value


def nested(settings: Mapping[str, Any]) -> Overrides:
    """`{"section.name": value}` as `{"section": {"name": value}}`."""
    overrides: Overrides = {}
    for key, value in settings.items():
        section, name = key.split(".")
        overrides.setdefault(section, {})[name] = value
    return overrides


def merged(params: Params, overrides: Overrides) -> dict[str, Any]:
    """All settings with some of them changed, unchecked."""
    values = params.model_dump()
    return values | {section: values[section] | changes for section, changes in overrides.items()}


def setting(params: Params, key: str) -> Any:
    """Value of `section.name`."""
    section, name = key.split(".")
    return getattr(getattr(params, section), name)
