"""Ultrasound datasets: BUSI (breast) and DDTI (thyroid)."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from meddiff.datasets.adapters.raw import Polygon, RawCase, image_files
from meddiff.errors import MeddiffError

_LESIONS = ("benign", "malignant")


def busi(path: Path, classes: Sequence[str] = ("lesion",)) -> list[RawCase]:
    """BUSI: `Dataset_BUSI_with_GT/{benign,malignant,normal}/benign (1).png`, `benign (1)_mask.png`, further `_mask_1.png`, ….

    `path` may be the folder above `Dataset_BUSI_with_GT` or that folder. Images of `normal` are lesion-free. Ids are written
    `benign_001`. BUSI tells no patients; its duplicates, also across classes, are found by near-duplicate search.

    With several classes, which are then `benign` and `malignant` in either order, a lesion's folder is its class; with one class
    all lesions are of it.

    Raises:
        MeddiffError: see `read`.
    """
    if len(classes) > 1 and set(classes) != set(_LESIONS):
        raise MeddiffError("prepare.classes", f"BUSI tells the classes benign and malignant, not {', '.join(classes)}",
                           "Write [benign, malignant], or one class for all lesions")
    root = path / "Dataset_BUSI_with_GT"
    root = root if root.is_dir() else path
    labels = {name: list(classes).index(name) + 1 if len(classes) > 1 else 1 for name in _LESIONS}
    return [case for name in (*_LESIONS, "normal") for case in _busi_class(root / name, labels.get(name, 1))]


def _busi_class(folder: Path, label: int) -> list[RawCase]:
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = defaultdict(list)
    for stem, file in image_files(folder).items():
        if found := re.fullmatch(r"(.+)_mask(_\d+)?", stem):
            masks[found[1]].append(file)
        else:
            images[stem] = file
    lesion_free = folder.name == "normal"
    for stem, files in masks.items():
        if stem not in images:
            raise MeddiffError(files[0], f"a mask must have its image `{stem}.png`", "Add the image, or take the mask out")
    for stem, file in images.items():
        if stem not in masks and not lesion_free:
            raise MeddiffError(file, f"an image must have its mask `{stem}_mask.png`", "Add the mask, or take the image out")
    return [RawCase(name := _busi_id(stem), file, tuple(masks[stem]), name, lesion_free, label=label)
            for stem, file in images.items()]


def _busi_id(stem: str) -> str:
    numbered = re.fullmatch(r"(\w+) \((\d+)\)", stem)
    return f"{numbered[1]}_{int(numbered[2]):03d}" if numbered else stem.replace(" ", "_")


def ddti(path: Path) -> list[RawCase]:
    """DDTI: `1_1.jpg`, `1_2.jpg` and `1.xml` in one folder; the case number is the patient.

    Each `<mark>` of the XML names an `<image>` of the case and holds in `<svg>` a JSON list of polygons; all polygons of an
    image are united. An image without any polygon has no annotation: nothing says that it is lesion-free. A mark whose image
    isn't published says nothing about any image and is passed over.

    Raises:
        MeddiffError: see `read`; or an XML file or the JSON in it is malformed.
    """
    cases = []
    outlines: dict[str, tuple[Polygon, ...]] = {}
    for file in sorted(path.glob("*.xml")):
        outlines |= _marks(file)
    for stem, image in image_files(path).items():
        if found := re.fullmatch(r"(\d+)_\d+", stem):
            cases.append(RawCase(f"ddti_{stem}", image, outlines.get(stem, ()), f"patient_{found[1]}"))
    if cases and not any(case.masks for case in cases):
        raise MeddiffError(path, "an image must have polygons in its case's XML file", "Put the XML files beside the images")
    return cases


def _marks(file: Path) -> dict[str, tuple[Polygon, ...]]:
    """The polygons of one case by image stem. A document type is refused: entities could expand without bound."""
    content = file.read_bytes()
    try:
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError("it declares a document type")
        marks: dict[str, list[Polygon]] = defaultdict(list)
        for mark in ElementTree.fromstring(content).iter("mark"):
            shapes = json.loads((mark.findtext("svg") or "").strip() or "[]")
            stem = f"{file.stem}_{int(mark.findtext('image') or '')}" if shapes else ""
            for shape in shapes:
                points = np.array([(float(point["x"]), float(point["y"])) for point in shape["points"]])
                if len(points) >= 3:
                    marks[stem].append(Polygon(points, file))
    except (ElementTree.ParseError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise MeddiffError(file, f"a DDTI case holds marks with polygons as JSON in XML ({type(e).__name__}: {e})",
                           "Replace the file with an intact copy, or take the case out") from e
    return {stem: tuple(found) for stem, found in marks.items()}
