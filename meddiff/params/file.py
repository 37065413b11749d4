"""The file `params.yaml`: read and checked, and changed with its comments, order and formats kept."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from meddiff.errors import MeddiffError
from meddiff.params import MAIN, Params
from meddiff.params.outdated import refuse_outdated, upgraded

_COLUMN = 35  # of the comments
_MOST = 10_000  # values of a file; an alias inside of itself, or of many others, stands for more than any memory holds
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80
_HEAD = """The settings that people set. `meddiff params` prints these and all others, which may be written here, too, under their
section. `dvc repro` reruns what a change touches."""


class _Representer(RoundTripRepresenter):
    """Writes null as a word, and 1.0e-05, which readers of YAML 1.1 take for a number too, in the place of 1e-05."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
_Representer.add_representer(float, lambda self, value: self.represent_scalar(
    "tag:yaml.org,2002:float", re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))))


def read_settings(text: str, where: object) -> dict[str, Any]:
    """Section -> name -> value of the text of a settings file, unchecked, read as DVC reads it: as YAML 1.2.

    Raises:
        MeddiffError: it isn't YAML, or isn't laid out in sections.
    """
    values = _parse(YAML(typ="safe"), text, where)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise MeddiffError(where, "settings must be named sections", "Start from the params.yaml of the repository")
    for name, own in values.items():
        if not isinstance(own, dict) or not all(isinstance(key, str) for key in (name, *own)):
            raise MeddiffError(where, f"`{str(name)[:80]}` must be a section with lines of `name: value`",
                               "Correct or remove it")
    todo, count = list(values.values()), 0
    while todo:
        each, count = todo.pop(), count + 1
        todo += each.values() if isinstance(each, dict) else each if isinstance(each, list | tuple | set) else ()
        if count + len(todo) > _MOST:
            raise MeddiffError(where, f"settings must be at most {_MOST} values, each alias (`*name`) counted as what "
                               "it stands for", "Write them out")
    return values


def _parse(yaml: YAML, text: str, where: object) -> Any:
    try:
        return yaml.load(text)
    except Exception as e:  # of the parser, or of Python where a value is no number or date, or is nested too deeply
        raise MeddiffError(where, f"settings must be YAML ({_problem(e)})", "Mend the line named") from e


def _problem(error: Exception) -> str:
    """What YAML's parser complains of, with the line; not what it advises, nor the lines themselves."""
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"{' '.join(str(text).split())[:200]}{f', line {mark.line + 1}' if mark else ''}"


def parse_params(values: Mapping[str, Any], where: object) -> Params:
    """Check a nested mapping of settings.

    Raises:
        MeddiffError: an unknown name, or a value out of range; names `where` and the setting.
    """
    refuse_outdated(values, where)
    try:
        return Params.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        if not first["loc"]:  # a rule over several sections
            raise MeddiffError(where, first["msg"].removeprefix("Value error, "), "Change one of the settings named") from e
        name = ".".join(str(part) for part in first["loc"][:2])
        if first["type"] == "extra_forbidden":
            section = getattr(Params(), str(first["loc"][0])) if len(first["loc"]) > 1 else Params()
            raise MeddiffError(where, f"there is no setting `{name}`",
                               f"Correct the name or remove it; the settings there are {', '.join(section.settable())}") from e
        rule = re.sub("^(Input|String|Tuple) should", "it must", first["msg"].removeprefix("Value error, "))
        rule = rule.replace("valid tuple", "list in brackets")
        raise MeddiffError(where, f"`{name}`{_shown(name, first['input'])}: {rule}", "Set such a value") from e


def _shown(name: str, value: object) -> str:
    """A value in a message: cut to a line's length, and not that of an address, which may hold a password."""
    try:
        return "" if name.endswith((".url", ".uri", ".storage")) else f" = {_SHOWN.repr(value)}"
    except ValueError:  # a number of more digits than Python writes
        return ""


def load_params(path: Path) -> Params:
    """Read `params.yaml`.

    Raises:
        MeddiffError: the file is missing, isn't YAML, or breaks a rule of `parse_params`.
    """
    return parse_params(read_settings(settings_text(path), path), path)


def edit_params(text: str, changes: Mapping[str, Mapping[str, Any]], where: object) -> str:
    """Set values in the text of a settings file; the result is checked as a whole.

    A value that is in force already, written or by default, changes no byte: DVC would see a setting that is new.

    Args:
        text: of `params.yaml`.
        changes: section -> name -> new value.
        where: the file, for messages.

    Raises:
        MeddiffError: a name or value breaks a rule of `parse_params`, or the file isn't laid out in sections.
    """
    values = read_settings(text, where)
    current = parse_params(values, where).model_dump(mode="json")
    new = {section: {name: value for name, value in to_jsonable_python(dict(own)).items()
                     if name not in current.get(section, {}) or current[section][name] != value}
           for section, own in changes.items()}
    new = {section: own for section, own in new.items() if own}
    if not new:
        return text
    wanted = values | {section: values.get(section, {}) | own for section, own in new.items()}
    parse_params(wanted, where)
    yaml = _editor()
    document = _parse(yaml, text, where) or CommentedMap()  # by another parser, which takes less
    for section, own in new.items():
        if section not in document:
            document[section] = CommentedMap()
            document.yaml_set_comment_before_after_key(section, before="\n")
        for name, value in reversed(own.items()):
            if name in document[section]:
                document[section][name] = _styled(value)
            else:  # first, since the comment of the last holds the blank line before the next section
                document[section].insert(0, name, _styled(value))
    edited = _text(yaml, document)
    if read_settings(edited, where) != wanted:
        raise MeddiffError(where, "a command can't change settings that stand for each other by anchors and aliases (`&`, `*`)",
                           "Write them out, or change the file by hand")
    return edited


def write_params(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Set values in `params.yaml`, as `edit_params`.

    Returns:
        Each of them as `section.name: value`.

    Raises:
        MeddiffError: a name or value breaks a rule; then the file stays as it was.
    """
    path.write_text(edit_params(settings_text(path), changes, path), encoding="utf-8")
    return [f"{section}.{name}: {written(value)}" for section, own in changes.items() for name, value in own.items()]


def compose_params(params: Params) -> str:
    """The text of a new `params.yaml`: the settings that people set, and further ones where they aren't the default."""
    yaml, document, default = _editor(), CommentedMap(), Params()
    for section, own in params.model_dump(mode="json").items():
        fields, usual = getattr(params, section).settable(), getattr(default, section).model_dump(mode="json")
        main = MAIN.get(section, ())
        block = CommentedMap()
        for name in (*main, *(name for name in own if name not in main and own[name] != usual[name])):
            block[name] = _styled(own[name])
            block.yaml_add_eol_comment(fields[name].description, name, column=_COLUMN)
        if block:
            document[section] = block
            document.yaml_set_comment_before_after_key(section, before="\n")
    document.yaml_set_start_comment(_HEAD)
    return _text(yaml, document)


def upgrade_params(path: Path, kept: Path) -> list[str]:
    """Write a settings file of an older version anew, in today's words and layout; its values count as before.

    Args:
        path: the file.
        kept: where the old file is kept.

    Returns:
        A line for each value that has no place any more.

    Raises:
        MeddiffError: the file is missing, or breaks a rule of `parse_params` beside that of outdated settings.
    """
    text = settings_text(path)
    values, lost = upgraded(read_settings(text, path))
    new = compose_params(parse_params(values, path))
    if new != text:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")
        path.write_text(new, encoding="utf-8")
    return lost


def written(value: object) -> str:
    """A value as it stands in the file, on one line."""
    return _text(_editor(), _styled({"value": to_jsonable_python(value)})).strip()[len("{value: "):-1]


def settings_text(path: Path) -> str:
    """The text of a settings file.

    Raises:
        MeddiffError: it is missing, can't be opened, or isn't UTF-8.
    """
    if not path.is_file():
        raise MeddiffError(
            path, "the settings file must be there", "Work in a meddiff project folder, or copy its params.yaml here"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise MeddiffError(path, f"the settings file must be text in UTF-8 that you may read ({e})", "Save it as UTF-8") from e


def _editor() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes, yaml.width = True, 10**6
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _styled(value: Any) -> Any:
    """Lists and mappings on one line."""
    if isinstance(value, list | dict):
        value = CommentedSeq(map(_styled, value)) if isinstance(value, list) else CommentedMap(
            {name: _styled(each) for name, each in value.items()})
        value.fa.set_flow_style()
    return value


def _text(yaml: YAML, document: Any) -> str:
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()
