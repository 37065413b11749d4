"""The dataset for nnU-Net v2: real and synthetic training pairs in its raw format, validation apart, test images.

Format: nnU-Net v2's `dataset_format.md` and its reader `NaturalImage2DIO`: `imagesTr/CASE_0000.png` (RGB: one file of three
channels), `labelsTr/CASE.png` (indices 0 to K), `imagesTs/`, `dataset.json`. Its planner takes `splits_final.json` from here.
"""

import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from meddiff.cases import Case, write_image
from meddiff.delivery.deliveries import note_delivery, present_generators
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import KINDS, nothing
from meddiff.outputs.sources import refuse_withdrawn_sources
from meddiff.params import Params
from meddiff.params.arms import TREATED, Arm, arm_names, arm_of
from meddiff.progress import Report, silent

_RESERVED = ("background", "ignore")  # labels with a meaning of their own


@dataclass(frozen=True)
class Exported:
    """A written dataset: its folder, and the number of images by kind."""

    folder: Path
    real: int
    added: int
    validation: int
    test: int


def export(
    layout: Layout, params: Params, out: Path, arm: str = TREATED, number: int = 501, report: Report = silent,
    test_labels: bool = False,
) -> Exported:
    """Write `DatasetNNN_NAME_ARM/` of one arm below `out`.

    The only split, fold 0, trains on the annotated training cases and the arm's pairs and validates on the validation cases; a
    pair is never validated on. nnU-Net draws all training cases alike, so the share of pairs is set by their number: at most
    `segment.ratio` for each real case, or RATIO in the arm `synthetic_xRATIO`, drawn with seed 0.

    Args:
        out: nnU-Net's `nnUNet_raw`, or a new folder.
        arm: one whose training cases lie in files (`Arm.in_files`). Pairs are called `synthetic_ID`, and images without
            annotation in which lesions were found `found_ID`.
        number: 1 to 999; nnU-Net keeps those below 500 for published datasets.
        report: called after each image.
        test_labels: also write `labelsTs/`, the annotation of the test images, for `nnUNetv2_evaluate_folder`.

    Raises:
        MeddiffError: no such arm, the number is taken, a class has a name that nnU-Net reserves, the project isn't that far or
            holds other classes than params.yaml or a withdrawn patient, or an arm of pairs has none.
    """
    names = params.prepare.classes
    if reserved := [name for name in names if name.lower() in _RESERVED]:
        raise MeddiffError("prepare.classes", f"nnU-Net gives the label `{reserved[0]}` a meaning of its own", "Rename the class")
    dataset = Path(params.prepare.path).name if params.prepare.dataset == "folder" else params.prepare.dataset
    folder = out.resolve() / f"Dataset{number:03d}_{re.sub('[^A-Za-z0-9]+', '_', f'{dataset}_{arm}').strip('_')}"
    _check_free(folder, number)
    refuse_withdrawn_sources(layout)
    real, validation = read_cases(layout.cases("train")), read_cases(layout.cases("val"))
    test = read_cases(layout.cases("test"), labelled=test_labels)
    row = _exportable(arm)
    pairs = _pairs(layout, row, params.segment.ratio, len(real))
    training = [*(real if row.real else []), *pairs]
    ids = Counter(case.id for case in (*training, *validation, *test))
    if repeated := [id for id, n in ids.items() if n > 1]:
        raise MeddiffError(f"case {repeated[0]}", "ids of cases must differ", "Rename its files and run `dvc repro prepare`")
    done = 0
    with replacing(folder) as fresh:
        for part, cases in (("Tr", training), ("Tr", validation), ("Ts", test)):
            (fresh / f"images{part}").mkdir(exist_ok=True)
            for case in cases:
                write_image(fresh / f"images{part}" / f"{case.id}_0000.png", case.image)
                if case.mask is not None:
                    write_labels(fresh / f"labels{part}" / f"{case.id}.png", case, len(names))
                done += 1
                report(done, len(ids), {})
        _write_json(fresh / "splits_final.json", [{"train": [c.id for c in training], "val": [c.id for c in validation]}])
        _write_json(fresh / "dataset.json", {
            "name": folder.name,
            "description": f"meddiff, arm {arm}: {len(training) - len(pairs)} real and {len(pairs)} added training pairs, "
                           f"{len(validation)} real validation cases. Train fold 0 alone: in others pairs are validated on.",
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": {"background": 0} | {name: i for i, name in enumerate(names, 1)},
            "numTraining": len(training) + len(validation),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        })
    note_delivery(layout, params, "export", "nnunet", str(folder), present_generators(layout), len(pairs))
    return Exported(folder, len(training) - len(pairs), len(pairs), len(validation), len(test))


def _check_free(folder: Path, number: int) -> None:
    out = folder.parent
    if out.exists() and not out.is_dir():
        raise MeddiffError(out, "the place for datasets must be a folder", "Name another")
    for taken in sorted(out.glob(f"Dataset{number:03d}_*")) if out.is_dir() else []:
        if taken != folder or not taken.is_dir() or any(taken.iterdir()):
            raise MeddiffError(taken, f"the number {number} is taken", "Choose another by --number, or remove what is there")


def _exportable(name: str) -> Arm:
    with suppress(ValueError):
        if (arm := arm_of(name)).in_files:
            return arm
    raise MeddiffError(f"arm {name}", f"nnU-Net gets one of {', '.join(arm_names(in_files=True))}", "Choose one by --arm")


def _pairs(layout: Layout, arm: Arm, ratio: float, n_real: int) -> list[Case]:
    limit, kept = arm.most(ratio, n_real), []
    for kind in arm.adds:
        name, found = "found" if kind == "found" else "synthetic", KINDS[kind](layout)
        if not found:
            raise nothing(layout, kind, arm.name, "Choose another by --arm")
        drawn = sorted(np.random.default_rng(0).permutation(len(found))[:limit].tolist())
        kept += [replace(found[i], id=f"{name}_{found[i].id}", group="").read() for i in drawn]
    return kept


def write_labels(path: Path, case: Case, classes: int) -> None:
    """Write a mask as indices in one channel: many readers give a palette's colours, and 255 would be a class.

    Raises:
        MeddiffError: the mask holds a class that prepare.classes doesn't name.
    """
    assert case.mask is not None
    labels = (case.mask > 0).astype(np.uint8) if classes == 1 else case.mask
    if labels.max(initial=0) > classes:
        raise MeddiffError(f"case {case.id}", f"its mask holds class {labels.max()}, prepare.classes names {classes}",
                           "Run `dvc repro`")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, compress_level=3)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
