"""One frame of a DICOM file as viewers show it, and the mask that frames of a segmentation hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from meddiff.cases import Pixels
from meddiff.datasets.adapters.dicom_headers import frame_tags, read_tags
from meddiff.datasets.decoding import Decoded
from meddiff.datasets.levels import eight_bits, held_values, windowed
from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from pydicom import Dataset

_INTACT = "Export it again, uncompressed where the system offers that, or take it out of the folder"


@dataclass(frozen=True, eq=False)
class DicomFrame:
    """An image of a DICOM file.

    Attributes:
        source: the file.
        frame: its number, from 1.
        frames: how many the file has.
        window: centre and width for images of more than 8 bits, None: as the file says, or by percentiles.
    """

    source: Path
    frame: int = 1
    frames: int = 1
    window: tuple[float, float] | None = None

    def image(self) -> Decoded:
        """Through rescaling, window or table, inverted where the least value is white; palettes and YBR become RGB.

        Raises:
            MeddiffError: the file has no pixels, is cut short, or in a transfer syntax or colour space that isn't read.
        """
        with _decoding(self.source):
            tags = read_tags(self.source)
            stored, own, space = _stored(self.source, self.frame), frame_tags(tags, self.frame), tags.PhotometricInterpretation
            traits = {"burned_in"} if str(tags.get("BurnedInAnnotation", "")).upper() == "YES" else set[str]()
            if space in ("MONOCHROME1", "MONOCHROME2"):
                gray, through = _gray(stored, own, tags, self.window)
                inverted = space == "MONOCHROME1" or tags.get("PresentationLUTShape") == "INVERSE"
                traits |= {name for name, holds in (("min_is_white", inverted), ("windowed", through)) if holds}
                pixels = np.repeat((255 - gray if inverted else gray)[:, :, None], 3, axis=2)
                mode = "I;16" if int(tags.get("BitsStored", 32)) > 8 and not through else "L"
            else:
                pixels, mode = _coloured(self.source, stored, tags), "P" if space == "PALETTE COLOR" else "RGB"
                traits |= {"deep_colour"} if mode == "RGB" and stored.dtype.itemsize > 1 else set()
            return Decoded(pixels, mode=mode, traits=frozenset(traits), spacing=_spacing(own), aspect=_aspect(tags))


@dataclass(frozen=True, eq=False)
class DicomSegments:
    """What a segmentation draws on one image.

    Attributes:
        source: the file.
        parts: of each part the index of its frame, the value that its pixels have in it (0: any but 0), and its class.
    """

    source: Path
    parts: tuple[tuple[int, int, int], ...]

    def drawn(self) -> bool:
        """Whether the parts hold a pixel; true where they can't be decoded, which `mask` tells."""
        try:
            state = self.source.stat()
            held = _held(self.source, (state.st_mtime_ns, state.st_size))
        except (MeddiffError, OSError):
            return True
        return any(value in held[index] if value else held[index] for index, value, _ in self.parts)

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The parts, united; the higher class wins.

        Raises:
            MeddiffError: the frames can't be decoded.
        """
        with _decoding(self.source):
            frames = {index: _stored(self.source, index + 1) for index in {index for index, _, _ in self.parts}}
        drawn = [(frames[index] == value if value else frames[index] > 0) * np.uint8(label) for index, value, label in self.parts]
        return Decoded(np.maximum.reduce(drawn))


@dataclass(frozen=True, eq=False)
class DicomContours:
    """What a structure set draws on one image.

    Attributes:
        source: the file.
        regions: of each region its class and its closed contours, `[N, 2]` float64 corners as (x, y) in pixels.
    """

    source: Path
    regions: tuple[tuple[int, tuple[NDArray[np.float64], ...]], ...]

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The pixels whose centres lie inside; a contour within another of its region is a hole. The higher class wins."""
        mask = np.zeros(image.pixels.shape[:2], np.uint8)
        for label, contours in self.regions:
            inside = np.logical_xor.reduce([polygon2mask(mask.shape, contour[:, ::-1]) for contour in contours])
            mask = np.maximum(mask, inside * np.uint8(label))
        return Decoded(mask)


@lru_cache(maxsize=8)  # a file's frames are asked for one after the other
def _held(path: Path, stamp: tuple[int, int]) -> list[frozenset[int]]:
    """What each frame of a segmentation holds but 0."""
    from pydicom.pixels import pixel_array

    with _decoding(path):
        frames = np.asarray(pixel_array(path))
    frames = frames[None] if frames.ndim == 2 else frames
    return [frozenset(held_values(each)) for each in frames]


def _stored(path: Path, frame: int) -> NDArray[Any]:
    """The values of a frame `[H, W]` or `[H, W, 3]` as stored, YBR as RGB."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    tags = read_tags(path, ["SOPClassUID", "SOPInstanceUID", "NumberOfFrames"])
    if "TransferSyntaxUID" not in getattr(tags, "file_meta", ()):   # a data set without the file's own header
        implicit, little = tags.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        return np.asarray(pixel_array(path, index=frame - 1, transfer_syntax_uid=syntax))
    # Of many frames one alone is read; of files with one, as `SC_rgb_jpeg.dcm`, pydicom 3.0.2 reads some only as a whole.
    return np.asarray(pixel_array(path if int(tags.get("NumberOfFrames") or 1) > 1 else dcmread(path), index=frame - 1))


def _gray(stored: NDArray[Any], own: "Dataset", tags: "Dataset", window: tuple[float, float] | None) -> tuple[Pixels, bool]:
    """Gray levels as uint8, and whether a window or table made them from more than 8 bits."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values, deep = np.asarray(apply_modality_lut(stored, own)), int(tags.get("BitsStored", 32)) > 8
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if window and deep:
        return windowed(values, *window), True
    if own.get("VOILUTSequence") and values.dtype.kind in "iu":
        bits = int(own.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(np.rint(apply_voi(values, own) / (2**bits - 1) * 255), np.uint8), deep
    centre, width = (_first(own.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width >= 1:
        return windowed(values, centre, width, str(own.get("VOILUTFunction") or "LINEAR")), deep
    return eight_bits(values), False


def _coloured(path: Path, stored: NDArray[Any], tags: "Dataset") -> Pixels:
    """RGB as uint8, of more bits the upper 8."""
    from pydicom.pixels import apply_color_lut

    bits, space = int(tags.BitsStored), str(tags.PhotometricInterpretation)
    if space == "PALETTE COLOR":
        stored = apply_color_lut(stored, tags)
        bits = 16 if stored.dtype.itemsize > 1 and stored.max() > 255 else 8
    elif not space.startswith(("RGB", "YBR")) or stored.ndim != 3 or stored.shape[2] != 3:
        raise MeddiffError(path, f"the colours of a DICOM image must be gray levels, RGB, YBR or a palette, not {space[:16]}",
                           "Export it as RGB")
    return (stored >> max(bits - 8, 0)).astype(np.uint8)


def _spacing(own: "Dataset") -> tuple[float, float] | None:
    """Between rows and between columns [mm], of ultrasound where all its tissue regions agree."""
    if pair := own.get("PixelSpacing"):
        return float(pair[0]), float(pair[1])
    steps = {(abs(float(region.PhysicalDeltaY)) * 10, abs(float(region.PhysicalDeltaX)) * 10)
             for region in own.get("SequenceOfUltrasoundRegions") or [] if region.get("RegionSpatialFormat") == 1
             and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3}   # centimetres
    return steps.pop() if len(steps) == 1 and min(map(min, steps)) > 0 else None


def _aspect(tags: "Dataset") -> float | None:
    """Height of a pixel over its width, of digitised videos and films."""
    height, width = (float(each) for each in tags.get("PixelAspectRatio") or (0, 0))
    return height / width if height > 0 and width > 0 else None


def _first(value: Any) -> float | None:
    """Of a value or of several; None where there is none."""
    listed = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return next((float(each) for each in listed if each is not None and each != ""), None)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except MeddiffError:
        raise
    except Exception as e:
        tags = read_tags(path, ["SOPClassUID", "SOPInstanceUID", "Rows"])
        syntax = getattr(getattr(tags, "file_meta", None), "TransferSyntaxUID", None)
        cause = " ".join(str(e).split())
        if "Pixel Data" in cause and isinstance(e, AttributeError):
            raise MeddiffError(path, "a DICOM image must hold pixels, this file has none", _INTACT) from e
        if syntax is not None and (isinstance(e, NotImplementedError) or "missing dependencies" in cause):
            raise MeddiffError(path, f"its pixels are in a transfer syntax that isn't read, {syntax.name}",
                               "Export it uncompressed") from e
        raise MeddiffError(path, f"the pixels of a DICOM image must decode ({cause[:200] or type(e).__name__})", _INTACT) from e
