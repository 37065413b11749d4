"""The accepted pairs in a folder, for any program."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from meddiff.cases import Case, write_mask
from meddiff.delivery.clinical_pairs import write_dicom
from meddiff.delivery.croissant import write_croissant
from meddiff.delivery.deliveries import note_delivery
from meddiff.delivery.nnunet import write_labels
from meddiff.delivery.pair_formats import FORMATS
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, free_folder, replacing
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.samples import Records, read_records
from meddiff.outputs.tables import BACKGROUNDS
from meddiff.outputs.withdrawals import refuse_withdrawn
from meddiff.pages import render
from meddiff.params import Params
from meddiff.progress import Report, silent

_MASKED = ("folder", "imagefolder")  # formats with masks as they stand in files here; the others have their own
_SETS = {**dict.fromkeys(_MASKED, ("masks/*.png", "image/png")), "monai": ("labels/*.png", "image/png"),
         "coco": ("annotations.json", "application/json"), "labelme": ("images/*.json", "application/json"),
         "dicom": ("masks/*.dcm", "application/dicom"), "nifti": ("masks/*.nii.gz", "application/gzip")}
_IMAGES = {"dicom": ("images/*.dcm", "application/dicom"), "nifti": ("images/*.nii.gz", "application/gzip")}  # of their own kind


def export_pairs(layout: Layout, params: Params, out: Path, labels: bool = False, report: Report = silent,
                 kind: str = "folder", uid_root: str = "") -> int:
    """Write `images/ID.png`, of the clinic's formats `images/ID.dcm` or `images/ID.nii.gz`, the final masks, `samples.csv`,
    `croissant.json` and a `README.md` that says what they are.

    Args:
        out: folder that is missing or empty.
        labels: masks of one class hold 0 and 1 rather than 0 and 255; those of several hold their indices either way.
        report: called after each pair.
        kind: `folder`: `masks/ID.png` alone; or one of `FORMATS`.
        uid_root: of `dicom`, see `write_dicom`.

    Returns:
        The number of pairs.

    Raises:
        MeddiffError: `out` holds files, nothing was accepted, a patient was withdrawn of whom they were made, labels are asked
            for where no mask file is, or the project isn't that far.
    """
    out = free_folder(out, "pairs")
    if labels and kind not in _MASKED:
        raise MeddiffError("--labels", f"the format {kind} has its own values", f"Leave it out, or choose {' or '.join(_MASKED)}")
    if uid_root and kind != "dicom":
        raise MeddiffError("--uid-root", f"the format {kind} has no UIDs", "Leave it out, or add --format dicom")
    records, pairs, classes = read_records(layout.synthetic, layout.filtered), list_accepted(layout), params.prepare.classes
    generators = sorted(set(records.samples["generator"]))
    refuse_withdrawn(layout, generators, "exported")
    if not pairs:
        raise MeddiffError(layout.filtered, "there must be an accepted pair",
                           "Look at reports/quality, then train the generator longer or widen the filter's bounds")
    patients = _patients(layout, records)
    with replacing(out) as fresh:
        (fresh / "images").mkdir()

        def copied() -> Iterator[Case]:
            for done, files in enumerate(pairs, start=1):
                case, place = files.read(), fresh / "masks" / files.image.name
                if kind not in _IMAGES:
                    (fresh / "images" / files.image.name).write_bytes(files.image.read_bytes())
                if kind in _MASKED and (labels or len(classes) > 1):
                    write_labels(place, case, len(classes))
                elif kind in _MASKED and case.mask is not None:
                    write_mask(place, case.mask)
                yield replace(case, group=patients[case.id])
                report(done, len(pairs), {})

        write = partial(write_dicom, root=uid_root) if kind == "dicom" else FORMATS.get(kind, lambda *given: list(given[1]))
        write(fresh, copied(), classes)
        records.accepted.to_csv(fresh / "samples.csv", index=False, lineterminator="\n")
        write_croissant(fresh, classes, {"images": _IMAGES.get(kind, ("images/*.png", "image/png")), kind: _SETS[kind]})
        (fresh / "README.md").write_text(render("delivery/pairs.md.j2", pairs=len(pairs), classes=classes, labels=labels,
                                                size=params.prepare.size, kind=kind), encoding="utf-8")
    note_delivery(layout, params, "export", kind, str(out), generators, len(pairs))
    return len(pairs)


def _patients(layout: Layout, records: Records) -> dict[str, str]:
    """Sample -> the patient of what it was painted into; the background itself where nobody knows."""
    groups = {row.id: row.group or row.origin for row in BACKGROUNDS.rows_if_there(layout.backgrounds)}
    return {id: groups.get(background, background)
            for id, background in records.samples[["id", "background"]].itertuples(index=False)}
