"""`split.json` beside files that hold many images, and groups that name such a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from meddiff.datasets.adapters import passed_over, read
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.delivery.clinical import write_dicom_mask
from meddiff.errors import MeddiffError
from tests.datasets.clinical import image
from tests.datasets.exporting import picture
from tests.datasets.test_volumes import A, M, nifti

FEW = Slicing(frames=2)


def volumes(root: Path) -> Path:
    """Two annotated volumes, a and b."""
    for folder, array in (("images", A), ("masks", M)):
        (root / folder).mkdir(parents=True)
        for stem in ("a", "b"):
            nifti(root / folder / f"{stem}.nii.gz", array)
    return root


def split(root: Path, **parts: list[str]) -> None:
    (root / "split.json").write_text(json.dumps({"train": [], "val": [], "test": [], **parts}))


@pytest.mark.parametrize("name", ["{}", "{}.nii.gz", "images/{}.nii.gz"])
def test_a_volume_is_named_for_all_its_slices(tmp_path: Path, name: str) -> None:
    root = volumes(tmp_path)
    split(root, train=[name.format("a")], test=[name.format("b")])
    (root / "groups.csv").write_text(f"id,group\n{name.format('a')},Ann\n{name.format('b')},Bo\n")
    cases = read("volumes", root, slicing=FEW)
    assert {(case.id[0], case.part, case.group) for case in cases} == {("a", "train", "Ann"), ("b", "test", "Bo")}
    assert len(cases) > 4
    assert {left.what for left in passed_over("volumes", root, cases)} == {"frames"}  # slices of both that aren't taken


def test_dicom_files_are_named_by_their_place_where_names_are_shared(tmp_path: Path) -> None:
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:6] = 1
    for number, patient in enumerate(("x", "y")):
        (tmp_path / patient).mkdir()
        image(tmp_path / f"{patient}/IM1.dcm", np.full((8, 9), 40 + number, np.uint8), patient)
        write_dicom_mask(tmp_path / f"{patient}/IM1.dcm", mask, ("lesion",), tmp_path / f"{patient}/seg.dcm")
    split(tmp_path, train=["x/IM1.dcm"], val=["y/IM1.dcm"])
    assert {case.file.parent.name: case.part for case in read("dicom", tmp_path) if case.file} == {"x": "train", "y": "val"}
    split(tmp_path, train=["x/IM1.dcm"])
    with pytest.raises(MeddiffError, match=r"split\.json: every image with a mask must be in a part"):
        read("dicom", tmp_path)
    split(tmp_path, train=["IM1.dcm"])
    with pytest.raises(MeddiffError, match=r"`IM1\.dcm` in `train` must be an image that is here"):
        read("dicom", tmp_path)


def test_slices_of_a_volume_in_two_parts_are_refused(tmp_path: Path) -> None:
    root = volumes(tmp_path)
    one = read("volumes", root, slicing=FEW)[0].id
    split(root, train=["a", "b"], test=[one])
    with pytest.raises(MeddiffError, match=f"`{one}` must be in one part, it is in `train` and `test`"):
        read("volumes", root, slicing=FEW)


def test_exports_of_tools_are_split_too(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [lesion]\n")
    for stem in ("a", "b"):
        picture(tmp_path / f"images/{stem}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{stem}.txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    split(tmp_path, train=["a"], test=["b.png"])
    assert {case.id: case.part for case in read("yolo", tmp_path)} == {"a": "train", "b": "test"}


def test_an_extra_volume_needs_no_part(tmp_path: Path) -> None:
    root = volumes(tmp_path)
    (root / "unlabelled").mkdir()
    nifti(root / "unlabelled/c.nii.gz", np.zeros((6, 6, 4), np.int16))
    split(root, train=["a"], test=["b"])
    assert {case.part for case in read("volumes", root, slicing=FEW) if case.id.startswith("c")} == {None}
