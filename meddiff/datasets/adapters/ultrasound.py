"""Ultrasound datasets: BUSI (breast) and DDTI (thyroid)."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from meddiff.cases import UNREADABLE
from meddiff.datasets.adapters.listing import list_files, require_pairs
from meddiff.datasets.adapters.raw import Polygon, RawCase
from meddiff.errors import MeddiffError, likewise

_LESIONS = ("benign", "malignant")
_BESIDE = "a polygon lies outside of its image, so that the image counts as not annotated; mend the mark"
_CUT = "a mark is cut short, so that the image counts as not annotated; mend the mark"
_SHORT = "an outline of fewer than three points is passed over; draw it again"


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
    for stem, file in list_files(folder).items():
        if named := re.fullmatch(r"(.+)_mask(_\d+)?", stem):
            masks[named[1]].append(file)
        else:
            images[stem] = file
    lesion_free = folder.name == "normal"
    wanted = {stem: file for stem, file in images.items() if stem in masks or not lesion_free}
    require_pairs(wanted, {stem: files[0] for stem, files in masks.items()}, (folder, folder), "_mask")
    return [RawCase(_busi_id(stem), file, tuple(masks[stem]), lesion_free=lesion_free, label=label)
            for stem, file in images.items()]


def _busi_id(stem: str) -> str:
    numbered = re.fullmatch(r"(\w+) \((\d+)\)", stem)
    return f"{numbered[1]}_{int(numbered[2]):03d}" if numbered else stem.replace(" ", "_")


def ddti(path: Path) -> list[RawCase]:
    """DDTI: `1_1.jpg`, `1_2.jpg` and `1.xml` in one folder; the case number is the patient.

    Each `<mark>` of the XML names an `<image>` of the case and holds in `<svg>` a JSON list of polygons; all polygons of an
    image are united. An image without any polygon has no annotation: nothing says that it is lesion-free. Nor has one of whose
    polygons one lies beside it, or whose mark is cut short: `RawCase.doubt` says so. A mark whose image isn't published says
    nothing about any image and is passed over.

    Raises:
        MeddiffError: see `read`; or XML files, or what is in them, are malformed: all are named.
    """
    outlines: dict[str, list[Polygon | str]] = {}
    faults = list[tuple[Path, str]]()
    for stem, file in list_files(path, (".xml",)).items():
        if stem.isdecimal():
            try:
                outlines |= _marks(file, stem)
            except (ElementTree.ParseError, ValueError, TypeError, KeyError, AttributeError) as e:
                faults.append((file, f"{type(e).__name__}: {e}"))
    if faults:
        further = likewise([file.name for file, _ in faults[1:]])
        raise MeddiffError(faults[0][0], f"a DDTI case holds marks with polygons as JSON in XML ({faults[0][1]}){further}",
                           "Replace these files with intact copies, or take the cases out")
    cases = [_ddti_case(stem, image, outlines.get(stem, [])) for stem, image in list_files(path).items()
             if re.fullmatch(r"\d+_\d+", stem)]
    if cases and not any(case.masks for case in cases):
        why = next((f": {case.doubt}" for case in cases if case.doubt), "")
        raise MeddiffError(path, f"an image must have polygons in its case's XML file{why}",
                           "Put intact XML files beside the images")
    return cases


def _ddti_case(stem: str, image: Path, outlines: Sequence[Polygon | str]) -> RawCase:
    polygons = tuple(each for each in outlines if isinstance(each, Polygon))
    doubts = [each for each in outlines if isinstance(each, str)]
    if any(_beside(each.points, image) for each in polygons):
        doubts.insert(0, _BESIDE)
    usable = () if {_BESIDE, _CUT} & set(doubts) else polygons
    return RawCase(f"ddti_{stem}", image, usable, f"patient_{stem.partition('_')[0]}", doubt=doubts[0] if doubts else "")


def _beside(points: NDArray[np.float64], image: Path) -> bool:
    """Whether a polygon lies outside of its image throughout; not told of an image that doesn't open, which `decode` names."""
    try:
        with Image.open(image) as header:
            size = header.size
    except UNREADABLE:
        return False
    return bool((points.max(axis=0) < 0).any() or (points.min(axis=0) >= size).any())


def _marks(file: Path, case: str) -> dict[str, list[Polygon | str]]:
    """The polygons of one case by image stem, and what keeps others from being read. A document type is refused: entities could
    expand without bound."""
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("it declares a document type")
    marks: dict[str, list[Polygon | str]] = defaultdict(list)
    for mark in ElementTree.fromstring(content).iter("mark"):
        text = (mark.findtext("svg") or "").strip()
        stem = f"{case}_{int(mark.findtext('image') or '')}" if text else ""
        try:
            shapes = json.loads(text or "[]")
        except ValueError:
            marks[stem].append(_CUT)
            continue
        for shape in shapes:
            points = np.array([(float(point["x"]), float(point["y"])) for point in shape["points"]])
            if not np.isfinite(points).all():
                raise ValueError("a corner must be two finite numbers")
            marks[stem].append(Polygon(points, file) if len(points) >= 3 else _SHORT)
    return marks
