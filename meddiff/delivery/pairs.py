"""The accepted pairs in a plain folder, for any program."""

import shutil
from pathlib import Path

from meddiff.cases import write_mask
from meddiff.delivery.nnunet import write_labels
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, free_folder, replacing
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.samples import read_records
from meddiff.pages import render
from meddiff.params import Params
from meddiff.progress import Report, silent


def export_pairs(layout: Layout, params: Params, out: Path, labels: bool = False, report: Report = silent) -> int:
    """Write `images/ID.png`, `masks/ID.png` (the final masks), `samples.csv` and a `README.md` that says what they are.

    Args:
        out: folder that is missing or empty.
        labels: masks of one class hold 0 and 1 rather than 0 and 255; those of several hold their indices either way.
        report: called after each pair.

    Returns:
        The number of pairs.

    Raises:
        MeddiffError: `out` holds files, nothing was accepted, or the project isn't that far.
    """
    out = free_folder(out, "pairs")
    records, pairs, classes = read_records(layout.synthetic, layout.filtered), list_accepted(layout), params.prepare.classes
    if not pairs:
        raise MeddiffError(layout.filtered, "there must be an accepted pair",
                           "Look at reports/quality, then train the generator longer or widen the filter's bounds")
    with replacing(out) as fresh:
        (fresh / "images").mkdir()
        for done, files in enumerate(pairs, start=1):
            case, place = files.read(), fresh / "masks" / files.image.name
            shutil.copyfile(files.image, fresh / "images" / files.image.name)
            if labels or len(classes) > 1:
                write_labels(place, case, len(classes))
            elif case.mask is not None:
                write_mask(place, case.mask)
            report(done, len(pairs), {})
        records.accepted.to_csv(fresh / "samples.csv", index=False, lineterminator="\n")
        (fresh / "README.md").write_text(render("delivery/pairs.md.j2", pairs=len(pairs), classes=classes, labels=labels,
                                                size=params.prepare.size), encoding="utf-8")
    return len(pairs)
