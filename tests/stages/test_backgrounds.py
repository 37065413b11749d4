"""The stage: where backgrounds come from, what becomes of each lesion, and the inspector that is left for the filter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from meddiff.cases import Case, read_image, sha256, write_image, write_mask
from meddiff.diffusion.inpainting import to_tensor
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import Unrecorded
from meddiff.stages import backgrounds as stage
from tests.conftest import make_cases
from tests.pipelines import embedded


class Recorder(Unrecorded):
    """Keeps what the stage tells."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.files: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.values |= values

    def file(self, path: Path, folder: str = "") -> None:
        self.files.append(path.name)


def write_normal(layout: Layout, cases: list[Case]) -> None:
    rows = []
    for case in cases:
        file = layout.normal / f"images/{case.id}.png"
        write_image(file, case.image)
        rows.append({"id": case.id, "source": "normal", "group": case.group, "sha256": sha256(file)})
    layout.normal.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["id", "source", "group", "sha256"]).to_csv(layout.normal / "backgrounds.csv", index=False)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Ten labelled cases, one of them with too large a lesion, an unlabelled one, and no lesion-free image."""
    layout, cases = Layout(tmp_path), make_cases(11, seed=1)
    assert cases[0].mask is not None
    cases[0].mask[2:30, 2:30] = 1
    rows = []
    for case in cases:
        labelled = case is not cases[-1]
        write_image(layout.cases("train") / f"images/{case.id}.png", case.image)
        if labelled:
            assert case.mask is not None
            write_mask(layout.cases("train") / f"masks/{case.id}.png", case.mask)
        rows.append({"id": case.id, "group": case.group, "labelled": int(labelled), "image_sha256": "", "mask_sha256": ""})
    pd.DataFrame(rows).to_csv(layout.cases("train") / "cases.csv", index=False)
    embedded(torch.stack([to_tensor(case.image) for case in cases])).save_pretrained(layout.foundation)
    write_normal(layout, [])
    return layout


def run(layout: Layout, tiny: Params, **changes: Any) -> tuple[pd.DataFrame, Recorder]:
    """The table of backgrounds, and what was told."""
    recorder = Recorder()
    stage.run(layout, tiny.model_copy(update={"backgrounds": tiny.backgrounds.model_copy(update=changes)}), recorder)
    return pd.read_csv(layout.backgrounds / "backgrounds.csv", keep_default_na=False), recorder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_without_lesion_free_images_lesions_are_removed_and_counted(
    layout: Layout, tiny: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    table, told = run(layout, tiny, residue=1.0)
    assert table.columns.tolist() == ["id", "source", "group", "method", "sha256"]
    assert table["id"].tolist() == [f"case_1_{i:03d}_removed" for i in range(1, 10)]
    assert table["source"].tolist() == [f"removed:case_1_{i:03d}" for i in range(1, 10)]
    assert set(table["method"]) == {"texture"}
    assert table["group"].tolist() == [f"patient_1_{i // 2}" for i in range(1, 10)]
    assert {path.stem for path in (layout.backgrounds / "images").iterdir()} == set(table["id"])
    assert table["sha256"].tolist() == [sha256(layout.backgrounds / f"images/{id}.png") for id in table["id"]]
    counts = {name: told.values[name] for name in ("backgrounds", "normal", "tried", "removed", "dropped_too_large")}
    assert counts == {"backgrounds": 9, "normal": 0, "tried": 10, "removed": 9, "dropped_too_large": 1}
    assert told.values["removed_by_texture"] == 9
    assert "lesions not removed: 1 (too large)" in capsys.readouterr().err
    attempts = pd.read_csv(layout.backgrounds / "removals.csv", keep_default_na=False)
    assert attempts.loc[attempts["case"] == "case_1_000", "reason"].tolist() == ["too large"]
    assert told.files == ["removals.csv", "removed.png"]
    with Image.open(layout.backgrounds / "removed.png") as sheet:
        assert sheet.size == (4 * 2 * 32, 3 * 32)


@pytest.mark.parametrize(("sources", "normal", "kinds"), [
    ("auto", 8, {"normal"}), ("auto", 7, {"normal", "removed"}), ("normal", 2, {"normal"}), ("removed", 9, {"removed"}),
    ("both", 9, {"normal", "removed"})])
def test_sources(layout: Layout, tiny: Params, sources: str, normal: int, kinds: set[str]) -> None:
    write_normal(layout, make_cases(normal, seed=2, lesion=False))
    table, told = run(layout, tiny, sources=sources, residue=1.0)
    assert {source.partition(":")[0] for source in table["source"]} == kinds
    own = table[table["source"] == "normal"]
    assert len(own) == (normal if "normal" in kinds else 0)
    assert told.values["tried"] == (10 if "removed" in kinds else 0)
    for id in own["id"]:
        assert np.array_equal(read_image(layout.backgrounds / f"images/{id}.png"), read_image(layout.normal / f"images/{id}.png"))


def test_what_fails_by_one_method_goes_to_the_next(layout: Layout, tiny: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meddiff.backgrounds.removal.fill_with_texture", lambda image, hole, frame: None)
    loaded, load = [], stage.load_painter
    monkeypatch.setattr(stage, "load_painter", lambda *args: (loaded.append(args), load(*args))[1])
    table, told = run(layout, tiny, residue=1.0)
    assert set(table["method"]) == {"foundation"}
    assert told.values["removed_by_foundation"] == 9
    assert len(loaded) == 1
    attempts = pd.read_csv(layout.backgrounds / "removals.csv", keep_default_na=False)
    assert attempts["method"].tolist() == ["", *["texture"] * 9, *["foundation"] * 9]
    assert attempts["reason"].tolist() == ["too large", *["no source"] * 9, *[""] * 9]


def test_the_inspector_is_left_and_the_same_inputs_give_the_same_bytes(layout: Layout, tiny: Params) -> None:
    run(layout, tiny, residue=1.0)
    first = files(layout.backgrounds), files(layout.inspector)
    assert Segmenter.load(layout.inspector).architecture.classes == 1
    run(layout, tiny, residue=1.0)
    assert first == (files(layout.backgrounds), files(layout.inspector))


def test_no_background_is_an_error_that_leaves_earlier_outputs(layout: Layout, tiny: Params) -> None:
    run(layout, tiny, residue=1.0)
    before = files(layout.backgrounds), files(layout.inspector)
    with pytest.raises(MeddiffError, match=r"no image is lesion-free.*backgrounds\.sources"):
        run(layout, tiny, sources="normal")
    with pytest.raises(MeddiffError, match="each of 10 labelled lesions"):
        run(layout, tiny, largest=0.0)
    (layout.normal / "backgrounds.csv").unlink()
    with pytest.raises(MeddiffError, match="dvc repro prepare"):
        run(layout, tiny)
    assert before == (files(layout.backgrounds), files(layout.inspector))
