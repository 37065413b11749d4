"""Image and mask files of every form, as their own formats say they are read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import Case
from meddiff.datasets.decoding import decode_image, decode_mask
from meddiff.datasets.levels import eight_bits
from meddiff.errors import MeddiffError

CLASSES = np.array([[0, 1, 1, 2], [0, 0, 3, 3]], np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "01"])
def test_every_usual_form_of_mask_is_read(tmp_path: Path, mode: str, cases: Callable[..., list[Case]]) -> None:
    mask = cases(1)[0].mask
    picture = Image.fromarray(mask if mode == "01" else mask * np.uint8(255))
    picture.convert("L" if mode == "01" else mode).save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png").pixels, mask)


def test_gray_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "m.png")
    with pytest.raises(MeddiffError, match="256 values") as caught:
        decode_mask(tmp_path / "m.png")
    assert "m.png" in caught.value.where


def test_cut_jpeg_is_refused(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    Image.fromarray(cases(1, size=64)[0].image).save(tmp_path / "i.jpg")
    whole = (tmp_path / "i.jpg").read_bytes()
    (tmp_path / "i.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MeddiffError, match="intact copy"):
        decode_image(tmp_path / "i.jpg")


@pytest.mark.parametrize("form", ["L", "RGB", "RGBA", "LA", "P", "own palette", "I;16", "tif"])
def test_every_usual_form_of_class_indices_is_read(tmp_path: Path, form: str) -> None:
    picture = Image.fromarray(CLASSES.astype(np.uint16) if form == "I;16" else CLASSES)
    if form == "own palette":
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128])
    elif form not in ("I;16", "tif"):
        picture = picture.convert(form)
    path = tmp_path / ("m.tif" if form == "tif" else "m.png")
    picture.save(path)
    assert np.array_equal(decode_mask(path, 3).pixels, CLASSES)


@pytest.mark.parametrize(("mask", "classes", "message"), [
    (CLASSES, 2, "a mask of 2 classes holds the indices 0 to 2, this one holds 3.*prepare.classes"),
    ((CLASSES > 0) * np.uint8(255), 2, "this one holds 255"),
    (np.stack([CLASSES, CLASSES * 0, CLASSES * 0], 2), 3, "this one holds colours.*1 to 3"),
    (CLASSES, 1, "a mask holds only black and one colour, this one 4 values such as 2, 3.*name them in `prepare.classes`"),
])
def test_indices_without_a_class_are_refused(tmp_path: Path, mask: np.ndarray, classes: int, message: str) -> None:
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(MeddiffError, match=rf"m\.png: .*{message}"):
        decode_mask(tmp_path / "m.png", classes)


def test_a_plain_mask_of_16_bits_is_read(tmp_path: Path) -> None:
    Image.fromarray((CLASSES > 0) * np.uint16(65535)).save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png").pixels, CLASSES > 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "clear palette"])
def test_images_of_any_8_bit_form_become_rgb(tmp_path: Path, mode: str) -> None:
    gray = np.tile(np.array([0, 255], np.uint8) if mode == "1" else np.arange(0, 250, 25, dtype=np.uint8), (8, 4))
    picture = Image.fromarray(gray).convert("P" if mode == "clear palette" else mode)
    path = tmp_path / "i.png"
    picture.save(path, **({"transparency": bytes(range(250, 0, -1))} if mode == "clear palette" else {}))
    image = decode_image(path).pixels
    assert image.shape == (*gray.shape, 3)
    assert all(np.array_equal(image[:, :, channel], gray) for channel in range(3))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_windowed_and_not_clipped(tmp_path: Path, ending: str) -> None:
    levels = np.linspace(300, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)       # 12 bits in a file of 16
    Image.fromarray(levels).save(tmp_path / f"i.{ending}")
    image = decode_image(tmp_path / f"i.{ending}").pixels.astype(int)
    assert (image == image[:, :, :1]).all()
    assert (image.min(), image.max()) == (0, 255)
    assert np.abs(image[:, :, 0] - (levels - 300.0) / 3795 * 255).max() < 1.5


def test_8_bits_in_a_deeper_file_stay_and_unusable_levels_are_refused(tmp_path: Path) -> None:
    low = np.arange(200, dtype=np.int32).reshape(10, 20)
    assert np.array_equal(eight_bits(low), low)
    assert eight_bits(np.full((4, 4), 5000, np.uint16)).max() == 0
    assert eight_bits(np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)).max() == 255
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "i.tif")
    with pytest.raises(MeddiffError, match=r"i\.tif: .*finite"):
        decode_image(tmp_path / "i.tif")


