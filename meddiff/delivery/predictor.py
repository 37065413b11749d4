"""What an ensemble of segmenters says of images of any size: masks that lie on their files, overlays and numbers."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from meddiff.cases import CLASS_COLOURS, Frame, Pixels, outlined
from meddiff.datasets.adapters import RawCase, decoded_image, fit_square, unfit_square
from meddiff.datasets.decoding import as_stored, turned
from meddiff.errors import MeddiffError
from meddiff.segmentation.decision import mask_of
from meddiff.segmentation.ensemble import Ensemble, disagreement

_SHOWN = 1024  # greatest side of an overlay [pixels]: it is for eyes alone


@dataclass(frozen=True)
class ClassResult:
    """What was found of one class in one image.

    Attributes:
        class_: its name.
        probability: the greatest of any pixel of the square that the networks see, 0 to 1; it isn't calibrated.
        area_px: of the mask, in pixels of the file.
        area_mm2: the same [mm²], NaN where the spacing isn't known.
        share: of the image that it covers, 0 to 1.
    """

    class_: str
    probability: float
    area_px: int
    area_mm2: float
    share: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of one image.

    Attributes:
        mask: `[H, W]` uint8 of 0 to K, pixel by pixel that of the file as stored; empty where the image shows no lesion
            (`Ensemble.judge`), however probable one of its pixels is.
        orientation: EXIF's, of the file.
        overlay: `[h, w, 3]` uint8, the image as it is seen with the outline of each class, at most 1024 pixels a side.
        classes: one each.
        uncertainty: see `ensemble.disagreement`, of the members' masks of the square.
    """

    mask: Pixels
    orientation: int
    overlay: Pixels
    classes: tuple[ClassResult, ...]
    uncertainty: float


@dataclass(frozen=True, eq=False)
class _Input:
    """An image as the networks see it, and what leads back: its size and orientation as seen, spacing, and a small picture."""

    square: Pixels
    frame: Frame
    height: int
    width: int
    orientation: int
    spacing: tuple[float, float] | None
    small: Pixels


def predict_images(ensemble: Ensemble, cases: Sequence[RawCase], flips: bool = False, threads: int = 2,
                   ) -> Iterator[tuple[RawCase, Prediction | MeddiffError]]:
    """Predict one image after the other; the next ones are decoded meanwhile.

    An image is turned as its orientation says, as in training. The mean of the members' probabilities is brought back to the
    image's own size, and only then decided, so that outlines are as fine as the image.

    Args:
        cases: their masks aren't looked at.
        flips: see `Ensemble.judge`.
        threads: that decode.

    Yields:
        Each case with what was found in it, or with the fault of its file.
    """
    size = ensemble.batch_size
    bundles = [cases[start:start + size] for start in range(0, len(cases), size)]
    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(_read, case, ensemble) for case in bundles[0]] if bundles else []
        for number, bundle in enumerate(bundles, start=1):
            read = [each.result() for each in ahead]
            ahead = [pool.submit(_read, case, ensemble) for bundle in bundles[number:number + 1] for case in bundle]
            squares = [each.square for each in read if isinstance(each, _Input)]
            said, shown = ensemble.judge(np.stack(squares), flips) if squares else (np.empty((0, 0)), np.empty(0, bool))
            judged = zip(np.moveaxis(said, 1, 0), shown, strict=True)
            for case, each in zip(bundle, read, strict=True):
                yield case, each if isinstance(each, MeddiffError) else _prediction(each, *next(judged), ensemble)


def _read(case: RawCase, ensemble: Ensemble) -> _Input | MeddiffError:
    try:
        image = decoded_image(case)
    except MeddiffError as fault:
        return fault
    pixels = np.ascontiguousarray(turned(image.pixels, image.orientation))
    height, width = pixels.shape[:2]
    fitted = fit_square(pixels, np.zeros((height, width), np.uint8), ensemble.recipe.size, ensemble.recipe.fit, image.steps)
    small = Image.fromarray(pixels)
    small.thumbnail((_SHOWN, _SHOWN), Image.Resampling.BILINEAR)
    return _Input(fitted.image, fitted.frame, height, width, image.orientation, image.spacing, np.asarray(small))


def _prediction(image: _Input, members: NDArray[np.float32], shown: np.bool_, ensemble: Ensemble) -> Prediction:
    """Of one image, from what each member says of its square, `[M, C, S, S]`, and whether it may show a lesion."""
    mean, classes = members.mean(axis=0, dtype=np.float32), ensemble.recipe.classes
    mask = mask_of(unfit_square(mean, image.frame, image.height, image.width)) * np.uint8(shown)
    inside = image.frame.mask(len(image.square))
    greatest = mean[:, inside].max(axis=1)[-len(classes):]
    areas = np.bincount(mask.ravel(), minlength=len(classes) + 1)[1:]
    scale = np.nan if image.spacing is None else image.spacing[0] * image.spacing[1]
    findings = tuple(ClassResult(name, float(probability), int(area), float(area * scale), float(area / mask.size))
                     for name, probability, area in zip(classes, greatest, areas, strict=True))
    height, width = image.small.shape[:2]
    drawn = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    layers = [(drawn == label, CLASS_COLOURS[label - 1]) for label in range(1, len(classes) + 1)]
    return Prediction(np.ascontiguousarray(as_stored(mask, image.orientation)), image.orientation, outlined(image.small, layers),
                      findings, disagreement(list(mask_of(members) * inside), len(classes)))
