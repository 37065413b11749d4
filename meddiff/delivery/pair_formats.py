"""Accepted pairs in the formats of annotation tools and of loaders. Each says that they are synthetic."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.measure import find_contours

from meddiff.cases import Case, Pixels, png_bytes
from meddiff.delivery.clinical_pairs import write_dicom, write_nifti
from meddiff.delivery.nnunet import write_labels

_Bits = NDArray[np.bool_]
_LABELME = "5.5.0"  # whose fields these are


def write_coco(folder: Path, cases: Iterable[Case], classes: Sequence[str]) -> None:
    """Write `annotations.json`: each connected part of a class is an annotation, its mask an exact run-length code."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, case in enumerate(cases, start=1):
        height, width = case.image.shape[:2]
        images.append({"id": number, "file_name": f"images/{case.id}.png", "height": height, "width": width, "synthetic": True})
        for label, part in class_parts(case):
            (top, bottom), (left, right) = bounds(part)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0, "area": int(part.sum()),
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": {"size": [height, width], "counts": run_lengths(part)}})
    _write(folder / "annotations.json", {
        "info": {"description": "synthetic pairs, made and filtered by meddiff", "synthetic": True}, "licenses": [],
        "images": images, "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "lesion"} for i, name in enumerate(classes, start=1)]})


def write_labelme(folder: Path, cases: Iterable[Case], classes: Sequence[str]) -> None:
    """Write `images/ID.json` beside each image: a polygon for each connected part, a mask for one with a hole or a thread.

    A polygon runs through the centres of the outermost pixels, and belongs to the shape, as labelme fills it.
    """
    for case in cases:
        height, width = case.image.shape[:2]
        shapes = [{"label": classes[label - 1], "group_id": None, "description": "", "flags": {}, **_shape(part)}
                  for label, part in class_parts(case)]
        _write(folder / f"images/{case.id}.json", {
            "version": _LABELME, "flags": {"synthetic": True}, "shapes": shapes, "imagePath": f"{case.id}.png",
            "imageData": None, "imageHeight": height, "imageWidth": width})


def write_datalist(folder: Path, cases: Iterable[Case], classes: Sequence[str]) -> None:
    """Write `dataset.json` as MONAI's `load_decathlon_datalist` reads it, with `labels/ID.png` of indices 0 to K."""
    training = []
    for case in cases:
        write_labels(folder / f"labels/{case.id}.png", case, len(classes))
        training.append({"image": f"images/{case.id}.png", "label": f"labels/{case.id}.png", "synthetic": True})
    _write(folder / "dataset.json", {
        "name": "meddiff", "description": "synthetic pairs, made and filtered by meddiff", "synthetic": True,
        "modality": {"0": "R", "1": "G", "2": "B"}, "labels": dict(enumerate(["background", *classes])),
        "numTraining": len(training), "numTest": 0, "training": training, "test": []})


def write_imagefolder(folder: Path, cases: Iterable[Case], classes: Sequence[str]) -> None:
    """Write `metadata.jsonl`, by which Hugging Face's `imagefolder` reads `images/` and the masks in `masks/`."""
    rows = ({"file_name": f"images/{case.id}.png", "mask_file_name": f"masks/{case.id}.png", "id": case.id, "synthetic": True,
             "classes": [classes[label - 1] for label in np.unique(np.asarray(case.mask)).tolist() if label]} for case in cases)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


FORMATS: dict[str, Callable[[Path, Iterable[Case], Sequence[str]], None]] = {
    "coco": write_coco, "labelme": write_labelme, "monai": write_datalist, "imagefolder": write_imagefolder, "dicom": write_dicom,
    "nifti": write_nifti}


def class_parts(case: Case) -> Iterator[tuple[int, _Bits]]:
    """The connected parts `[H, W]` of each class of a mask, with the class."""
    assert case.mask is not None
    for label in range(1, int(case.mask.max(initial=0)) + 1):
        numbers, n = ndimage.label(case.mask == label, np.ones((3, 3), bool))
        for number in range(1, n + 1):
            yield label, numbers == number


def bounds(part: _Bits) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and the one after the last, first column and the one after the last, of a region that isn't empty."""
    rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def run_lengths(part: _Bits) -> list[int]:
    """COCO's code of a region: lengths of the runs of 0 and 1 in turns, column by column, of 0 first."""
    flat = part.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def _shape(part: _Bits) -> dict[str, Any]:
    """A polygon if labelme fills it to this very region, else its cut-out as a mask."""
    points = _outline(part)
    drawn = Image.new("1", part.shape[::-1])
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in points], outline=1, fill=1)
    if np.array_equal(np.asarray(drawn), part):
        return {"shape_type": "polygon", "points": points, "mask": None}
    (top, bottom), (left, right) = bounds(part)
    cut: Pixels = part[top:bottom, left:right].astype(np.uint8)
    return {"shape_type": "mask", "points": [[left, top], [right - 1, bottom - 1]],
            "mask": base64.b64encode(png_bytes(Image.fromarray(cut))).decode()}


def _outline(part: _Bits) -> list[list[int]]:
    """The pixels (x, y) on the outer border, in turn; three at least."""
    padded = np.pad(part, 1)
    longest = max(find_contours(padded.astype(np.float64), 0.5, fully_connected="high"), key=len)
    ends = np.stack([np.floor(longest), np.ceil(longest)]).astype(int)  # the two pixels that a point lies between
    inside = padded[tuple(ends[0].T)]
    chain = np.where(inside[:, None], ends[0], ends[1])[:-1] - 1
    moved = (chain != np.roll(chain, 1, axis=0)).any(axis=1)
    chain = chain[moved] if moved.any() else chain[:1]
    step = chain - np.roll(chain, 1, axis=0)
    corners = chain[(step != np.roll(step, -1, axis=0)).any(axis=1)] if len(chain) > 2 else chain
    points: list[list[int]] = corners[:, ::-1].tolist()
    return points + points[:1] * (3 - len(points))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
