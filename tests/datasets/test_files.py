"""Good, odd and bad image and mask files: each is read as its format says, or refused in one line that names it.

Masks that are read are compared with what another reader makes of the file: OpenCV, tifffile, SimpleITK.
"""

import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from meddiff.cases import Pixels
from meddiff.datasets.adapters import RawCase, decode
from meddiff.datasets.decoding import decode_image, decode_mask, turned
from meddiff.errors import MeddiffError

H, W = 12, 20
M = np.zeros((H, W), bool)
M[2:7, 3:9], M[9, 14] = True, True       # no turn or mirror leaves it as it is
K = M * np.uint8(1)
K[9:11, 13:18] = 2                       # class indices
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
LEVELS = np.linspace(300, 4095, H * W).astype(np.uint16).reshape(H, W)   # 12 bits
BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 128, 0), (0, 0, 255)

Write = Callable[[Path], object]
Reader = Callable[[Path], NDArray[Any]]


def coloured(lesion: tuple[int, ...], ground: tuple[int, ...] = BLACK, where: NDArray[np.bool_] = M) -> Pixels:
    return np.where(where[:, :, None], np.array(lesion, np.uint8), np.array(ground, np.uint8))


def save(array: NDArray[Any], **options: Any) -> Write:
    """Pillow writes it; a file in another format than its ending says where `format` is given."""
    return lambda path: Image.fromarray(array).save(path, **options)


def palette(indices: Pixels, *colours: tuple[int, int, int], **options: Any) -> Write:
    def write(path: Path) -> None:
        picture = Image.fromarray(indices)
        picture.putpalette([level for colour in colours for level in colour])
        picture.save(path, **options)

    return write


def tif(array: NDArray[Any], photometric: str = "minisblack", **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, array, photometric=photometric, **options)


def cv(array: NDArray[Any], *options: int) -> Write:
    return lambda path: cv2.imwrite(str(path), array, options)


def cut(write: Write, share: float) -> Write:
    def spoil(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return spoil


def raw_bytes(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def oriented(array: NDArray[Any], orientation: int, **options: Any) -> Write:
    exif = Image.Exif()
    exif[274] = orientation
    return lambda path: Image.fromarray(array).save(path, exif=exif, **options)


def bitmap(indices: Pixels, bits: int, *colours: tuple[int, int, int], upside_down: bool = False) -> Write:
    """A Windows bitmap by the format's description."""
    height, width = indices.shape
    packed = np.packbits(np.unpackbits(indices[:, :, None], axis=2)[:, :, 8 - bits:].reshape(height, -1), axis=1)
    body = np.zeros((height, -(-width * bits // 32) * 4), np.uint8)
    body[:, :packed.shape[1]] = packed if upside_down else packed[::-1]
    table = b"".join(bytes((blue, green, red, 0)) for red, green, blue in colours)
    start, signed = 54 + len(table), -height if upside_down else height
    header = struct.pack("<2sIHHI", b"BM", start + body.size, 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, signed, 1, bits, 0, body.size, 2835, 2835, len(colours), len(colours))
    return raw_bytes(header + info + table + body.tobytes())


def animated(*frames: NDArray[Any], **options: Any) -> Write:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    return lambda path: first.save(path, save_all=True, append_images=rest, **options)


def png(width: int, height: int, bits: int, colour: int, body: bytes) -> bytes:
    """A PNG file by the format's description."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content)) for name, content in chunks)


def deep_alpha_png(levels: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> Write:
    """Gray with alpha, 16 bits each: OpenCV and Pillow can't write it."""
    rows = np.stack([levels, alpha], 2).astype(">u2").reshape(len(levels), -1)
    return raw_bytes(png(levels.shape[1], len(levels), 16, 4, b"".join(b"\0" + row.tobytes() for row in rows)))


def dicom(path: Path) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = H, W, 16, 12, 11
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.PixelData = LEVELS.tobytes()
    data.save_as(path)
    assert np.array_equal(pydicom.dcmread(path).pixel_array, LEVELS)   # a DICOM file indeed


# ---- independent readers of masks

def by_opencv(path: Path) -> NDArray[Any]:
    """Whether a pixel has any colour."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels > 0 if pixels.ndim == 2 else pixels[:, :, :3].any(axis=2)


def opencv_alpha(path: Path) -> NDArray[Any]:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, 3] > 0


def opencv_half(path: Path) -> NDArray[Any]:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127


def by_itk(path: Path) -> NDArray[Any]:
    pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return pixels > 0 if pixels.ndim == 2 else pixels[:, :, :3].any(axis=2)


def by_tifffile(path: Path) -> NDArray[Any]:
    """tifffile gives what is stored: MinIsWhite is turned round here."""
    with tifffile.TiffFile(path) as file:
        stored, tag = file.pages[0].asarray(), file.pages[0].photometric
    if tag == tifffile.PHOTOMETRIC.MINISWHITE:
        return ~stored if stored.dtype == bool else np.iinfo(stored.dtype).max - stored > 0
    return stored > 0 if stored.ndim == 2 else stored.any(axis=2)


def by_colour(*classes: tuple[int, int, int]) -> Reader:
    """The classes whose colours OpenCV shows: no other library here gives a palette's indices."""
    def read(path: Path) -> NDArray[Any]:
        shown = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]
        return np.sum([(shown == colour).all(axis=2) * label for label, colour in enumerate(classes, start=1)], axis=0)

    return read


MASKS: dict[str, tuple[str, Write, int, NDArray[Any] | str, Reader | None]] = {
    # name: ending, how it is written, classes, the mask or the fault, another reader
    "gray 255": ("png", save(K.clip(0, 1) * np.uint8(255)), 1, K > 0, by_opencv),
    "gray 1": ("png", save(M * np.uint8(1)), 1, M, by_itk),
    "gray 128": ("png", save(M * np.uint8(128)), 1, M, by_opencv),
    "one bit": ("png", lambda path: Image.fromarray(M).save(path), 1, M, by_opencv),
    "empty": ("png", save(M * np.uint8(0)), 1, M & False, by_opencv),
    "full": ("png", save(np.full_like(RGB, 255)), 1, M | True, by_opencv),
    "red on black": ("png", save(coloured(RED)), 1, M, by_opencv),
    "black on white": ("png", save(coloured(BLACK, WHITE)), 1, ~M, by_itk),
    "red on white": ("png", save(coloured(RED, WHITE)), 1, "this one 2 colours such as #ff0000, white", None),
    "green on red": ("png", save(coloured(GREEN, RED)), 1, "only black and one colour", None),
    "red on blue": ("png", save(coloured(RED, BLUE)), 1, "only black and one colour", None),
    "two structures": ("png", save(np.array([BLACK, RED, GREEN], np.uint8)[K]), 1, "this one 3 colours", None),
    "all red": ("png", save(coloured(RED, RED)), 1, "this one 1 colours such as #ff0000", None),
    "a photograph": ("png", save(RGB), 1, "only black and one colour, this one [0-9]+ colours", None),
    "smoothed": ("png", save(cv2.GaussianBlur(M * np.uint8(255), (5, 5), 1)), 1, "values such as .*without smoothing", None),
    "class indices as one class": ("png", save(K), 1, "this one 3 values such as 1, 2.*name them in `prepare.classes`", None),
    "classes and void": ("png", save(np.where(K == 2, np.uint8(255), K)), 1, "this one 3 values", None),
    "lesion in alpha, white": ("png", save(np.dstack([np.full_like(RGB, 255), M * np.uint8(255)])), 1, M, opencv_alpha),
    "lesion in alpha, black": ("png", save(np.dstack([RGB * 0, M * np.uint8(255)])), 1, M, opencv_alpha),
    "lesion in alpha, half clear": ("png", save(np.dstack([np.full_like(RGB, 9), M * np.uint8(128)])), 1, M, opencv_alpha),
    "red on clear black": ("png", save(coloured((*RED, 255), (0, 0, 0, 0))), 1, M, opencv_alpha),
    "red on clear white": ("png", save(coloured((*RED, 255), (255, 255, 255, 0))), 1, M, opencv_alpha),
    "alpha says nothing": ("png", save(coloured((*WHITE, 255), (0, 0, 0, 255))), 1, M, by_opencv),
    "alpha is 0 everywhere": ("png", save(coloured((*WHITE, 0), (0, 0, 0, 0))), 1, M, by_opencv),
    "clear lesion": ("png", save(coloured((*WHITE, 0), (0, 0, 0, 255))), 1, "transparency of a mask", None),
    "black on clear white": ("png", save(coloured((0, 0, 0, 255), (255, 255, 255, 0))), 1, "transparency of a mask", None),
    "part of the lesion clear": ("png", save(np.dstack([coloured(WHITE), np.where(K == 2, 255, 0).astype(np.uint8)])), 1,
                                 "transparency of a mask", None),
    "smoothed alpha": ("png", save(np.dstack([RGB * 0, LEVELS.astype(np.uint8)])), 1, "transparency of a mask", None),
    "gray and alpha": ("png", lambda path: Image.merge("LA", [Image.new("L", (W, H), 255), Image.fromarray(M * np.uint8(255))])
                       .save(path), 1, M, opencv_alpha),
    "deep gray and alpha": ("png", deep_alpha_png(M * np.uint16(65535), np.full((H, W), 65535, np.uint16)), 1, M, by_opencv),
    "deep gray and alpha of the lesion": ("png", deep_alpha_png(LEVELS, M * np.uint16(65535)), 1, "transparency of a mask", None),
    "palette, black and red": ("png", palette(M * np.uint8(1), BLACK, (128, 0, 0)), 1, M, by_opencv),
    "palette, red and black": ("png", palette((~M) * np.uint8(1), (128, 0, 0), BLACK), 1, M, by_opencv),
    "palette, any levels": ("png", palette(M * np.uint8(7), *([BLACK] * 7), (3, 2, 1)), 1, M, by_opencv),
    "palette, clear ground": ("png", palette(M * np.uint8(1), BLACK, RED, transparency=0), 1, M, opencv_alpha),
    "palette, no black": ("png", palette(M * np.uint8(1), BLUE, RED), 1, "only black and one colour", None),
    "palette, three colours": ("png", palette(K, BLACK, RED, GREEN), 1, "this one 3 colours", None),
    "GIF": ("png", palette(M * np.uint8(1), BLACK, WHITE, format="GIF"), 1, M, by_opencv),
    "animated GIF": ("png", animated(coloured(WHITE), coloured(RED), format="GIF"), 1, "one picture, this one 2", None),
    "16 bits": ("png", cv(M * np.uint16(65535)), 1, M, by_itk),
    "16 bits, 1": ("tif", tif(M * np.uint16(1)), 1, M, by_tifffile),
    "16 bits a channel": ("png", cv(coloured(WHITE).astype(np.uint16) * 257), 1, M, by_opencv),
    "16 bits a channel, 1": ("png", cv(coloured((1, 1, 1)).astype(np.uint16)), 1, "16 a colour channel", None),
    "16 bits a channel, indices": ("png", cv(K[:, :, None].repeat(3, 2).astype(np.uint16)), 2, "16 a colour channel", None),
    "many levels of 16 bits": ("tif", tif(LEVELS), 1, "only black and one colour", None),
    "float": ("tif", tif(M.astype(np.float32)), 1, M, by_tifffile),
    "probabilities": ("tif", tif(M.astype(np.float32) * 0.7), 1, "only black and one colour", None),
    "not a number": ("tif", tif(np.where(M, np.nan, 0).astype(np.float32)), 1, "only black and one colour", None),
    "negative": ("tif", tif(M.astype(np.int16) * -1), 1, "only black and one colour", None),
    "MinIsWhite, 1 bit": ("tif", tif(~M, "miniswhite"), 1, M, by_tifffile),
    "MinIsWhite, 8 bits": ("tif", tif((~M) * np.uint8(255), "miniswhite"), 1, M, by_tifffile),
    "MinIsWhite, 16 bits": ("tif", tif((~M) * np.uint16(65535), "miniswhite"), 1, M, by_tifffile),
    "MinIsWhite, compressed": ("tif", tif((~M) * np.uint16(65535), "miniswhite", compression="zlib"), 1, M, by_tifffile),
    "MinIsWhite, big-endian": ("tif", tif((~M) * np.uint16(65535), "miniswhite", byteorder=">"), 1, "decode", None),
    "MinIsWhite, float": ("tif", tif(M.astype(np.float32), "miniswhite"), 1, "float TIFF.*Save it as MinIsBlack", None),
    "MinIsWhite, 0 and 1 in 8 bits": ("tif", tif(M * np.uint8(1), "miniswhite"), 1, "this one 2 values such as 254, 255", None),
    "MinIsBlack, 1 bit": ("tif", tif(M), 1, M, by_tifffile),
    "pages": ("tif", tif(np.stack([M, ~M]) * np.uint8(255)), 1, "one picture, this one 2.*file of its own", None),
    "a thumbnail as second page": ("tif", lambda path: [tifffile.imwrite(path, array * np.uint8(255), append=i > 0, subfiletype=i)
                                                        for i, array in enumerate((M, M[::2, ::2]))], 1, M, by_tifffile),
    "BMP, 1 bit": ("bmp", bitmap(M * np.uint8(1), 1, BLACK, WHITE), 1, M, by_opencv),
    "BMP, 4 bits, two colours": ("bmp", bitmap(M * np.uint8(1), 4, BLACK, WHITE), 1, M, by_opencv),
    "BMP, 8 bits, two colours": ("bmp", bitmap(M * np.uint8(1), 8, BLACK, WHITE), 1, M, by_itk),
    "BMP, 8 bits, upside down": ("bmp", bitmap(M * np.uint8(1), 8, BLACK, WHITE, upside_down=True), 1, M, by_opencv),
    "BMP, 8 bits, white first": ("bmp", bitmap((~M) * np.uint8(1), 8, WHITE, BLACK), 1, M, by_itk),
    "BMP, 8 bits, black alone": ("bmp", bitmap(M * np.uint8(0), 8, BLACK), 1, M & False, by_itk),
    "BMP, 4 bits, gray table": ("bmp", bitmap(M * np.uint8(1), 4, *((i, i, i) for i in range(16))), 1, M, by_opencv),
    "BMP, 8 bits, full table": ("bmp", bitmap(M * np.uint8(255), 8, *((i, i, i) for i in range(256))), 1, M, by_itk),
    "BMP by Pillow": ("bmp", palette(M * np.uint8(1), BLACK, WHITE), 1, M, by_opencv),
    "JPEG with halos": ("jpg", save(np.kron(M, np.ones((8, 8))).astype(np.uint8) * 255, quality=95), 1,
                        np.kron(M, np.ones((8, 8))) > 0, opencv_half),
    "JPEG with wide halos": ("jpg", save(M * np.uint8(255), quality=10), 1, "JPEG's compression left [0-9]+ gray levels", None),
    "JPEG of 0 and 1": ("jpg", save(np.kron(M, np.ones((8, 8))).astype(np.uint8) * 9, quality=50), 1, "JPEG's compression", None),
    "JPEG in colour": ("jpg", save(coloured(RED), quality=95), 1, "only black and one colour", None),
    "empty JPEG": ("jpg", save(M * np.uint8(0)), 1, M & False, by_opencv),
    "CMYK": ("tif", lambda path: Image.fromarray(coloured(WHITE)).convert("CMYK").save(path), 1, M, by_opencv),
    "indices": ("png", save(K), 2, K, lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED)),
    "indices, palette": ("png", palette(K, BLACK, RED, GREEN), 2, K, by_colour(RED, GREEN)),
    "indices, palette of one used class": ("png", palette(M * np.uint8(2), BLACK, RED, GREEN), 2, M * 2, by_colour(RED, GREEN)),
    "indices, palette in a program's order": ("png", palette(np.array([2, 0, 1], np.uint8)[K], RED, GREEN, BLACK), 2,
                                              "index 0 is the background and its colour black, in this palette .* #ff0000", None),
    "indices, BMP": ("bmp", bitmap(K, 8, BLACK, RED, GREEN), 2, K, by_colour(RED, GREEN)),
    "indices, BMP of two colours": ("bmp", bitmap(M * np.uint8(1), 8, BLACK, WHITE), 2, M, by_itk),
    "indices, colours": ("png", save(coloured(RED)), 2, "this one holds colours", None),
    "indices, alpha": ("png", save(np.dstack([K, K, K, M * np.uint8(255)])), 2, "this one holds colours", None),
    "indices, MinIsWhite": ("tif", tif(K, "miniswhite"), 2, "this one holds 253", None),
    "index too many": ("png", save(K * 2), 2, "holds the indices 0 to 2, this one holds 4", None),
    "truncated": ("png", cut(save(RGB), 0.6), 1, "a mask must be there and decode", None),
    "nothing in it": ("png", raw_bytes(b""), 1, "a mask must be there and decode", None),
    "not there": ("png", lambda path: None, 1, "a mask must be there and decode", None),
    "a folder": ("png", lambda path: path.mkdir(), 1, "a mask must be there and decode", None),
}

IMAGES: dict[str, tuple[str, Write, NDArray[Any] | str]] = {
    "RGB": ("png", save(RGB), RGB),
    "gray": ("png", save(RGB[:, :, 0]), RGB[:, :, :1].repeat(3, 2)),
    "BMP as PNG": ("png", save(RGB, format="BMP"), RGB),
    "PNG as JPEG": ("jpg", save(RGB, format="PNG"), RGB),
    "WebP as PNG": ("png", save(RGB, format="WEBP", lossless=True), RGB),
    "PNG as TIFF": ("tif", save(RGB, format="PNG"), RGB),
    "alpha": ("png", save(np.dstack([RGB, K * 100])), RGB),
    "one pixel": ("png", save(RGB[:1, :1]), RGB[:1, :1]),
    "one row": ("png", save(RGB[:1]), RGB[:1]),
    "one pixel of 16 bits": ("png", save(LEVELS[:1, :1]), RGB[:1, :1] * 0),
    "palette": ("png", palette(K, (1, 2, 3), RED, GREEN), np.array([(1, 2, 3), RED, GREEN], np.uint8)[K]),
    "CMYK": ("tif", lambda path: Image.fromarray(coloured(WHITE)).convert("CMYK").save(path), coloured(WHITE)),
    "16 bits a channel": ("png", cv(RGB[:, :, ::-1].astype(np.uint16) * 257), RGB),
    "12 of 16 bits a channel": ("png", cv(LEVELS[:, :, None].repeat(3, 2)), "the upper 8 are nearly empty.*Scale its levels"),
    "12 of 16 bits a channel, TIFF": ("tif", tif(LEVELS[:, :, None].repeat(3, 2), "rgb"), "the upper 8 are nearly empty"),
    "animated PNG": ("png", animated(RGB, RGB[::-1]), "one picture, this one 2"),
    "animated WebP": ("png", animated(RGB, RGB[::-1], format="WEBP"), "one picture, this one 2"),
    "pages": ("tif", tif(np.stack([RGB, RGB, RGB]), "rgb"), "one picture, this one 3"),
    "truncated JPEG": ("jpg", cut(save(RGB), 0.7), "an image must be there and decode.*intact copy"),
    "truncated BMP": ("bmp", cut(save(RGB), 0.5), "an image must be there and decode"),
    "truncated TIFF": ("tif", cut(tif(RGB, "rgb"), 0.5), "an image must be there and decode"),
    "truncated GIF": ("png", cut(save(RGB, format="GIF"), 0.5), "an image must be there and decode"),
    "header alone": ("png", cut(save(RGB), 0.03), "an image must be there and decode"),
    "zero bytes": ("png", raw_bytes(b""), "an image must be there and decode"),
    "text": ("png", raw_bytes(b"<html>404</html>"), "cannot identify image file.*saved as PNG"),
    "PostScript": ("png", raw_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify image file"),
    "DICOM": ("png", dicom, "cannot identify image file.*saved as PNG"),
    "huge": ("png", raw_bytes(png(30_000, 30_000, 8, 0, b"")), "decompression bomb"),
    "infinite levels": ("tif", tif(np.full((H, W), np.inf, np.float32)), "gray levels must be finite"),
    "five channels": ("tif", tif(np.zeros((H, W, 5), np.uint8), planarconfig="contig"), "an image must be there and decode"),
}


def line(caught: "pytest.ExceptionInfo[MeddiffError]", path: Path, message: str) -> None:
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    caught.match(message)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_or_refused(name: str, tmp_path: Path) -> None:
    ending, write, classes, expected, reader = MASKS[name]
    path = tmp_path / f"m.{ending}"
    write(path)
    if isinstance(expected, str):
        with pytest.raises(MeddiffError) as caught:
            decode_mask(path, classes)
        return line(caught, path, expected)
    pixels = decode_mask(path, classes).pixels
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    if reader is not None:
        assert np.array_equal(pixels, reader(path))
    return None


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_read_or_refused(name: str, tmp_path: Path) -> None:
    ending, write, expected = IMAGES[name]
    path = tmp_path / f"i.{ending}"
    write(path)
    if isinstance(expected, str):
        with pytest.raises(MeddiffError) as caught:
            decode_image(path)
        return line(caught, path, expected)
    pixels = decode_image(path).pixels
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    return None


def window(levels: NDArray[Any]) -> NDArray[Any]:
    low, high = np.percentile(levels, (0.1, 99.9))
    return np.clip((levels - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize(("ending", "write", "levels"), [
    ("tif", tif(LEVELS, "miniswhite"), 65535.0 - LEVELS), ("tif", tif(LEVELS), LEVELS * 1.0),
    ("tif", tif(LEVELS, byteorder=">"), LEVELS * 1.0), ("tif", tif(LEVELS.astype(np.int32) - 2000), LEVELS * 1.0),
    ("png", deep_alpha_png(LEVELS, LEVELS), LEVELS * 1.0), ("png", cv(LEVELS), LEVELS * 1.0)])
def test_deep_levels_are_read_in_full(ending: str, write: Write, levels: NDArray[Any], tmp_path: Path) -> None:
    write(path := tmp_path / f"i.{ending}")
    pixels = decode_image(path).pixels
    assert (pixels == pixels[:, :, :1]).all()
    assert np.abs(pixels[:, :, 0] - window(levels)).max() <= 0.51
    assert len(np.unique(pixels)) > 200


# ---- orientation

UPRIGHT = {orientation: turned(RGB, orientation) for orientation in range(1, 9)}
FILES = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "tif": {}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_an_image_without_mask_is_turned(ending: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"i.{ending}"
    oriented(RGB, orientation, **({"lossless": True} if ending == "webp" else {}))(path)
    assert np.array_equal(decode(RawCase("i", path, (), "g")).image, UPRIGHT[orientation])
    assert np.array_equal(decode_image(path).pixels, RGB)
    if ending == "png":
        assert np.array_equal(cv2.imread(str(path))[:, :, ::-1], UPRIGHT[orientation])     # as OpenCV shows it


def pair(folder: Path, image: Write, mask: Write, ending: str = "png", **changes: Any) -> RawCase:
    image(folder / f"i.{ending}")
    mask(folder / "m.png")
    return replace(RawCase("i", folder / f"i.{ending}", (folder / "m.png",), "g"), **changes)


WHOLE = M * np.uint8(255)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_of_the_mask_tells_how_it_was_drawn(orientation: int, ending: str, tmp_path: Path) -> None:
    shown = decode(pair(tmp_path, oriented(RGB, orientation), save(np.ascontiguousarray(turned(WHOLE, orientation))), ending))
    assert np.array_equal(shown.image, UPRIGHT[orientation])
    assert np.array_equal(shown.mask, turned(M, orientation))
    assert shown.traits == {"turned"}
    stored = decode(pair(tmp_path, oriented(RGB, orientation), save(WHOLE), ending))
    assert np.array_equal(stored.image, RGB)
    assert np.array_equal(stored.mask, M)
    assert stored.traits == {"as_stored"}


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_of_one_orientation_are_turned_alike(orientation: int, ending: str, tmp_path: Path) -> None:
    case = decode(pair(tmp_path, oriented(RGB, orientation), oriented(WHOLE, orientation), ending))
    assert np.array_equal(case.image, UPRIGHT[orientation])
    assert np.array_equal(case.mask, turned(M, orientation))


@pytest.mark.parametrize(("image", "mask", "message"), [
    (oriented(RGB, 3), save(WHOLE), "EXIF's orientation is 3 in the image and 1 in the mask.*Save the image turned"),
    (save(RGB), oriented(WHOLE, 2), "is 1 in the image and 2 in the mask"),
    (oriented(RGB[:, :H], 6), save(WHOLE[:, :H]), "is 6 in the image"),
    (oriented(RGB, 6), oriented(WHOLE, 8), "both ways fit"),
    (oriented(RGB, 6), save(WHOLE[:, 1:]), "this one is 19×12 and the image 20×12"),
    (save(RGB), save(WHOLE.T), "this one is 12×20 and the image 20×12"),
])
def test_what_may_be_turned_either_way_is_refused(image: Write, mask: Write, message: str, tmp_path: Path) -> None:
    with pytest.raises(MeddiffError) as caught:
        decode(pair(tmp_path, image, mask))
    line(caught, tmp_path / "m.png", message)


def test_an_empty_mask_lies_right_either_way(tmp_path: Path) -> None:
    case = decode(pair(tmp_path, oriented(RGB, 3), save(WHOLE * 0), lesion_free=True))
    assert np.array_equal(case.image, UPRIGHT[3])
    assert not case.mask.any()


def test_masks_of_one_image_agree_on_its_turn(tmp_path: Path) -> None:
    case = pair(tmp_path, oriented(RGB, 6), save(WHOLE))
    save(WHOLE.T.copy())(tmp_path / "n.png")
    with pytest.raises(MeddiffError, match="turned one way"):
        decode(replace(case, masks=(*case.masks, tmp_path / "n.png")))


# ---- any bytes at all

SEEDS = {"png": save(RGB), "l.png": save(WHOLE), "p.png": palette(K, BLACK, RED, GREEN), "jpg": save(RGB), "bmp": save(WHOLE),
         "8.bmp": bitmap(M * np.uint8(1), 8, BLACK, WHITE), "tif": tif(LEVELS, "miniswhite"), "gif": save(WHOLE, format="GIF"),
         "exif.jpg": oriented(RGB, 6), "webp": save(RGB)}


def seed_bytes(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        SEEDS[name](path := Path(folder) / f"s.{name.rpartition('.')[2]}")
        return path.read_bytes()


CONTENTS = {name: seed_bytes(name) for name in SEEDS}
ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """An intact file with some bytes changed, cut or put in."""
    content = bytearray(CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        content[at:at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@pytest.mark.filterwarnings("ignore")
@ANY
@given(content=st.one_of(st.binary(max_size=64), spoiled()), classes=st.sampled_from([1, 2]))
def test_no_bytes_bring_another_error(content: bytes, classes: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for read in (decode_image, lambda path: decode_mask(path, classes)):
        with suppress(MeddiffError):
            assert read(path).pixels.dtype == np.uint8


@ANY
@given(data=st.data(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_any_mask_of_one_colour_comes_back(data: st.DataObject, height: int, width: int, tmp_path: Path) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    inside = np.array(bits, bool).reshape(height, width)
    colour = data.draw(st.sampled_from([WHITE, RED, (1, 1, 1), (7, 0, 0)]))
    if inside.all() and colour not in (WHITE, (1, 1, 1)):
        inside[0, 0] = False
    ending = data.draw(st.sampled_from(["png", "bmp", "tif", "gif"]))
    write = data.draw(st.sampled_from([save(coloured(colour, where=inside)), palette(inside * np.uint8(1), BLACK, colour)]))
    write(path := tmp_path / f"m.{ending}")
    assert np.array_equal(decode_mask(path).pixels, inside)


@ANY
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
def test_a_turn_keeps_every_pixel(orientation: int, height: int, width: int) -> None:
    pixels = np.arange(height * width).reshape(height, width)
    back = {6: 8, 8: 6}.get(orientation, orientation)
    assert np.array_equal(turned(turned(pixels, orientation), back), pixels)
