import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import CLASS_COLOURS, Case, Frame, read_image, read_mask, write_image, write_mask
from meddiff.layout import replacing
from meddiff.outputs.cases import read_cases


def test_image_and_mask_survive_the_round_trip(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    case = cases(1)[0]
    write_image(tmp_path / "i.png", case.image)
    write_mask(tmp_path / "m.png", case.mask)
    assert np.array_equal(read_image(tmp_path / "i.png"), case.image)
    assert np.array_equal(read_mask(tmp_path / "m.png"), case.mask)


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


def test_the_frame_is_read_where_the_table_has_it(tmp_path: Path, cases: Callable[..., list[Case]]) -> None:
    case = cases(1)[0]
    write_image(tmp_path / "images/a.png", case.image)
    for columns, frame in ((("", ""), None), ((",top,left,height,width", ",4,0,24,32"), Frame(4, 0, 24, 32))):
        (tmp_path / "cases.csv").write_text(f"id,group,labelled{columns[0]}\na,p,0{columns[1]}\n")
        assert read_cases(tmp_path, labelled=False)[0].frame == frame
