"""Raw cases of patients whose data must not be used any more."""

from collections import Counter
from collections.abc import Mapping, Sequence

from meddiff.cases import sha256_once, short_hash
from meddiff.datasets.adapters import LeftOut, RawCase


def without_withdrawn(cases: Sequence[RawCase], patients: Mapping[str, str], salt: str) -> tuple[list[RawCase], list[LeftOut]]:
    """The cases that may be used, and a line for each patient that is left out.

    Args:
        patients: salted hash of a patient's name, a case's id or a raw file's SHA-256 -> hash of the patient.
        salt: of the hashes.
    """
    if not patients:
        return list(cases), []
    kept, counts = list[RawCase](), Counter[str]()
    for case in cases:
        names = [case.group or case.id, *([sha256_once(case.file)] if case.file else [])]
        patient = next((patients[hash] for name in names if (hash := short_hash(salt, name)) in patients), None)
        if patient is None:
            kept.append(case)
        else:
            counts[patient] += 1
    return kept, [LeftOut(patient, "patient", f"withdrawn, see withdrawals.yaml: {n} images") for patient, n in counts.items()]
