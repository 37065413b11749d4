"""Slices of volume files (NIfTI, NRRD, MetaImage) and of the masks drawn on them, as radiologists look at them.

A volume is turned, by whole axes, so that axial slices have the patient's front above and his right on the left, and coronal and
sagittal ones his head above. A file of one slice stays as it is stored.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meddiff.cases import Pixels
from meddiff.datasets.adapters.volume_headers import PLANES, Geometry, read_volume_header, refuse_short, unreadable
from meddiff.datasets.decoding import Decoded
from meddiff.datasets.levels import held_values, spread_levels, windowed
from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from SimpleITK import Image

_LOADED = 4         # images, and as many masks, that are kept in memory
_SAMPLE = 1 << 20   # voxels that percentiles are taken of, evenly spread
_INTACT = "Replace it with an intact copy"
_FITTING = "Bring the mask that was drawn on this image, at its resolution"
_loading = Lock()   # two threads that need one volume read it once


@dataclass(frozen=True, eq=False)
class VolumeSlice:
    """An image that is a slice of a volume.

    Attributes:
        source: the file.
        axis: across which it is cut.
        index: of the slice in the turned volume.
        frames: number of slices.
        window: centre and width, None: percentiles of the volume.
    """

    source: Path
    axis: str
    index: int
    frames: int
    window: tuple[float, float] | None = None

    def image(self) -> Decoded:
        """The slice through the window; without one the volume's 0.1th to 99.9th percentile, numbers of 0 to 255 as they are.

        Raises:
            MeddiffError: the file can't be read, or its levels can't be shown.
        """
        with _loading:
            levels, spacing, mode = _shown(self.source, _stamp(self.source), self.window)
        pixels, steps = _cut(levels, spacing, self.axis, self.index)
        pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
        traits = {"windowed"} if self.window and mode == "I;16" else set[str]()
        return Decoded(np.ascontiguousarray(pixels), mode="L" if traits else mode, traits=frozenset(traits),
                       spacing=steps if read_volume_header(self.source).measured else None)


@dataclass(frozen=True, eq=False)
class VolumeMask:
    """A mask that is a slice of a volume.

    Attributes:
        source: the file.
        image: the volume that it was drawn on.
        axis, index: of the slice in the turned volume.
        labels: layer, value and class of each segment.
    """

    source: Path
    image: Path
    axis: str
    index: int
    labels: tuple[tuple[int, int, int], ...]

    def mask(self, image: Decoded, classes: int) -> Decoded:
        """The slice; raises a MeddiffError where the file can't be read or doesn't lie on its image."""
        labelled, spacing = read_labels(self.source, self.image, self.labels)
        return Decoded(_cut(labelled, spacing, self.axis, self.index)[0].copy())


def read_labels(path: Path, image: Path, labels: tuple[tuple[int, int, int], ...]) -> tuple[Pixels, tuple[float, ...]]:
    """The classes of a mask volume, turned `[z, y, x]`, and its spacing x first [mm].

    Raises:
        MeddiffError: it can't be read, doesn't lie on its image, or holds other values than `labels` name.
    """
    with _loading:
        return _labelled(path, _stamp(path), image, labels)


def label_values(path: Path) -> list[tuple[int, int]]:
    """Layer and value of all that a mask volume holds but 0.

    Raises:
        MeddiffError: it can't be read, or holds values that are no whole numbers.
    """
    import SimpleITK

    array = _layers(SimpleITK.GetArrayFromImage(read_volume(path)))   # a view would outlive its image
    pairs = [(layer, value) for layer in range(array.shape[-1]) for value in np.unique(array[..., layer]).tolist() if value]
    if wrong := [value for _, value in pairs if not float(value).is_integer()]:
        raise MeddiffError(path, f"a mask holds whole numbers, this one {wrong[0]:g}", "Save it without smoothing")
    return [(layer, int(value)) for layer, value in pairs]


def values_by_slice(labelled: Pixels, axis: str) -> list[list[int]]:
    """Of each slice of a turned mask volume what it holds but 0."""
    return [held_values(each) for each in _view(labelled, axis)]


def read_volume(path: Path) -> "Image":
    """A volume as stored; raises a MeddiffError where it can't be read."""
    return _volume(path, _stamp(path))


def turn_volume(volume: "Image") -> "Image":
    """A volume with axes to the patient's left, back and head; one slice stays as it is."""
    import SimpleITK

    return volume if volume.GetDimension() == 2 or 1 in volume.GetSize() else SimpleITK.DICOMOrient(volume, "LPS")


def place_slice(volume: NDArray[Any], axis: str, index: int, pixels: NDArray[Any]) -> None:
    """Write a slice as `VolumeSlice` shows it into a turned volume `[z, y, x]`."""
    view = _view(volume, axis)[index]
    if view.shape != pixels.shape:
        raise ValueError("a slice must have its own size")
    view[:] = pixels


def _view(volume: NDArray[Any], axis: str) -> NDArray[Any]:
    """The slices of a turned volume, `[N, H, W, …]`."""
    if 1 in volume.shape[:3]:
        return np.moveaxis(volume, volume.shape.index(1), 0)
    slices = np.moveaxis(volume, PLANES.index(axis), 0)
    return slices if axis == "axial" else slices[:, ::-1]


def _cut(volume: NDArray[Any], spacing: tuple[float, ...], axis: str, index: int) -> tuple[NDArray[Any], tuple[float, float]]:
    place = volume.shape.index(1) if 1 in volume.shape[:3] else PLANES.index(axis)
    rows, columns = (step for i, step in enumerate(reversed(spacing)) if i != place)
    return _view(volume, axis)[index], (rows, columns)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        status = path.stat()
    except OSError as e:
        raise MeddiffError(path, "a volume must be there and be read", _INTACT) from e
    return status.st_mtime_ns, status.st_size


def _layers(array: NDArray[Any]) -> NDArray[Any]:
    """`[z, y, x, layers]` of an array with or without layers, of two axes or three."""
    array = array[None] if array.ndim == 2 else array
    return array if array.ndim == 4 else array[..., None]


@lru_cache(maxsize=1)  # a mask is asked for its values, then for its slices
def _volume(path: Path, stamp: tuple[int, int]) -> "Image":
    import SimpleITK

    refuse_short(path)
    try:
        return SimpleITK.ReadImage(str(path))
    except RuntimeError as e:
        raise unreadable(path, e) from None


@lru_cache(maxsize=_LOADED)
def _shown(path: Path, stamp: tuple[int, int], window: tuple[float, float] | None) -> tuple[Pixels, tuple[float, ...], str]:
    """A turned volume as uint8 `[z, y, x]` or `[z, y, x, 3]`, its spacing and Pillow's name of its pixel format."""
    import SimpleITK

    volume = turn_volume(read_volume(path))
    array, spacing = SimpleITK.GetArrayFromImage(volume), (*volume.GetSpacing(), 1.0)[:3]
    channels = volume.GetNumberOfComponentsPerPixel()
    array = array if array.ndim == 3 + (channels > 1) else array[None]
    if channels > 1:
        if channels not in (3, 4) or array.dtype != np.uint8:
            raise MeddiffError(path, f"a voxel holds one level, or RGB of 8 bits, not {channels} values of {array.dtype}",
                               "Save each channel as a volume of its own")
        return array[..., :3], spacing, "RGB"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MeddiffError(path, "its gray levels must be finite numbers", "Replace what is none by the background's level")
    if array.dtype.kind == "f" and not (array % 1).any():
        array = array.astype(np.int64)
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8), spacing, "L"
    if window:
        return np.stack([windowed(each, *window) for each in array]), spacing, "I;16"
    low, high = np.percentile(array.ravel()[::max(1, array.size // _SAMPLE)], (0.1, 99.9))
    return np.stack([spread_levels(each, float(low), float(high)) for each in array]), spacing, "I;16"


@lru_cache(maxsize=_LOADED)
def _labelled(path: Path, stamp: tuple[int, int], image: Path, labels: tuple[tuple[int, int, int], ...]
              ) -> tuple[Pixels, tuple[float, ...]]:
    import SimpleITK

    stored, geometry = read_volume(path), read_volume_header(image).geometry
    volume = turn_volume(_on_image(path, stored, geometry))
    array = _layers(SimpleITK.GetArrayFromImage(volume))
    classes = np.zeros(array.shape[:3], np.uint8)
    for layer, value, label in labels:
        np.maximum(classes, (array[..., layer] == value) * np.uint8(label), out=classes)
    return classes, (*volume.GetSpacing(), 1.0)[:3]


def _on_image(path: Path, mask: "Image", image: Geometry) -> "Image":
    """A mask on the grid of its image: its own, or one cut out of it by whole voxels, as 3D Slicer saves segmentations."""
    import SimpleITK

    own = Geometry(mask.GetSize(), mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection())
    words = {"size": ("×".join(map(str, own.size)), "×".join(map(str, image.size))),
             "spacing": tuple(", ".join(f"{step:.4g}" for step in each.spacing) for each in (own, image))}
    if len(own.size) != len(image.size) or not np.allclose(own.spacing, image.spacing, rtol=1e-3):
        raise MeddiffError(path, f"a mask has its image's spacing, this one {words['spacing'][0]} and the image "
                           f"{words['spacing'][1]} mm", _FITTING)
    if not np.allclose(own.direction, image.direction, atol=1e-3):
        raise MeddiffError(path, "a mask has its image's direction, this one is turned against it", _FITTING)
    axes = np.array(image.direction).reshape(len(image.size), -1)
    offset = np.linalg.solve(axes, np.subtract(own.origin, image.origin)) / image.spacing
    if (np.abs(offset) < 0.1).all() and own.size == image.size:
        return mask
    start = np.rint(offset).astype(int)
    if not path.name.lower().endswith(".seg.nrrd") or (np.abs(offset - start) > 0.1).any() or \
            (start < 0).any() or (start + own.size > image.size).any():
        what, values = ("size", words["size"]) if own.size != image.size else ("origin", ("elsewhere", "not there"))
        raise MeddiffError(path, f"a mask has its image's {what}, this one is {values[0]} and the image {values[1]}", _FITTING)
    widths = [(before, after) for before, after in zip(start, image.size - start - own.size, strict=True)][::-1]
    array = SimpleITK.GetArrayFromImage(mask)
    padded: Image = SimpleITK.GetImageFromArray(np.pad(array, [*widths, *[(0, 0)] * (array.ndim - len(widths))]),
                                                isVector=array.ndim > len(widths))
    padded.SetSpacing(image.spacing)
    padded.SetOrigin(image.origin)
    padded.SetDirection(image.direction)
    return padded
