"""What the masks of a dataset measure, and whether they can be right: areas, lesions that a size loses, outlines to look at."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import label

from meddiff.cases import CLASS_COLOURS, Case, Frame, Pixels, outlined, tiled
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams

_WIDE, _HALF = 0.9, 0.5    # ours: shares of the frame that hardly any lesion, and hardly the half of all lesions, has
_TINY = 4                  # pixels at the chosen size that say nothing of a shape
_KEPT = 0.95               # share of the lesions that the advised size keeps
_SIDES = PrepareParams.model_json_schema()["properties"]["size"]  # its bounds
_EMPTY = {"lesion_free": "their images count as lesion-free",
          "unannotated": "their images count as not annotated, those of a given validation or test part are left out; if they "
          "are lesion-free, set `prepare.empty_masks: lesion_free`"}
_SHOWN, _COLUMNS = 24, 6


@dataclass(frozen=True, eq=False)
class MaskMeasures:
    """What is measured of a mask.

    Attributes:
        share: of the frame that it covers, in [0, 1].
        area: at the chosen size [pixels].
        needed: `[L]` least size at which each lesion, a connected part of one class, keeps a pixel for sure [pixels].
        lost: lesions without a pixel at the chosen size.
    """

    share: float
    area: int
    needed: NDArray[np.float64]
    lost: int


def measure(mask: Pixels, fitted: Pixels, frame: Frame) -> MaskMeasures:
    """Measure a mask.

    Args:
        mask: `[H, W]` uint8 of 0 to K, at its original size.
        fitted: `[S, S]`, the same at the chosen size.
        frame: where `fitted` shows it.
    """
    lesions = np.asarray(label(mask, connectivity=2), dtype=np.int32)
    small = np.asarray(Image.fromarray(lesions).resize((frame.width, frame.height), Image.Resampling.NEAREST))
    boxes = [tuple(side.stop - side.start for side in box) for box in ndimage.find_objects(lesions)]
    scale = np.array([len(fitted) * mask.shape[0] / frame.height, len(fitted) * mask.shape[1] / frame.width])
    needed = np.array([max(scale / box) for box in boxes])
    return MaskMeasures(float((mask > 0).mean()), int((fitted > 0).sum()), needed, len(boxes) - len(np.unique(small[small > 0])))


def refuse_colours(colours: Mapping[str, Iterable[str]]) -> None:
    """Masks of one class must show their lesions in one colour: of two kinds of lesions each may have its own.

    Args:
        colours: id -> colours of the lesion in its mask files.

    Raises:
        MeddiffError: there are several, with their numbers and examples.
    """
    users: dict[str, list[str]] = {}
    for id, names in colours.items():
        for name in names:
            users.setdefault(name, []).append(id)
    if len(users) > 1:
        listed = "; ".join(f"{name} in {len(ids)}, such as {', '.join(ids[:2])}" for name, ids in sorted(users.items()))
        raise MeddiffError("prepare.classes", f"masks of one class show the lesion in one colour, not {len(users)}: {listed}",
                           "Save the masks in black and white, or as class indices and name the classes in `prepare.classes`")


def count_lesions(masks: Iterable[MaskMeasures]) -> dict[str, float]:
    """Lesions in the masks, and those of them without a pixel at the chosen size."""
    known = list(masks)
    return {"lesions": sum(len(mask.needed) for mask in known), "lesions_lost": sum(mask.lost for mask in known)}


def tell_masks(masks: Mapping[str, MaskMeasures], empty: Sequence[str], settings: PrepareParams) -> list[str]:
    """Area statistics and warnings, a line each.

    Args:
        masks: of the annotated images by id, without lesion-free ones.
        empty: ids of images whose annotation is there but empty.
    """
    filled = {id: mask for id, mask in masks.items() if len(mask.needed)}
    if not filled:
        return []
    shares, total = np.array([mask.share for mask in filled.values()]), len(filled) + len(empty)
    least, middle, most = np.percentile(shares, (0, 50, 100))
    lines = [f"masks cover {middle:.1%} of the frame (median; {least:.2%} to {most:.1%}); {len(empty)} of {total} "
             f"({len(empty) / total:.0%}) are empty"]
    if empty:
        lines.append(f"warning: empty: {_names(empty)}; {_EMPTY[settings.empty_masks]}")
    inverted = "black is the background: invert them if it shows the lesion"
    if wide := [id for id, mask in filled.items() if mask.share > _WIDE]:
        lines.append(f"warning: {_names(wide)} cover more than {_WIDE:.0%} of the frame; {inverted}")
    if (shares > _HALF).mean() > 0.5:
        lines.append(f"warning: {(shares > _HALF).sum()} of {len(filled)} masks cover more than half of the frame; {inverted}")
    if tiny := [id for id, mask in filled.items() if 0 < mask.area <= _TINY]:
        lines.append(f"warning: {_names(tiny)} hold {_TINY} pixels at most at this size: raise `prepare.size`, or check them")
    return [*lines, *_tell_lost(list(filled.values()), settings.size)]


def _tell_lost(masks: Sequence[MaskMeasures], size: int) -> list[str]:
    counts, needed = count_lesions(masks), np.concatenate([mask.needed for mask in masks])
    if not counts["lesions_lost"]:
        return []
    low, high, step = (int(_SIDES[bound]) for bound in ("minimum", "maximum", "multipleOf"))
    advised = max(low, int(np.ceil(np.quantile(needed, _KEPT, method="higher") / step)) * step)
    advice = f"`prepare.size: {advised}` keeps {(needed <= advised).mean():.0%} of them"
    if advised <= size:
        advice = f"{size} pixels are enough for {(needed <= size).mean():.0%} of them"
    elif advised > high:
        advice = f"no size up to {high} keeps {_KEPT:.0%} of them: cut the images into parts"
    return [f"warning: of {len(needed)} lesions {len(needed) - counts['lesions_lost']:.0f} are left at {size} pixels, "
            f"{counts['lesions_lost']:.0f} small ones have no pixel there; {advice}"]


def _names(ids: Sequence[str], shown: int = 4) -> str:
    """`1 mask (a)`, or `9 masks (a, b, c, d, …)`."""
    return f"{len(ids)} mask{'s' * (len(ids) != 1)} ({', '.join(ids[:shown])}{', …' * (len(ids) > shown)})"


def outline_sheet(masks: Mapping[str, MaskMeasures], read: Callable[[str], Case]) -> Image.Image:
    """The cases of the smallest, middle and largest masks with their outlines, in rows of six, from the smallest on.

    Args:
        masks: by id.
        read: the prepared case of an id.
    """
    ordered = sorted((id for id in masks if masks[id].area), key=lambda id: (masks[id].share, id))
    third, spare = _SHOWN // 3, max(0, len(ordered) - _SHOWN) // 2
    chosen = [*ordered[:third], *ordered[third + spare:2 * third + spare], *ordered[max(2 * third, len(ordered) - third):]]
    return tiled([outlined(case.image, [(case.mask == k, CLASS_COLOURS[k - 1]) for k in np.unique(case.mask).tolist() if k])
                  for case in map(read, chosen) if case.mask is not None], _COLUMNS)
