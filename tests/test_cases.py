import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import CLASS_COLOURS, Case, Frame, eight_bits, read_image, read_mask, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import replacing
from meddiff.outputs.cases import read_cases


def test_image_and_mask_survive_the_round_trip(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    case = cases(1)[0]
    write_image(tmp_path / "i.png", case.image)
    write_mask(tmp_path / "m.png", case.mask)
    assert np.array_equal(read_image(tmp_path / "i.png"), case.image)
    assert np.array_equal(read_mask(tmp_path / "m.png"), case.mask)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "01"])
def test_every_usual_form_of_mask_is_read(tmp_path: Path, mode: str, cases: Callable[..., list[Case]]) -> None:
    mask = cases(1)[0].mask
    picture = Image.fromarray(mask if mode == "01" else mask * np.uint8(255))
    picture.convert("L" if mode == "01" else mode).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)


def test_gray_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "m.png")
    with pytest.raises(MeddiffError, match="256 values") as caught:
        read_mask(tmp_path / "m.png")
    assert "m.png" in caught.value.where


def test_cut_jpeg_is_refused(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    Image.fromarray(cases(1, size=64)[0].image).save(tmp_path / "i.jpg")
    whole = (tmp_path / "i.jpg").read_bytes()
    (tmp_path / "i.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MeddiffError, match="intact copy"):
        read_image(tmp_path / "i.jpg")


def test_only_labelled_cases_are_given_masks(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    made = cases(3)
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "group", "labelled", "image_sha256", "mask_sha256"])
        for i, case in enumerate(made):
            write_image(tmp_path / f"images/{case.id}.png", case.image)
            if i:
                write_mask(tmp_path / f"masks/{case.id}.png", case.mask)
            table.writerow([case.id, case.group, int(i > 0), "", ""])
    assert [case.id for case in read_cases(tmp_path)] == [case.id for case in made[1:]]
    everything = read_cases(tmp_path, labelled=False)
    assert len(everything) == 3
    assert all(case.mask is None for case in everything)


def _write(target: Path, name: str, text: str, fail: bool = False) -> None:
    with replacing(target) as fresh:
        (fresh / name).write_text(text)
        if fail:
            raise KeyboardInterrupt


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    _write(target, "a", "old")
    with pytest.raises(KeyboardInterrupt):
        _write(target, "a", "new", fail=True)
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    _write(target, "b", "new")
    assert [path.name for path in target.iterdir()] == ["b"]


CLASSES = np.array([[0, 1, 1, 2], [0, 0, 3, 3]], np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.mark.parametrize("mask", [CLASSES, np.minimum(CLASSES, 1)])
def test_a_mask_of_several_classes_keeps_its_indices_and_shows_their_colours(tmp_path: Path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "m.png", mask, classes=3)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as picture:
        assert np.array_equal(np.array(picture), mask)          # any other reader finds the indices too
        shown = np.array(picture.convert("RGB"))
    assert {tuple(colour) for colour in shown[mask == 1].tolist()} == {CLASS_COLOURS[0]}


def test_several_classes_are_never_written_as_one(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", CLASSES)
    assert np.array_equal(read_mask(tmp_path / "m.png"), CLASSES)


@pytest.mark.parametrize("form", ["L", "RGB", "RGBA", "LA", "P", "own palette", "I;16", "tif"])
def test_every_usual_form_of_class_indices_is_read(tmp_path: Path, form: str) -> None:
    picture = Image.fromarray(CLASSES.astype(np.uint16) if form == "I;16" else CLASSES)
    if form == "own palette":
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128])
    elif form not in ("I;16", "tif"):
        picture = picture.convert(form)
    path = tmp_path / ("m.tif" if form == "tif" else "m.png")
    picture.save(path)
    assert np.array_equal(read_mask(path, 3), CLASSES)


@pytest.mark.parametrize(("mask", "classes", "message"), [
    (CLASSES, 2, "a mask of 2 classes holds the indices 0 to 2, this one holds 3.*prepare.classes"),
    ((CLASSES > 0) * np.uint8(255), 2, "this one holds 255"),
    (np.stack([CLASSES, CLASSES * 0, CLASSES * 0], 2), 3, "this one holds colours.*1 to 3"),
    (CLASSES, 1, "a mask holds only 0 and 1.*name them in `prepare.classes`"),
])
def test_indices_without_a_class_are_refused(tmp_path: Path, mask: np.ndarray, classes: int, message: str) -> None:
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(MeddiffError, match=rf"m\.png: .*{message}"):
        read_mask(tmp_path / "m.png", classes)


def test_a_plain_mask_of_16_bits_is_read(tmp_path: Path) -> None:
    Image.fromarray((CLASSES > 0) * np.uint16(65535)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), CLASSES > 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "clear palette"])
def test_images_of_any_8_bit_form_become_rgb(tmp_path: Path, mode: str) -> None:
    gray = np.tile(np.array([0, 255], np.uint8) if mode == "1" else np.arange(0, 250, 25, dtype=np.uint8), (8, 4))
    picture = Image.fromarray(gray).convert("P" if mode == "clear palette" else mode)
    path = tmp_path / "i.png"
    picture.save(path, **({"transparency": bytes(range(250, 0, -1))} if mode == "clear palette" else {}))
    image = read_image(path)
    assert image.shape == (*gray.shape, 3)
    assert all(np.array_equal(image[:, :, channel], gray) for channel in range(3))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_windowed_and_not_clipped(tmp_path: Path, ending: str) -> None:
    levels = np.linspace(300, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)       # 12 bits in a file of 16
    Image.fromarray(levels).save(tmp_path / f"i.{ending}")
    image = read_image(tmp_path / f"i.{ending}").astype(int)
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
        read_image(tmp_path / "i.tif")


def test_the_frame_is_read_where_the_table_has_it(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    case = cases(1)[0]
    write_image(tmp_path / "images/a.png", case.image)
    for columns, frame in ((("", ""), None), ((",top,left,height,width", ",4,0,24,32"), Frame(4, 0, 24, 32))):
        (tmp_path / "cases.csv").write_text(f"id,group,labelled{columns[0]}\na,p,0{columns[1]}\n")
        assert read_cases(tmp_path, labelled=False)[0].frame == frame
