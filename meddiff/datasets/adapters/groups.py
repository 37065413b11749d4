"""Which images are of one patient: as a file beside the images tells, or a pattern of their names.

What neither names keeps the group that its layout tells, or none: then nobody knows its patient.
"""

import csv
import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meddiff.datasets.adapters.listing import NO_FORMULA, LeftOut, composed, entry, harmless
from meddiff.datasets.adapters.raw import RawCase
from meddiff.datasets.adapters.volume_pixels import VolumeSlice
from meddiff.errors import MeddiffError, likewise, some

# Words before a name's first number that count pictures, not patients.
_PICTURES = ("frame", "image", "img", "im", "picture", "pic", "photo", "slice", "view", "scan", "date", "file", "dsc", "page")
_SPECIAL, _ESCAPED = re.compile(r"([.^$*+?{}()|\[\]\\])"), r"\\\1"  # `re.escape` escapes blanks and dashes, too
_LONGEST = 200  # bytes of an id: a file's name holds 255, and stages write further words before and behind it


def with_groups(cases: Sequence[RawCase], path: Path, pattern: str) -> list[RawCase]:
    """The cases with the groups of groups.json or groups.csv in `path`, then of a pattern, then of their layout.

    Args:
        pattern: regular expression whose first bracket that matches, or without any whole match, is the group in an id.

    Raises:
        MeddiffError: the file is malformed or names an annotated or unlabelled image not at all, or the pattern misses one.
    """
    file, groups = _listed(path)
    named, _ = _resolved(groups, cases, path)
    if file and (lone := [case.id for case in cases if not (case.lesion_free or named.get(case.id) or pattern)]):
        raise MeddiffError(file, f"every image must have its group, `{lone[0]}` has none{likewise(lone[1:])}",
                           "Add it; the id will do as group")
    if pattern and (lone := [case.id for case in cases if not (named.get(case.id) or _matched(pattern, case.id))]):
        raise MeddiffError("prepare.group_pattern", f"the pattern must find a group in every name, in `{lone[0]}` it finds none"
                           f"{likewise(lone[1:])}",
                           r"Widen it: alternatives stand between bars, as in ^(patient\d+)|^(healthy\d+)")
    return [replace(case, group=named.get(case.id) or _matched(pattern, case.id) or case.group) for case in cases]


def unknown_names(cases: Sequence[RawCase], path: Path) -> list[LeftOut]:
    """What the file of groups names though there is no such image."""
    file, groups = _listed(path)
    names = _resolved(groups, cases, path)[1]
    return [LeftOut(harmless(name), "name", f"correct or remove them in {file.name}") for name in names] if file else []


def group_file(path: Path) -> Path | None:
    """`groups.json` or `groups.csv` of a dataset's folder, in capitals or not.

    Raises:
        MeddiffError: both are there.
    """
    files = [file for name in ("groups.json", "groups.csv") if (file := entry(path, name)).is_file()]
    if len(files) > 1:
        raise MeddiffError(files[1], f"one file must name the groups, {files[0].name} does, too", "Remove one of the two")
    return files[0] if files else None


def offer_groups(cases: Sequence[RawCase]) -> list[str]:
    """Where patients aren't known: how they are named, and a pattern where names plainly share stems. Nothing is assumed."""
    unknown = [case.id for case in cases if not case.group]
    if not unknown:
        return []
    others = "" if len(unknown) == len(cases) else f" of {len(cases)}"
    lines = [f"WARNING: the patients of {len(unknown)}{others} images aren't known ({some(unknown)}), each counts as one: images "
             "of one patient may lie on both sides of the test. Name them in groups.csv (columns id,group) or groups.json beside "
             "the images, or by --group-pattern, a regular expression whose first bracket is the patient in a name"]
    if pattern := propose_pattern(unknown):
        stems = {_matched(pattern, id) for id in unknown}
        lines.append(f"the names share {len(stems)} stems ({some(sorted(stems))}): if these are patients, add --group-pattern "
                     f"{shlex.quote(pattern)}")
    return lines


def propose_pattern(ids: Sequence[str]) -> str:
    """A `prepare.group_pattern` where names plainly share stems, such as `patient_12_frame_3`; else empty.

    Plainly (ours): what stands before the first number is the same in all names and doesn't count pictures, one number at most
    follows, half the images share their stem with another, and there are three stems at least, none of most images.
    """
    if any(len(re.findall(r"\d+", id)) not in (1, 2) for id in ids):
        return ""
    stems = [str(re.match(r"\D*\d+", id)[0]) for id in ids]  # type: ignore[index]
    prefixes = {re.sub(r"\d+$", "", stem) for stem in stems}
    shared = Counter(stems)
    if len(prefixes) != 1 or len(shared) < 3 or max(shared.values()) > len(ids) / 2:
        return ""
    prefix = prefixes.pop()
    if sum(n for n in shared.values() if n > 1) < len(ids) / 2 or prefix.strip(" _-.").casefold().endswith(_PICTURES):
        return ""
    return rf"^({_SPECIAL.sub(_ESCAPED, prefix)}\d+)"


def refuse_unsafe(cases: Iterable[RawCase]) -> None:
    """Names must be text that files and tables can hold, and that no spreadsheet runs.

    Raises:
        MeddiffError: names the first ids or groups that aren't.
    """
    names = {name: case.file or case.id for case in cases for name in (case.id, case.group)}
    rules = (("the name of a file must be UTF-8", lambda name: not re.search("[\ud800-\udfff]", name)),
             ("a name must hold no control character", lambda name: not re.search(r"[\x00-\x1f\x7f-\x9f]", name)),
             ("an id or group must not begin with = + - or @, which a spreadsheet would run", NO_FORMULA.match),
             (f"a name must have at most {_LONGEST} bytes", lambda name: len(name.encode()) <= _LONGEST))
    for rule, keeps in rules:
        if wrong := [name for name in names if not keeps(name)]:
            raise MeddiffError(names[wrong[0]], f"{rule}, `{some(wrong[:1])}` breaks it{likewise(wrong[1:])}",
                               "Rename it, and its mask (`convmv` renames many)")


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds, names in composed letters; empty where there is no file.

    Raises:
        MeddiffError: it isn't UTF-8 or JSON, holds something else, or a name twice.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=lambda pairs: _once(file, pairs))
    except (ValueError, RecursionError) as e:
        raise MeddiffError(file, f"the file must be JSON ({e})", "Mend the place named") from e
    if not isinstance(content, dict):
        raise MeddiffError(file, "the file must hold one JSON object", remedy)
    return content


def _once(file: Path, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    once: dict[str, Any] = {}
    for name, value in pairs:
        if once.setdefault(composed(name), value) != value:
            raise MeddiffError(file, f"a name must stand once, `{some([name])}` has two values", "Remove one")
    return once


def _listed(path: Path) -> tuple[Path | None, dict[str, str]]:
    """The file of groups, and name -> group as it says."""
    file = group_file(path)
    if file is None:
        return None, {}
    if file.suffix.lower() == ".csv":
        return file, _read_csv(file)
    groups = read_json(file, 'Write {"id": "patient", …}, or delete the file')
    if not all(isinstance(group, str | int) for group in groups.values()):
        raise MeddiffError(file, "each id has one group's name", 'Write {"id": "patient", …}')
    return file, {name: composed(str(group)) for name, group in groups.items()}


def _read_csv(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True))
    except (ValueError, csv.Error) as e:
        raise MeddiffError(file, f"the file must be CSV in UTF-8 ({e})", "Save it so, with the columns id and group") from e
    heads = [head.strip().casefold() for head in rows[0]] if rows else []
    if not {"id", "group"} <= set(heads):
        raise MeddiffError(file, "the first line must name the columns id and group", "Write id,group there")
    columns = heads.index("id"), heads.index("group")
    filled = [[composed(row[column].strip()) for column in columns] for row in rows[1:] if len(row) > max(columns)]
    return _once(file, [(name, group) for name, group in filled if name])


def names_of_cases(cases: Sequence[RawCase], path: Path) -> dict[str, list[str]]:
    """What may stand for cases in a file beside the images -> their ids: an id, or a file for all its frames and slices.

    A file is named as it is, without suffix, or by its place below `path`. A name that several files share names none of them.
    """
    held: dict[str, dict[Path, list[str]]] = {}
    for case in cases:
        if file := case.file:
            volume = {case.id.rpartition("_")[0]} if isinstance(case.image, VolumeSlice) and case.image.frames > 1 else set()
            place = {composed(file.relative_to(path).as_posix())} if file.is_relative_to(path) else set()
            for name in {composed(file.name), composed(file.stem)} | place | volume:
                held.setdefault(name, {}).setdefault(file, []).append(case.id)
    files = {name: ids for name, places in held.items() if len(places) == 1 for ids in places.values()}
    return files | {case.id: [case.id] for case in cases}


def _resolved(groups: dict[str, str], cases: Sequence[RawCase], path: Path) -> tuple[dict[str, str], list[str]]:
    """Id -> group, and the names that are no image's."""
    ids = names_of_cases(cases, path)
    return {id: group for name, group in groups.items() for id in ids.get(name, ())}, [name for name in groups if name not in ids]


def _matched(pattern: str, id: str) -> str:
    match = re.search(pattern, id) if pattern else None
    return next((group for group in match.groups() or (match[0],) if group), "") if match else ""
