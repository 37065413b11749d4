"""Stage `prepare`: from a raw dataset, or the demo phantoms, to checked square cases in three parts, and backgrounds.

The whole dataset is decoded and checked into a staging folder before any earlier output is replaced.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff.cases import DEEP, Frame, sha256, write_image, write_mask
from meddiff.datasets.adapters import RawCase, decode, fit_square, image_mode, in_memory, read
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.leakage import photographed
from meddiff.datasets.splits import Member, Split, choose_labelled, near_duplicates, split, thumbnail, with_unannotated
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.params import Params, PrepareParams
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar
from meddiff.services.tracking import StageRun

_PHANTOMS = 0  # their seed: the demo is one dataset, whatever `prepare.seed` chooses from it
GRAY = ("1", "L", "LA", *DEEP)   # pixel formats of one channel


@dataclass(frozen=True, eq=False)
class Staged:
    """A checked case whose square image and mask lie in the staging folder.

    Attributes:
        raw: where it came from.
        label: class of the largest part of the mask, 0 where it is empty.
        vanished: the mask holds something at the original size, but nothing at the chosen one.
        frame: the part of the square that shows the image.
        mode: pixel format of the raw image, see `adapters.image_mode`.
        raw_sha256: of the raw image file, empty for an image that never was one.
        thumbnails: `[2, 32, 32]` float32 gray levels, of the original frame and of the same at the chosen size.
    """

    raw: RawCase
    label: int
    vanished: bool
    frame: Frame
    mode: str
    raw_sha256: str
    thumbnails: NDArray[np.float32]

    @property
    def lesion(self) -> bool:
        """Whether the mask holds anything."""
        return self.label > 0

    @property
    def columns(self) -> dict[str, int | str]:
        """Its columns of `cases.csv`: the frame, the raw pixel format and the raw file's hash."""
        return {**asdict(self.frame), "mode": self.mode, "raw_sha256": self.raw_sha256}


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `data/`: the split, three folders of cases, and the lesion-free images.

    Raises:
        MeddiffError: the dataset breaks a rule (see `adapters`, `cases`, `splits`), or has no (labelled) lesion of a class.
    """
    settings = params.prepare
    raw = _list_cases(layout.root, settings)
    layout.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=layout.work) as folder:
        staging = Path(folder)
        staged = _stage(raw, settings, params.compute.threads, staging)
        usable = sorted((case for case in staged if not case.vanished), key=lambda case: not case.raw.annotated)
        if not any(case.lesion for case in usable):
            raise MeddiffError(settings.path, "one mask at least must hold a lesion", "Check the masks: all are empty")
        pairs = _near_duplicates(usable, settings.duplicate_bits)
        members = [Member(case.raw.id, case.raw.group, case.lesion, case.raw.part, case.label)
                   for case in usable if case.raw.annotated]
        others = {case.raw.id: case.raw.group for case in usable if not case.raw.annotated}
        among = pairs[(pairs < len(members)).all(axis=1)]
        parts = split(members, among, settings.val_fraction, settings.test_fraction)
        parts = with_unannotated(parts, members, others, pairs)
        known = {case.raw.id: case for case in usable}
        labels = {id: known[id].label for id in parts.parts["train"] if known[id].raw.annotated}
        labelled = choose_labelled(labels, parts.groups, settings.n_labelled, settings.seed, labels)
        _require_classes(settings.classes, [labels[id] for id in labelled])
        tables = _write(layout, staging, parts, labelled, known)
    counts = _counts(raw, staged, parts, labelled, pairs) | _classes(known, parts, labelled, settings.classes)
    _tell(counts, settings)
    tracker.metrics(counts)
    for name, table in tables.items():
        tracker.dataset(table, name, name)


def _list_cases(root: Path, settings: PrepareParams) -> list[RawCase]:
    if settings.dataset == "demo":
        return [in_memory(case) for lesion, n in ((True, settings.demo_cases), (False, settings.demo_normal))
                for case in make_phantoms(n, lesion, settings.size, settings.demo_modality, _PHANTOMS,
                                          len(settings.classes), settings.demo_lesions)]
    return read(settings.dataset, root / settings.path, settings.classes)


def _near_duplicates(cases: list[Staged], bits: int) -> NDArray[np.intp]:
    """Pairs at the original size or at the chosen one, in which `evaluate` looks for leaks: at the bounds the two differ."""
    sizes = np.stack([case.thumbnails for case in cases], axis=1)
    return np.unique(np.concatenate([near_duplicates(thumbnails, bits) for thumbnails in sizes]), axis=0)


def _require_classes(classes: tuple[str, ...], labels: list[int]) -> None:
    for label, name in enumerate(classes, start=1):
        if label not in labels:
            raise MeddiffError("prepare.classes", f"every class must have a labelled training case, `{name}` has none",
                               "Raise `prepare.n_labelled`, add cases of this class, or leave the class out")


def _stage(cases: list[RawCase], settings: PrepareParams, threads: int, staging: Path) -> list[Staged]:
    """Decode, check and resize each case into `staging`; as many are in memory as there are threads."""

    def stage(raw: RawCase) -> Staged:
        case = decode(raw)
        mask = np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask
        fitted = fit_square(case.image, mask, settings.size, settings.fit)
        areas = np.bincount(fitted.mask.ravel(), minlength=2)[1:]
        label = int(areas.argmax()) + 1 if areas.any() else 0
        write_image(staging / "images" / f"{raw.id}.png", fitted.image)
        write_mask(staging / "masks" / f"{raw.id}.png", fitted.mask, len(settings.classes))
        frame = fitted.image[fitted.frame.top:, fitted.frame.left:][:fitted.frame.height, :fitted.frame.width]
        return Staged(raw, label, bool(mask.any()) and not label, fitted.frame, image_mode(raw),
                      sha256(raw.image) if isinstance(raw.image, Path) else "",
                      np.stack([thumbnail(case.image), thumbnail(frame)]))

    staged = []
    pool = ThreadPoolExecutor(threads)
    try:
        with bar("prepare") as report:
            for done, case in enumerate(pool.map(stage, cases), start=1):
                staged.append(case)
                report(done, len(cases), {})
    finally:
        pool.shutdown(cancel_futures=True)
    return staged


def _write(layout: Layout, staging: Path, parts: Split, labelled: tuple[str, ...],
           known: dict[str, Staged]) -> dict[str, pd.DataFrame]:
    """Fill the output folders and swap them all in; return their tables."""
    tables = {}
    split_file = layout.split.with_name(f".{layout.split.name}.new")
    layout.split.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as swaps:
        folder = swaps.enter_context(replacing(layout.normal))
        tables["normal"] = _write_normal(folder, staging, parts, known)
        for part, ids in parts.parts.items():
            folder = swaps.enter_context(replacing(layout.cases(part)))
            tables[part] = _write_part(folder, staging, ids, set(labelled if part == "train" else ids), parts.groups, known)
        split_file.write_text(json.dumps(parts.parts, indent=1) + "\n")
    split_file.replace(layout.split)
    return tables


def _write_part(folder: Path, staging: Path, ids: Iterable[str], annotated: set[str], groups: dict[str, str],
                known: dict[str, Staged]) -> pd.DataFrame:
    """Move cases into `folder`; masks only of the annotated ones."""
    rows = []
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for id in ids:
        image, mask = f"images/{id}.png", f"masks/{id}.png"
        shutil.move(staging / image, folder / image)
        if id in annotated:
            shutil.move(staging / mask, folder / mask)
        rows.append({"id": id, "group": groups[id], "labelled": int(id in annotated), "image_sha256": sha256(folder / image),
                     "mask_sha256": sha256(folder / mask) if id in annotated else "", **known[id].columns})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "cases.csv", index=False, lineterminator="\n")
    return table


def _write_normal(folder: Path, staging: Path, parts: Split, known: dict[str, Staged]) -> pd.DataFrame:
    """Move the dataset's lesion-free images into `folder`."""
    (folder / "images").mkdir()
    rows = []
    for id in parts.backgrounds:
        target = folder / "images" / f"{id}.png"
        shutil.move(staging / "images" / f"{id}.png", target)
        rows.append({"id": id, "source": "normal", "group": parts.groups[id], "sha256": sha256(target), **known[id].columns})
    table = pd.DataFrame(rows, columns=["id", "source", "group", "sha256", "top", "left", "height", "width", "mode",
                                        "raw_sha256"])
    table.to_csv(folder / "backgrounds.csv", index=False, lineterminator="\n")
    return table


def _counts(raw: list[RawCase], staged: list[Staged], parts: Split, labelled: tuple[str, ...],
            pairs: NDArray[np.intp]) -> dict[str, float]:
    test = {case.raw.id: case for case in staged if case.raw.id in set(parts.parts["test"])}
    shipped = photographed({id: case.raw_sha256 for id, case in test.items()}, photographs(FOUNDATION))
    return {"images": len(raw), **{part: len(ids) for part, ids in parts.parts.items()}, "labelled": len(labelled),
            "test_lesion_free": sum(not case.lesion for case in test.values()), "test_in_foundation": len(shipped),
            "groups": len(set(parts.groups.values())), "near_duplicate_pairs": len(pairs),
            "unannotated": len(parts.unannotated), "left_out_unannotated": len(parts.dropped_unannotated),
            "left_out_vanished": sum(case.vanished for case in staged),
            "left_out_duplicates": len(parts.dropped), "left_out_lesion_free": len(parts.dropped_backgrounds),
            "empty_masks": sum(bool(case.raw.masks) and not case.lesion and not case.vanished and not case.raw.lesion_free
                               for case in staged),
            "backgrounds_normal": len(parts.backgrounds)}


def _classes(known: dict[str, Staged], parts: Split, labelled: tuple[str, ...], classes: tuple[str, ...]) -> dict[str, float]:
    """Cases of each class by its largest part, where there are several classes; and images that weren't 8-bit colour."""
    groups = {**parts.parts, "labelled": labelled}
    found: dict[str, float] = {f"{part}_{name}": sum(known[id].label == label for id in ids) for part, ids in groups.items()
             for label, name in enumerate(classes, start=1) if len(classes) > 1}
    used = [known[id].mode for ids in (*parts.parts.values(), parts.backgrounds) for id in ids]
    return found | {"gray_images": sum(mode in GRAY for mode in used), "deep_images": sum(mode in DEEP for mode in used)}


def _tell(counts: dict[str, float], settings: PrepareParams) -> None:
    """What a user must know of the split, one line each."""
    lines = ["{train} training ({labelled} labelled), {val} validation and {test} test cases; "
             "{backgrounds_normal} lesion-free images"]
    notes = {"unannotated": "of the training cases have no annotation at all: the foundation learns from them, and lesions found "
             "in them make sites",
             "left_out_unannotated": "images without annotation left out: a relative or near-duplicate is in validation or test",
             "left_out_vanished": "cases left out: their lesion is smaller than a pixel at this size",
             "left_out_duplicates": "cases left out: near-duplicates of cases in a later part of the dataset's own split",
             "left_out_lesion_free": "lesion-free images left out: a relative is in validation, or a near-duplicate has a lesion",
             "test_lesion_free": "of the test cases are lesion-free: what is found in them is false",
             "test_in_foundation": "test cases are photographs that the foundation `embedded` was trained on: set "
             "`foundation.source` to `scratch` or make another split, else `evaluate` will refuse them",
             "empty_masks": "masks are empty: their images count as lesion-free",
             "gray_images": "images have one channel: it stands in red, green and blue alike",
             "deep_images": "images have more than 8 bits: the 0.1th to 99.9th percentile of each became 0 to 255"}
    lines += [f"{{{name}}} {note}" for name, note in notes.items() if counts[name]]
    if len(settings.classes) > 1:
        lines += [f"{name}: " + ", ".join(f"{{{part}_{name}}} {part}" for part in ("train", "labelled", "val", "test"))
                  for name in settings.classes]
    if counts["labelled"] < settings.n_labelled:
        lines.append(f"`prepare.n_labelled` is {settings.n_labelled}; there are {{labelled}} annotated training cases, all are "
                     "labelled")
    for line in lines:
        print(f"prepare: {line.format(**counts)}", file=sys.stderr)
