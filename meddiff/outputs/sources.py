"""The images that everything descends from: who is in which part, by hashes alone where it says whose they are."""

from dataclasses import astuple, dataclass

from meddiff.cases import short_hash
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.tables import BACKGROUNDS, CASES, NORMAL
from meddiff.outputs.withdrawals import project_salt, read_withdrawals

_PARTS = ("train", "val", "test", "normal")


@dataclass(frozen=True)
class Source:
    """An image of the dataset.

    Attributes:
        id: of the case.
        part: train, val, test, or normal for a lesion-free image to paint into.
        labelled: whether the chain may see its mask.
        patient: salted hash of the patient, or, where nobody knows it, of the group.
        file: SHA-256 of the raw file, empty for an image that never was one.
    """

    id: str
    part: str
    labelled: bool
    patient: str
    file: str


def list_sources(layout: Layout) -> list[Source]:
    """The images that the project's `data/` holds now, by part and id; those of parts that aren't there are left out."""
    salt, sources = project_salt(layout), list[Source]()
    for part in _PARTS[:-1]:
        sources += [Source(row.id, part, bool(row.labelled), short_hash(salt, row.patient or row.group), row.raw_sha256)
                    for row in CASES.rows_if_there(layout.cases(part))]
    return sources + [Source(row.id, _PARTS[-1], False, short_hash(salt, row.patient or row.group), row.raw_sha256)
                      for row in NORMAL.rows_if_there(layout.normal)]


def dataset_digest(sources: list[Source]) -> str:
    """Name of exactly these images in these parts, 12 digits; empty without any."""
    return short_hash(*("\0".join(map(str, astuple(source))) for source in sources)) if sources else ""


def refuse_withdrawn_sources(layout: Layout) -> None:
    """That the prepared data holds no withdrawn patient.

    Raises:
        MeddiffError: it does.
    """
    withdrawn = {entry.patient for entry in read_withdrawals(layout)}
    if withdrawn and (held := withdrawn & {source.patient for source in list_sources(layout)}):
        raise MeddiffError(layout.cases("train").parent, f"prepared data must hold no withdrawn patient, it holds {min(held)}",
                           "Run `dvc repro`: `prepare` leaves the patient out")


def list_origins(layout: Layout) -> dict[str, tuple[str, str]]:
    """Id of a background -> the case that it is or was made from, and `normal`, `removed` or `site`."""
    return {row.id: (row.origin, row.kind) for row in BACKGROUNDS.rows_if_there(layout.backgrounds)}
