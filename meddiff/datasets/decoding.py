"""Image and mask files as others write them: containers, tags, colours and levels become the pixels of a case.

Pixels are left as the file stores them, beside the orientation that it asks for: who joins an image and its masks turns them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImagePalette, TiffImagePlugin
from PIL.ImageFile import ImageFile

from meddiff.cases import DEEP, Pixels
from meddiff.datasets.levels import eight_bits
from meddiff.errors import MeddiffError

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")  # whatever a file's ending says
_MANY = 1 << 16         # colours that are counted exactly
_DARK, _BRIGHT = 63, 192  # a JPEG's levels beyond these are black and white, whatever its compression did
_INTACT = "Replace the file with an intact copy, saved as PNG, JPEG, BMP or TIFF"
_PLAIN = ("Save it without smoothing and transparency, as PNG rather than JPEG; if its values are classes, name them in "
          "`prepare.classes`")
_TRANSPARENT = "the transparency of a mask must be the same everywhere, or two levels that are the mask and fit its colours"
WHITE = "white"         # the colour of 1, 255 and 65535


@dataclass(frozen=True, eq=False)
class Decoded:
    """What an image or mask file holds.

    Attributes:
        pixels: `[H, W, 3]` uint8 RGB of an image, `[H, W]` uint8 of 0 to K of a mask, as stored.
        orientation: 1 to 8, EXIF's: how viewers turn what is stored, see `turned`.
        mode: Pillow's name of the pixel format, such as `L` (gray), `I;16` (gray, 16 bits) or `RGB`.
        colour: of the lesion in a mask of one class; empty where there is none.
        traits: what isn't plain about the file: `min_is_white`, `deep_colour` (16 bits a channel, of which 8 are kept), `halos`
            (a JPEG's, which were thresholded).
        spacing: between rows and between columns as stored [mm], None where nobody knows it.
        aspect: height of a pixel as stored over its width, of a file that says it without millimetres.
    """

    pixels: Pixels
    orientation: int = 1
    mode: str = "RGB"
    colour: str = ""
    traits: frozenset[str] = field(default_factory=frozenset)
    spacing: tuple[float, float] | None = None
    aspect: float | None = None

    @property
    def steps(self) -> tuple[float, float] | None:
        """Between rows and between columns, in one unit, turned as the orientation says; None where nobody knows it."""
        steps = (self.aspect, 1.0) if self.spacing is None and self.aspect else self.spacing
        return steps if steps is None or self.orientation < 5 else (steps[1], steps[0])


@dataclass(frozen=True, eq=False)
class _Stored:
    """A file that was loaded: the picture, or the levels `[H, W]` and the alpha of one channel with more than 8 bits."""

    picture: Image.Image
    levels: NDArray[Any] | None
    alpha: NDArray[Any] | None
    orientation: int
    mode: str
    traits: frozenset[str]

    def straight(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Pixels as stored: Pillow has turned those of a TIFF file."""
        return as_stored(pixels, self.orientation) if self.picture.format == "TIFF" else pixels


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels `[H, W, …]` as EXIF's orientation wants them to be seen; from 5 on height and width change places."""
    shown = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    return shown[::-1 if orientation in (3, 4, 7, 8) else 1, ::-1 if orientation in (2, 3, 6, 7) else 1]


def as_stored(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The way back from `turned`: pixels as they are seen, as their file stores them."""
    return turned(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def decode_image(path: Path, content: bytes = b"") -> Decoded:
    """Decode an image file, or the content of one that another file holds.

    One channel becomes three equal ones, alpha is dropped, palettes are read by their colours, and one channel of more than 8
    bits goes through `eight_bits`. Of 16 bits a colour channel the upper 8 are kept.

    Raises:
        MeddiffError: the file is missing, is no image, is cut short, or holds several pages; or the levels can't be shown.
    """
    with _decoding(path, "an image"):
        stored = _load(path, content)
        if stored.levels is not None:
            pixels = np.repeat(eight_bits(stored.levels)[:, :, None], 3, axis=2)
        else:  # Pillow warns of a palette's transparency unless it goes through RGBA
            picture = stored.picture.convert("RGBA") if "transparency" in stored.picture.info else stored.picture
            pixels = np.array(picture.convert("RGB"), dtype=np.uint8)
    if "deep_colour" in stored.traits and pixels.max() <= _DARK:
        raise MeddiffError(path, "16 bits a colour channel must be used: of this image the upper 8 are nearly empty",
                           "Scale its levels to 8 bits, with the window that you read it in")
    return Decoded(stored.straight(pixels), stored.orientation, stored.mode, traits=stored.traits)


def decode_header(path: Path) -> Decoded:
    """An image file's size and orientation, its pixels black; raises a MeddiffError where it is missing or no image."""
    with _decoding(path, "an image"), Image.open(path, formats=_FORMATS) as picture:
        orientation = _orientation(picture)
        turn = -1 if picture.format == "TIFF" and orientation > 4 else 1  # Pillow has turned the size of a TIFF file
        return Decoded(np.broadcast_to(np.uint8(0), (*picture.size[::-1][::turn], 3)), orientation)


def decode_mask(path: Path, classes: int = 1) -> Decoded:
    """Decode a mask file.

    Of one class: black and one colour, whatever the pixel format; or an alpha of two levels, one of them 0, where the colours
    don't contradict it. Of several: the indices 0 to K, in one channel, equal RGB channels or a palette's indices.

    Args:
        classes: K.

    Raises:
        MeddiffError: the file is missing, is no image, is cut short, holds several pages, or other values.
    """
    with _decoding(path, "a mask"):
        stored = _load(path)
        if stored.alpha is not None and np.ptp(stored.alpha):
            raise MeddiffError(path, _TRANSPARENT, _PLAIN)
        if classes > 1:
            mask, colour, traits = _indices(path, stored, classes), "", stored.traits
        elif stored.levels is not None:
            mask, colour = _two_levels(path, stored.levels)
            traits = stored.traits
        elif (halos := _without_halos(path, stored.picture)) is not None:
            mask, colour, traits = halos, WHITE if halos.any() else "", stored.traits | {"halos"}
        else:
            (mask, colour), traits = _two_colours(path, stored.picture.convert("RGBA")), stored.traits
    if "deep_colour" in stored.traits and (classes > 1 or colour != WHITE):
        raise MeddiffError(path, "the levels of a mask must fit in 8 bits, this one has 16 a colour channel", _PLAIN)
    return Decoded(stored.straight(mask), stored.orientation, stored.mode, colour, traits)


def _two_colours(path: Path, picture: Image.Image) -> tuple[Pixels, str]:
    """The mask and the colour of its lesion, from RGBA."""
    counted: list[tuple[int, tuple[int, int, int, int]]] = picture.getcolors(_MANY) or []  # type: ignore[assignment]
    entries = [entry for _, entry in counted]
    colours, alphas = {entry[:3] for entry in entries}, {entry[3] for entry in entries}
    opaque, clear = {entry[:3] for entry in entries if entry[3]}, {entry[:3] for entry in entries if not entry[3]}
    pixels, black = np.array(picture), (0, 0, 0)
    if len(alphas) > 1:
        # Where a clear pixel hides what would be lesion without its alpha, nobody knows which of both is meant.
        if len(alphas) > 2 or 0 not in alphas or len(opaque) != 1 or (len(colours) > 1 and (black in opaque or opaque & clear)):
            raise MeddiffError(path, _TRANSPARENT, _PLAIN)
        return (pixels[:, :, 3] > 0).astype(np.uint8), _name(*opaque)
    lesion = colours - {black}
    if not entries or len(lesion) > 1 or (colours == lesion and _name(*lesion) != WHITE):
        gray, many = all(r == g == b for r, g, b in colours), f"{len(entries)}" if entries else f"more than {_MANY}"
        some = ", ".join(str(colour[0]) if gray else _name(colour) for colour in sorted(lesion)[-2:]) or "those of a photograph"
        raise MeddiffError(path, f"a mask holds only black and one colour, this one {many} {'values' if gray else 'colours'} "
                           f"such as {some}", _PLAIN)
    return np.asarray(pixels[:, :, :3].any(axis=2), dtype=np.uint8), _name(*lesion) if lesion else ""


def _two_levels(path: Path, levels: NDArray[Any]) -> tuple[Pixels, str]:
    """The same, from one channel of more than 8 bits."""
    values = np.unique(levels).tolist()
    above = [value for value in values if value != 0]
    if len(above) > 1 or not all(value > 0 and float(value).is_integer() for value in above) or \
            (above == values and above[0] not in (1, 255, 65535)):
        raise MeddiffError(path, f"a mask holds only black and one colour, this one {len(values)} values such as {above[0]:g}",
                           _PLAIN)
    return (levels > 0).astype(np.uint8), _name((int(above[0]),)) if above else ""


def _without_halos(path: Path, picture: Image.Image) -> Pixels | None:
    """The mask of a gray JPEG file whose levels are all near black or white; None for any other file."""
    if picture.format not in ("JPEG", "MPO"):
        return None
    pixels = np.array(picture.convert("RGB"))
    levels = pixels[:, :, 0]
    if (pixels != levels[:, :, None]).any() or np.isin(levels, (0, 255)).all():
        return None
    if ((levels > _DARK) & (levels < _BRIGHT)).any() or levels.max() < _BRIGHT:
        raise MeddiffError(path, f"a mask holds only black and one colour, this JPEG's compression left "
                           f"{len(np.unique(levels))} gray levels", _PLAIN)
    return (levels >= _BRIGHT).astype(np.uint8)


def _indices(path: Path, stored: _Stored, classes: int) -> Pixels:
    picture = stored.picture
    if picture.mode == "P" and (colour := tuple((picture.getpalette("RGB") or [])[:3])) not in ((), (0, 0, 0)):
        raise MeddiffError(path, f"index 0 is the background and its colour black, in this palette it is {_name(colour)}",
                           "Reorder the palette, or save the class indices with one channel")
    pixels = np.array(picture if picture.mode in ("1", "L", "P") else picture.convert("RGBA")) if stored.levels is None \
        else stored.levels
    if pixels.ndim == 3 and ((pixels[:, :, 1:3] != pixels[:, :, :1]).any() or np.ptp(pixels[:, :, 3])):
        raise MeddiffError(path, "a mask of several classes holds class indices, this one holds colours",
                           f"Save it with one channel or as palette: 0 for the background, 1 to {classes} for the classes")
    flat = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    if wrong := [value for value in np.unique(flat).tolist() if value not in range(classes + 1)]:
        raise MeddiffError(path, f"a mask of {classes} classes holds the indices 0 to {classes}, this one holds {wrong[0]:g}",
                           "Save class indices without smoothing, as PNG, or name every class in `prepare.classes`")
    return flat.astype(np.uint8)


def _name(colour: tuple[int, ...]) -> str:
    """White, a gray level, or a colour in hexadecimal."""
    level = colour[0] if len(set(colour)) == 1 else None
    return WHITE if level in (1, 255, 65535) else str(level) if level is not None else "#" + "".join(f"{v:02x}" for v in colour)


@contextmanager
def _decoding(path: Path, kind: str) -> Iterator[None]:
    """Name the file, whatever Pillow meets in it: on bytes that are no intact image its readers raise errors of any class."""
    try:
        yield
    except MeddiffError:
        raise
    except Exception as e:
        cause = " ".join(str(e).split()) or type(e).__name__
        raise MeddiffError(path, f"{kind} must be there and decode ({cause})", _INTACT) from e


def _load(path: Path, content: bytes = b"") -> _Stored:
    with Image.open(BytesIO(content) if content else path, formats=_FORMATS) as picture:
        if (pages := _count_pages(picture)) > 1:
            raise MeddiffError(path, f"a file holds one picture, this one {pages}",
                               "Save the page or frame that is meant as a file of its own")
        _mend_bitmap(picture)
        formats = [str(tile.args) for tile in picture.tile]
        alpha = any("LA;16" in name for name in formats)
        if alpha:  # Pillow would keep the upper 8 bits: its four bytes a pixel are taken as they are
            picture.tile = [tile._replace(args="RGBA") for tile in picture.tile]
        tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
        inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        deep = picture.mode not in DEEP and not alpha and any(";16" in name for name in formats)
        traits = {name for name, holds in (("min_is_white", inverted), ("deep_colour", deep)) if holds}
        orientation = _orientation(picture)  # which loads a PNG file; loading turns a TIFF file and takes its tag away
        picture.load()
        if alpha:
            both = np.array(picture).view(">u2").astype(np.uint16)
            return _Stored(picture, both[:, :, 0], both[:, :, 1], orientation, "I;16", frozenset(traits))
        levels = np.array(picture) if picture.mode in DEEP else None
        if levels is not None and inverted:  # of 8 bits and less Pillow has done it
            if levels.dtype.kind != "u":
                raise MeddiffError(path, "white must be the greatest level of a float TIFF, this one is tagged MinIsWhite",
                                   "Save it as MinIsBlack")
            levels = np.iinfo(levels.dtype).max - levels
        return _Stored(picture, levels, None, orientation, picture.mode, frozenset(traits))


def _count_pages(picture: ImageFile) -> int:
    """Pages and frames; not thumbnails of the first (TIFF's NewSubfileType), nor what a camera adds to a JPEG (MPO)."""
    pages = 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))
    if pages > 1 and isinstance(picture, TiffImagePlugin.TiffImageFile):
        for page in range(1, pages):
            picture.seek(page)
            pages -= bool(picture.tag_v2.get(254, 0) & 5)
        picture.seek(0)
    return pages


def _orientation(picture: ImageFile) -> int:
    """EXIF's, 1 where there is none, or none that can be read: viewers pass over a corrupt one, too."""
    with suppress(Exception):
        if (value := picture.getexif().get(ExifTags.Base.Orientation, 1)) in range(1, 9):
            return int(value)
    return 1


def _mend_bitmap(picture: ImageFile) -> None:
    """Read a BMP file by the bits that its header says: Pillow 13 takes one with a table of black and white for one of 1 bit, and
    one of 4 bits with a gray table for one of 8 (python-pillow/Pillow#9778)."""
    if picture.format != "BMP" or picture.mode not in ("1", "L"):
        return
    assert picture.fp
    picture.fp.seek(0)
    header = picture.fp.read(30)
    bits = header[24] if header[14] == 12 else header[28]
    if bits in (4, 8) and (picture.mode, bits) != ("L", 8):
        levels = (0, 255) if picture.mode == "1" else range(16)
        picture._mode = "P"
        picture.palette = ImagePalette.raw("RGB", bytes(level for level in levels for _ in range(3)))
        picture.tile = [tile._replace(args=("P" if bits == 8 else "P;4", *tuple(tile.args or ())[1:]))
                        if tile.codec_name == "raw" else tile for tile in picture.tile]
