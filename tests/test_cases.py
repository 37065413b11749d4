import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import Case, read_cases, read_image, read_mask, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import replacing


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
