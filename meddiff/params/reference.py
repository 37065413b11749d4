"""What can be set: each setting's name, default, bounds and meaning, in lines for a terminal and as a page of the documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meddiff.errors import redacted
from meddiff.params import MAIN, Params, Section
from meddiff.params.file import written

_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null",
          "object": "mapping"}
_BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "up to {}", "exclusiveMaximum": "below {}",
           "multipleOf": "in steps of {}"}
_PAGE = """# Settings

Made by `meddiff params --markdown` from the descriptions in `meddiff/params/`; a test holds it current.

`params.yaml` holds the settings that people set, {main} of {all}, in bold below. Any other has its default until it is written
there under its section: it counts at once, and `dvc repro` reruns what it touches. `meddiff params` prints this list with the
values in force.
"""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        section, name: where it stands.
        default: as it is written.
        allowed: its type, bounds or choices, in words.
        meaning: of its description.
        main: whether it is one of those that `params.yaml` holds.
    """

    section: str
    name: str
    default: str
    allowed: str
    meaning: str
    main: bool


def settings_of(section: str) -> Iterator[Setting]:
    """The settings of a section, those of `params.yaml` first."""
    kind, main = type(getattr(Params(), section)), MAIN.get(section, ())
    schema = kind.model_json_schema()
    fields = kind.settable()
    for name in (*main, *(name for name in fields if name not in main)):
        default = written(fields[name].get_default(call_default_factory=True))
        yield Setting(section, name, default, _allowed(schema["properties"][name]), fields[name].description or "", name in main)


def markdown() -> str:
    """The reference page of all settings."""
    everything = {section: list(settings_of(section)) for section in Params.model_fields}
    lines = [_PAGE.format(main=sum(map(len, MAIN.values())), all=sum(map(len, everything.values())))]
    for section, own in everything.items():
        lines += [f"## {section}", "", _about(getattr(Params(), section)), "", "| setting | default | allowed | meaning |",
                  "|---|---|---|---|"]
        for each in own:
            name = f"**`{each.name}`**" if each.main else f"`{each.name}`"
            cells = (name, f"`{each.default}`", each.allowed, each.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def listing(params: Params, sections: list[str], changed: bool) -> Iterator[str]:
    """Lines for a terminal: each setting with its value, those that differ from the default marked.

    Args:
        params: the settings in force.
        sections: to show.
        changed: only those that differ from the default.
    """
    for section in sections:
        own = getattr(params, section)
        values = {each: redacted(written(getattr(own, each.name))) for each in settings_of(section)}
        shown = {each: value for each, value in values.items() if not changed or value != each.default}
        if not shown:
            continue
        yield f"{section}: {_about(own)}"
        for each, value in shown.items():
            default = "" if value == each.default else f"default {each.default}; "
            yield f"{'*' if default else ' '} {each.name:<22} {value:<14} [{default}{each.allowed}] {each.meaning}"
        yield ""


def _about(section: Section) -> str:
    return (type(section).__doc__ or "").partition("\n")[0]


def _allowed(schema: dict[str, Any]) -> str:
    """Type, bounds or choices in words, from a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "$ref" in schema:
        return "mapping"
    if schema["type"] == "array":
        pair = schema.get("prefixItems")  # of the same type
        return f"list of {len(pair)} of {_allowed(pair[0])}" if pair else f"list of {_allowed(schema['items'])}"
    bounds = [text.format(f"{schema[bound]:g}" if schema["type"] == "number" else schema[bound])
              for bound, text in _BOUNDS.items() if bound in schema]
    return " ".join([_TYPES[schema["type"]], *bounds])
