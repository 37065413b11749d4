"""Small exports as annotation tools write them."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks

SIZE = (20, 30)
POLYGON = [(3.0, 2.0), (14.0, 4.0), (9.0, 15.0)]
Bools = NDArray[np.bool_]


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return path


def ring() -> Bools:
    """A square with a hole."""
    inside = np.zeros(SIZE, np.bool_)
    inside[4:16, 10:25] = True
    inside[8:11, 14:19] = False
    return inside


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(root: Path, segmentations: Sequence[Any], categories: Sequence[str] = ("lesion",)) -> dict[str, Any]:
    """An image for each annotation; categories by turns."""
    images = [picture(root / f"images/{i}.png").name for i in range(len(segmentations))]
    return {"images": [{"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0]} for i, name in enumerate(images)],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(categories)],
            "annotations": [{"id": i, "image_id": i, "category_id": i % len(categories) + 1, "segmentation": drawn, "iscrowd": 0}
                            for i, drawn in enumerate(segmentations)]}


def compressed(inside: Bools) -> dict[str, Any]:
    packed = coco_masks.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def plain_runs(flat: NDArray[Any]) -> list[int]:
    """Lengths of runs, of background first."""
    ends = [i for i in range(1, len(flat)) if flat[i] != flat[i - 1]] + [len(flat)]
    return ([0] if flat[0] else []) + np.diff([0, *ends]).tolist()


def base64_png(pixels: NDArray[Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def labelme(name: str, shapes: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"version": "5.5.0", "flags": {},
            "shapes": [{"label": "lesion", "group_id": None, "flags": {}, **shape} for shape in shapes],
            "imagePath": name, "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **changes}


def cvat(images: Sequence[tuple[str, str]], labels: Sequence[str] = ("lesion",)) -> str:
    """Names of images, and the XML of their shapes."""
    listed = "".join(f'<image id="{i}" name={quoteattr(name)} width="{SIZE[1]}" height="{SIZE[0]}">{shapes}</image>'
                     for i, (name, shapes) in enumerate(images))
    names = "".join(f"<label><name>{label}</name></label>" for label in labels)
    return '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>' \
        f"<meta><job><labels>{names}</labels></job></meta>{listed}</annotations>"


def cvat_mask(inside: Bools) -> str:
    """As CVAT's XML has it: the runs of the box around the mask, row by row."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = inside[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    runs = ", ".join(map(str, plain_runs(box.ravel())))
    return (f'<mask label="lesion" source="manual" occluded="0" rle="{runs}" left="{columns[0]}" '
            f'top="{rows[0]}" width="{box.shape[1]}" height="{box.shape[0]}" z_order="0"></mask>')


def brush(inside: Bools, alpha: int = 255) -> list[int]:
    """Label Studio's run lengths: single values and series, of all four sizes."""
    flat = np.repeat(inside.ravel().astype(np.uint8) * alpha, 4)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    place = 0
    while place < len(flat):
        ahead = np.flatnonzero(flat[place:] != flat[place])
        run = int(ahead[0]) if len(ahead) else len(flat) - place
        kind, size = next((i, size) for i, size in enumerate((3, 4, 8, 16)) if run <= 1 << size or size == 16)
        run = min(run, 1 << size)
        value = f"{flat[place]:08b}"
        bits += f"{int(run > 4)}{kind:02b}{run - 1:0{size}b}" + value * (1 if run > 4 else run)
        place += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)]


def region(kind: str, value: dict[str, Any], label: str = "lesion", **changes: Any) -> dict[str, Any]:
    return {"id": "r", "type": f"{kind}labels", "from_name": "tag", "to_name": "image", "original_width": SIZE[1],
            "original_height": SIZE[0], "image_rotation": 0, "value": {**value, f"{kind}labels": [label]}, **changes}


def task(id: int, image: str, results: Sequence[dict[str, Any]] | None, **changes: Any) -> dict[str, Any]:
    annotations = [] if results is None else [{"id": id, "result": list(results), "was_cancelled": False, "ground_truth": False}]
    return {"id": id, "data": {"image": image}, "annotations": annotations, "predictions": [], **changes}


def yolo_line(index: int, points: Sequence[tuple[float, float]]) -> str:
    return " ".join([str(index), *(f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in points)])
