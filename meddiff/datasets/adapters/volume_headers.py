"""What a volume file (NIfTI, NRRD, MetaImage) says without its voxels: where they lie, how many slices it has, its segments."""

import gzip
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from meddiff.errors import MeddiffError

_NIFTI = (".nii", ".nii.gz")
PLANES = ("axial", "coronal", "sagittal")   # of a turned volume [z, y, x]


@dataclass(frozen=True)
class Geometry:
    """Where a volume's voxels lie, as its file says.

    Attributes:
        size, spacing, origin, direction: SimpleITK's, x first [mm].
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def flat(self) -> bool:
        """Whether it is one slice, so that nothing is turned."""
        return len(self.size) == 2 or 1 in self.size


@dataclass(frozen=True)
class VolumeHeader:
    """What a volume file says without its voxels.

    Attributes:
        path: the file.
        geometry: of its voxels.
        channels: values of a voxel.
        segments: of a `.seg.nrrd` layer, value and name of each segment; else none.
        measured: whether it says the spacing, which is 1 otherwise.
    """

    path: Path
    geometry: Geometry
    channels: int
    segments: tuple[tuple[int, int, str], ...]
    measured: bool

    def slices(self, axis: str) -> int:
        """How many slices it has along an axis; a flat one has one."""
        return 1 if self.geometry.flat else _turned_size(self.geometry)[2 - PLANES.index(axis)]


def read_volume_header(path: Path) -> VolumeHeader:
    """The header of a volume file.

    Raises:
        MeddiffError: it is none, or has more than three axes.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as e:
        raise unreadable(path, e) from None
    if reader.GetDimension() not in (2, 3):
        raise MeddiffError(path, f"a volume has two or three axes, this one {reader.GetDimension()}",
                           "Save each volume by itself")
    fields = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    segments = tuple((int(fields.get(f"{stem}_Layer", 0)), int(fields[f"{stem}_LabelValue"]), fields.get(f"{stem}_Name", ""))
                     for key in sorted(fields) if key.endswith("_LabelValue") for stem in [key.removesuffix("_LabelValue")])
    return VolumeHeader(path, Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()),
                        reader.GetNumberOfComponents(), segments, _measured(path))


def _measured(path: Path) -> bool:
    """Whether a header says the spacing, which its reader makes 1 otherwise: NIfTI in numbers above 0, others in a line."""
    if path.name.lower().endswith(_NIFTI):
        with _opened(path) as stream:
            head, order, second = _nifti_head(stream)
        return bool(min(struct.unpack_from(f"{order}2{'d' if second else 'f'}", head, 112 if second else 80)) > 0)
    with path.open("rb") as stream:
        return bool(re.search(rb"^\s*(spacings|space directions|elementspacing|elementsize)\b", stream.read(1 << 16),
                              re.MULTILINE | re.IGNORECASE))


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _nifti_head(stream: BinaryIO) -> tuple[bytes, str, bool]:
    """The first bytes of a NIfTI file, their order, and whether it is NIfTI-2."""
    head = stream.read(540)
    order = "<" if head[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    return head, order, struct.unpack_from(f"{order}i", head)[0] == 540


def unreadable(path: Path, error: RuntimeError) -> MeddiffError:
    """The error of a file that the library can't read."""
    cause = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
    cause = cause.replace(str(path), path.name)[:160]
    return MeddiffError(path, f"a volume must be there and be read ({cause})", "Replace it with an intact copy")


def _turned_size(geometry: Geometry) -> tuple[int, ...]:
    """The size of a volume once it is turned, x first."""
    import SimpleITK

    probe, order = SimpleITK.Image([2] * 3, SimpleITK.sitkUInt8), SimpleITK.DICOMOrientImageFilter()
    probe.SetDirection(geometry.direction)
    order.SetDesiredCoordinateOrientation("LPS")
    order.Execute(probe)
    return tuple(geometry.size[axis] for axis in order.GetPermuteOrder())


def refuse_short(path: Path) -> None:
    """Refuse a NIfTI file that is cut short, which its reader would not.

    Raises:
        MeddiffError: it holds fewer bytes than its header says.
    """
    if not path.name.lower().endswith(_NIFTI):
        return
    try:
        with _opened(path) as stream:
            head, order, second = _nifti_head(stream)
            (rank, *sides), (bits,) = struct.unpack_from(f"{order}8{'q' if second else 'h'}", head, 16 if second else 40), \
                struct.unpack_from(f"{order}h", head, 14 if second else 72)
            (offset,) = struct.unpack_from(f"{order}{'q' if second else 'f'}", head, 168 if second else 108)
            length = len(head)
            while block := stream.read(1 << 20):
                length += len(block)
    except (OSError, EOFError, struct.error) as e:
        raise MeddiffError(path, f"a volume must be there and be read ({e})", "Replace it with an intact copy") from e
    if length < (expected := int(offset) + math.prod(sides[:rank]) * bits // 8):
        raise MeddiffError(path, f"a volume must be there and be read (it holds {length} of {expected} bytes)",
                           "Replace it with an intact copy")
