"""The salt of a project's hashes, and the file of withdrawn patients that git keeps.

A withdrawal holds no name: `prepare` and exports recognise by its hashes what they must leave out, in every clone and work tree.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import mkstemp

import yaml

from meddiff.cases import short_hash
from meddiff.errors import MeddiffError
from meddiff.layout import Layout

SALT_VARIABLE = "MEDDIFF_SALT"
_HEAD = """# Patients whose data must not be used any more, written by `meddiff withdraw`: commit it. `prepare` leaves them out;
# what models learned from them is neither exported, published nor trained on. No name stands here: the hashes are salted.
"""


@dataclass(frozen=True)
class Withdrawal:
    """A patient whose data must not be used any more.

    Attributes:
        patient: salted hash, as `meddiff lineage` shows it.
        raw: salted hashes of the names and SHA-256 by which the raw dataset knows the patient and the files.
        generators: hashes of models that learned from the patient, as their samples carry them.
        reason, at, by: why, when (ISO 8601, UTC) and who.
    """

    patient: str
    raw: tuple[str, ...]
    generators: tuple[str, ...]
    reason: str
    at: str
    by: str


def read_withdrawals(layout: Layout) -> tuple[Withdrawal, ...]:
    """The withdrawals of a project, none where there is no file.

    Raises:
        MeddiffError: the file isn't as `meddiff withdraw` writes it.
    """
    return _read(layout.withdrawals)[1]


def project_salt(layout: Layout) -> str:
    """The salt of a project's hashes: that of its withdrawals, else MEDDIFF_SALT, else of `.work/salt`, which is made if missing.

    The first withdrawal brings the salt into the file that git keeps: from then on all clones have the same.
    """
    known = _read(layout.withdrawals)[0] or os.environ.get(SALT_VARIABLE, "")
    if known:
        return known
    place = layout.home / ".work/salt"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        stream, fresh = mkstemp(prefix="salt.", dir=place.parent)  # which its owner alone can read
        with os.fdopen(stream, "w") as file:
            file.write(secrets.token_hex(16))
        try:
            os.link(fresh, place)  # of two threads or processes at the same moment the first one's holds
        except FileExistsError:
            pass
        finally:
            os.unlink(fresh)
    return place.read_text().strip()


def patient_hash(layout: Layout, name: str) -> str:
    """What stands for a patient, or for a file by its SHA-256, outside of the raw data."""
    return short_hash(project_salt(layout), name)


def write_withdrawals(layout: Layout, entries: Sequence[Withdrawal]) -> None:
    """Write the file anew, with the project's salt."""
    salt = project_salt(layout)
    plain = [{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(entry).items()}
             for entry in entries]
    text = yaml.safe_dump({"salt": salt, "withdrawn": plain}, sort_keys=False, width=120)
    fresh = layout.withdrawals.with_suffix(".new")
    fresh.write_text(_HEAD + text, encoding="utf-8")
    fresh.replace(layout.withdrawals)


def refuse_withdrawn(layout: Layout, generators: Sequence[str], what: str) -> None:
    """That none of the models learned from a withdrawn patient.

    Args:
        generators: hashes, as samples carry them.
        what: is to be done with the samples, such as `exported`.

    Raises:
        MeddiffError: one did.
    """
    for entry in read_withdrawals(layout):
        if learned := set(generators) & set(entry.generators):
            raise MeddiffError(f"samples of generator {min(learned)[:12]}", f"they must not be {what}: it learned from patient "
                               f"{entry.patient}, withdrawn on {entry.at[:10]} ({entry.reason})",
                               "Run `dvc repro`: it makes new ones without that patient")


def _read(file: Path) -> tuple[str, tuple[Withdrawal, ...]]:
    """Salt, empty before the first withdrawal, and withdrawals."""
    if not file.is_file():
        return "", ()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        entries = tuple(Withdrawal(*(tuple(map(str, entry[field.name])) if isinstance(entry[field.name], list) else
                                     str(entry[field.name]) for field in fields(Withdrawal)))  # type: ignore[arg-type]
                        for entry in content.get("withdrawn") or ())
        salt = str(content.get("salt") or "")
        if entries and not salt:
            raise ValueError("the salt is missing")
        return salt, entries
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise MeddiffError(file, f"the withdrawals must be as `meddiff withdraw` writes them ({' '.join(repr(e).split())})",
                           "Bring the file back from git") from e
