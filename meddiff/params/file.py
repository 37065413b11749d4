"""The file `params.yaml`: read and checked, and changed with its comments, order and formats kept, which no YAML writer does."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from meddiff.errors import MeddiffError
from meddiff.params import Params

NONE = object()
REMEDY = "Lay the file out like the params.yaml of the repository"


def edit_params(text: str, changes: Mapping[str, Mapping[str, Any]], where: object) -> str:
    """Set values in the text of a settings file, line by line; the result is checked as a whole.

    A value that is in force already, written or by default, changes no byte: DVC would see a setting that is new.

    Args:
        text: of `params.yaml`.
        changes: section -> name -> new value.
        where: the file, for messages.

    Raises:
        MeddiffError: a name or value breaks a rule of `parse_params`, or the file isn't laid out in sections.
    """
    try:
        current = parse_params(yaml.safe_load(text) or {}, where).model_dump(mode="json")
        new = [(section, name, _flow(value)) for section, values in changes.items() for name, value in values.items()
               if current.get(section, {}).get(name, NONE) != yaml.safe_load(_flow(value))]
        for section, name, value in new:
            text = _set(text, section, name, value)
        read = yaml.safe_load(text) or {}
        missed = [f"{section}.{name}" for section, name, value in new if read[section][name] != yaml.safe_load(value)]
    except (yaml.YAMLError, KeyError, TypeError) as e:
        raise MeddiffError(where, f"settings must be sections of `name: value` lines ({' '.join(str(e).split())})", REMEDY) from e
    if missed:
        raise MeddiffError(where, f"`{missed[0]}` must stand on a line of its own", REMEDY)
    parse_params(read, where)
    return text


def apply_profile(params: Path, places: Sequence[Path]) -> list[str]:
    """Write the settings of a profile, a file that holds some of the settings of `params.yaml`, into `params.yaml`.

    Args:
        params: the `params.yaml` to change.
        places: where the profile may be; the first that is there counts.

    Returns:
        Each of its settings as `section.name: value`.

    Raises:
        MeddiffError: there is no such profile, or it breaks a rule of `edit_params`.
    """
    profile = next((place for place in places if place.is_file()), None)
    if profile is None:
        known = sorted({file.stem for place in places for file in place.parent.glob("*.yaml")})
        raise MeddiffError(places[0], "the profile must be there", f"Choose one of: {', '.join(known)}")
    values = yaml.safe_load(profile.read_text())
    parse_params(values, profile)
    params.write_text(edit_params(params.read_text(), values, params))
    return [f"{section}.{name}: {_flow(value)}" for section, settings in values.items() for name, value in settings.items()]


def _set(text: str, section: str, name: str, value: str) -> str:
    _, group = _child(yaml.compose(text), section)
    if group is None:
        return f"{text.rstrip()}\n\n{section}:\n  {name}: {value}\n"
    key, old = _child(group, name)
    if key is None or old is None:
        start = re.search(rf"^{re.escape(section)}:.*\n", text, re.MULTILINE)
        return f"{text[:start.end()]}  {name}: {value}\n{text[start.end():]}" if start else text
    begin = text.index(":", key.end_mark.index) + 1
    end = max(begin, old.start_mark.index + len(text[old.start_mark.index:old.end_mark.index].rstrip()))
    comment = re.match(r"[ \t]*(?=#)", text[end:])
    if comment is None:
        return f"{text[:begin]} {value}{text[end:]}"
    column = end + comment.end() - begin  # a comment stays in its column where the new value leaves room
    return f"{text[:begin]}{f' {value}  '.ljust(column)}{text[end + comment.end():]}"


def _child(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | tuple[None, None]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next(((key, value) for key, value in pairs if key.value == name), (None, None))


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def parse_params(values: dict[str, Any], where: object) -> Params:
    """Check a nested mapping of settings.

    Raises:
        MeddiffError: an unknown name, or a value out of range; names `where` and the setting.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        if not first["loc"]:  # a rule over several sections
            raise MeddiffError(where, first["msg"].removeprefix("Value error, "), "Change one of the settings named") from e
        name = ".".join(str(part) for part in first["loc"][:2])
        if first["type"] == "extra_forbidden":
            section = getattr(Params(), str(first["loc"][0])) if len(first["loc"]) > 1 else Params()
            known = ", ".join(type(section).model_fields)
            raise MeddiffError(
                where, f"there is no setting `{name}`", f"Correct the name or remove it; the settings there are {known}"
            ) from e
        rule = first["msg"].replace("Input should be", "it must be").replace("valid tuple", "list in brackets")
        raise MeddiffError(where, f"`{name}` = {first['input']!r}: {rule}", "Set such a value") from e


def load_params(path: Path) -> Params:
    """Read `params.yaml`.

    Raises:
        MeddiffError: the file is missing, isn't YAML, or breaks a rule of `parse_params`.
    """
    if not path.is_file():
        raise MeddiffError(
            path, "the settings file must be there", "Work in a meddiff project folder, or copy its params.yaml here"
        )
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as e:
        raise MeddiffError(path, f"settings must be YAML ({' '.join(str(e).split())})", "Mend the line named") from e
    if not isinstance(values, dict):
        raise MeddiffError(path, "settings must be named sections", "Start from the params.yaml of the repository")
    return parse_params(values, path)
