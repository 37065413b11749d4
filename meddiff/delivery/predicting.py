"""Predictions of a folder of pictures, one by one, so that what is finished stays finished."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO, cast

from meddiff.cases import read_mask, sha256_once, write_image, write_mask
from meddiff.datasets.adapters import RawCase, list_inputs
from meddiff.datasets.adapters.dicom_pixels import DicomFrame
from meddiff.datasets.adapters.listing import harmless
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.adapters.volume_pixels import VolumeSlice
from meddiff.datasets.adapters.volumes import volume_suffix
from meddiff.delivery.clinical import write_dicom_mask, write_volume_mask
from meddiff.delivery.predictor import Prediction, predict_images
from meddiff.delivery.withdrawn import refuse_withdrawn_segmenters
from meddiff.environment import use_machine
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params, PrepareParams
from meddiff.progress import Report, silent
from meddiff.segmentation.ensemble import Ensemble
from meddiff.services.tracking import fetch_model, tracking_uri

_ABOUT, _TABLE = "predictions.json", "predictions.csv"
_COLUMNS = ("file", "mask", "class", "probability", "area_px", "area_mm2", "share", "uncertainty", "sha256")
_Rows = dict[str, dict[str, tuple[str, ...]]]  # of the table, by mask and class


@dataclass(frozen=True)
class Predicted:
    """What became of the pictures.

    Attributes:
        done, kept: predicted now, and finished by an earlier call.
        faults: of single files that can't be read, or written in their own format; all others are done.
        passed: files that are no pictures.
    """

    done: int
    kept: int
    faults: tuple[MeddiffError, ...]
    passed: tuple[Path, ...]


def predict_files(layout: Layout, params: Params, model: str, path: Path, out: Path, flips: bool = False,
                  report: Report = silent) -> Predicted:
    """Write `masks/ID.png` and `overlays/ID.png` of each picture, and `predictions.csv` with a row a picture and class.

    For frames of DICOM files also `clinical/ID.dcm`, a DICOM SEG, where the mask holds something, and for volumes
    `clinical/NAME`, a mask volume in their own format and geometry.

    A second call goes on: a picture is predicted again only if its bytes have changed.

    Args:
        layout: a project, for the default address of the tracking server.
        params: its settings, for the same and for the machine.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a folder with the segmenters of an arm.
        path: a picture, or a folder with pictures, nested too.
        out: folder that is missing, empty, or of an earlier call with the same model, flips and `path`.
        flips: see `Ensemble.judge`.
        report: called after each picture.

    Raises:
        MeddiffError: no such model, no picture, or `out` holds other files.
    """
    path, out, compute = path.resolve(), out.resolve(), use_machine(params).compute
    with _model_folder(layout, params, model) as folder:
        ensemble = Ensemble.load(folder, compute.device)
    slicing = Slicing.chosen(PrepareParams(window=ensemble.recipe.window, axis=ensemble.recipe.axis))
    earlier = {out, *(file.parent for file in path.rglob(_ABOUT))}  # predictions are no inputs
    cases, passed, unread = list_inputs(path, earlier, slicing)
    rows = _begun(out, {"model": ensemble.digest, "flips": flips, "path": str(path)})
    todo, faults = [case for case in cases if not _finished(case, rows, ensemble.recipe.classes)], list[MeddiffError]()
    kept = len(cases) - len(todo)
    for case in todo:
        if file := _clinical(out, case):
            file.unlink(missing_ok=True)
    report(kept, len(cases), {})
    with _opened(out / _TABLE, "a") as stream:
        table = csv.writer(stream, lineterminator="\n")
        for n, (case, made) in enumerate(predict_images(ensemble, todo, flips, compute.threads), start=kept + 1):
            if isinstance(made, MeddiffError):
                faults.append(made)
            else:
                rows[_mask(case)] = _write(out, case, made, path)
                table.writerows(rows[_mask(case)].values())
                stream.flush()
            report(n, len(cases), {})
    _write_table(out, rows)
    done = len(todo) - len(faults)
    faults += _write_clinical(out, [case for case in cases if _mask(case) in rows], ensemble.recipe.classes)
    return Predicted(done, kept, (*unread, *faults), tuple(passed))


@contextmanager
def _model_folder(layout: Layout, params: Params, model: str) -> Iterator[Path]:
    if not model.startswith("models:"):
        refuse_withdrawn_segmenters(place := Path(model).expanduser(), tracking_uri(layout, params.tracking))
        yield place
        return
    with TemporaryDirectory(prefix="meddiff-") as folder:
        yield fetch_model(layout, params, model, Path(folder))


def _begun(out: Path, same: dict[str, object]) -> _Rows:
    """The rows of an earlier call, without those of masks that are no longer there; a new folder is begun."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        _write_table(out, {})
        (out / _ABOUT).write_text(json.dumps(same, indent=1) + "\n")
        return {}
    try:
        before = json.loads((out / _ABOUT).read_text())
        text = (out / _TABLE).read_text(encoding="utf-8")
        unlike = [name for name in same if before[name] != same[name]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise MeddiffError(out, "the folder for the predictions must be new or empty, or one that an earlier call began",
                           "Name another with --out") from e
    if unlike:
        raise MeddiffError(out, f"it holds predictions with another {' and '.join(unlike)}", "Name another folder with --out")
    rows: _Rows = {}
    for row in csv.reader(text[:text.rfind("\n") + 1].splitlines(keepends=True)[1:]):  # a killed call may leave half a line
        if len(row) == len(_COLUMNS) and (out / row[1]).is_file():
            rows.setdefault(row[1], {})[row[2]] = tuple(row)
    _write_table(out, rows)
    return rows


def _finished(case: RawCase, rows: _Rows, classes: Sequence[str]) -> bool:
    earlier, file = rows.get(_mask(case), {}), case.file
    return earlier.keys() == set(classes) and file is not None and {row[-1] for row in earlier.values()} == {sha256_once(file)}


def _mask(case: RawCase) -> str:
    return f"masks/{case.id}.png"


def _write(out: Path, case: RawCase, made: Prediction, path: Path) -> dict[str, tuple[str, ...]]:
    """Write the pictures of a case; its rows."""
    write_mask(out / _mask(case), made.mask, len(made.classes), made.orientation)
    write_image(out / "overlays" / f"{case.id}.png", made.overlay)
    file = case.file or path
    name, digest = file.relative_to(path).as_posix() if file != path else file.name, sha256_once(file)
    return {each.class_: (harmless(name), _mask(case), each.class_, f"{each.probability:.4f}", str(each.area_px),
                          _number(each.area_mm2, 3), f"{each.share:.6f}", _number(made.uncertainty, 4), digest)
            for each in made.classes}


def _clinical(out: Path, case: RawCase) -> Path | None:
    """Where the mask of a DICOM frame goes, or that of the volume which a slice is of; None for a picture file."""
    if isinstance(case.image, VolumeSlice):
        return out / "clinical" / f"{case.group or case.id}{volume_suffix(case.image.source)}"
    return out / "clinical" / f"{case.id}.dcm" if isinstance(case.image, DicomFrame) else None


def _write_clinical(out: Path, cases: Sequence[RawCase], classes: Sequence[str]) -> list[MeddiffError]:
    """Write what isn't there (of a case that was predicted anew it was taken away); the faults of what can't be written."""
    faults = list[MeddiffError]()
    volumes = defaultdict[Path, list[tuple[VolumeSlice, RawCase]]](list)
    for case in cases:
        file, image = _clinical(out, case), case.image
        if file is None or file.is_file():
            continue
        if isinstance(image, VolumeSlice):
            volumes[file].append((image, case))
        elif isinstance(image, DicomFrame) and (mask := read_mask(out / _mask(case))).any():
            try:
                write_dicom_mask(image.source, mask, classes, file, image.frame)
            except MeddiffError as fault:
                faults.append(fault)
    for file, slices in volumes.items():
        masks = {image.index: read_mask(out / _mask(case)) for image, case in slices}
        try:
            write_volume_mask(slices[0][0].source, masks, file, slices[0][0].axis, classes)
        except MeddiffError as fault:
            faults.append(fault)
    return faults


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _write_table(out: Path, rows: _Rows) -> None:
    fresh = out / f".{_TABLE}"
    with _opened(fresh, "w") as stream:
        listed = [row for mask in sorted(rows) for row in rows[mask].values()]
        csv.writer(stream, lineterminator="\n").writerows([_COLUMNS, *listed])
    fresh.replace(out / _TABLE)


def _opened(file: Path, mode: str) -> TextIO:
    """For text; bytes of file names that aren't UTF-8 are spelled out."""
    return cast(TextIO, file.open(mode, encoding="utf-8", errors="backslashreplace", newline=""))
