"""Changes to `params.yaml` that keep its comments, order and formats, which no YAML writer does."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from meddiff.errors import MeddiffError
from meddiff.params import parse_params

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
        MeddiffError: a name or value breaks a rule of `params.parse_params`, or the file isn't laid out in sections.
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
