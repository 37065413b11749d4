"""The plain folder of accepted pairs, as other programs read it."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from meddiff.cases import read_mask, write_mask
from meddiff.cli.app import app
from meddiff.datasets import adapters
from meddiff.delivery.pairs import export_pairs
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params

IDS = ["s01", "s02", "s11", "s12"]


def grays(file: Path) -> np.ndarray:
    """A mask as OpenCV reads it unchanged: of a palette these would be colours."""
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)


def test_accepted_pairs_go_out_with_their_final_masks(layout: Layout, tmp_path: Path) -> None:
    steps: list[int] = []
    assert export_pairs(layout, Params(), tmp_path / "out", report=lambda done, total, values: steps.append(done)) == 4
    assert steps == [1, 2, 3, 4]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "images", "masks", "samples.csv"]
    for kind in ("images", "masks"):
        assert sorted(path.stem for path in (out / kind).iterdir()) == IDS
    for id in IDS:
        final = read_mask(layout.filtered / "masks" / f"{id}.png")
        assert np.array_equal(grays(out / "masks" / f"{id}.png"), final * 255)
        assert (out / f"images/{id}.png").read_bytes() == next(layout.synthetic.glob(f"*/images/{id}.png")).read_bytes()
    table = pd.read_csv(out / "samples.csv", keep_default_na=False)
    assert table["id"].tolist() == IDS
    assert set(table["verdict"]) == {"accepted"}
    assert "| 255 | lesion |" in (out / "README.md").read_text()
    assert [case.id for case in adapters.read("folder", out)] == IDS


def test_labels_are_indices_for_one_class_and_for_several(layout: Layout, tmp_path: Path) -> None:
    export_pairs(layout, Params(), tmp_path / "one", labels=True)
    assert np.unique(grays(tmp_path / "one/masks/s01.png")).tolist() == [0, 1]
    assert "| 1 | lesion |" in (tmp_path / "one/README.md").read_text()
    write_mask(layout.filtered / "masks/s01.png", np.tri(32, dtype=np.uint8) + np.eye(32, dtype=np.uint8), 2)
    two = Params.model_validate({"prepare": {"classes": ["benign", "malignant"]}})
    export_pairs(layout, two, tmp_path / "two")
    assert np.array_equal(grays(tmp_path / "two/masks/s01.png"), np.tri(32) + np.eye(32))
    assert "| 1 | benign |\n| 2 | malignant |" in (tmp_path / "two/README.md").read_text()


def test_what_cannot_be_exported_is_named(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    for place in (tmp_path / "full", tmp_path / "full/a"):
        with pytest.raises(MeddiffError, match="must be new or empty"):
            export_pairs(layout, Params(), place)
    decisions = pd.read_parquet(layout.filtered / "decisions.parquet")
    decisions.assign(verdict="rejected").to_parquet(layout.filtered / "decisions.parquet")
    with pytest.raises(MeddiffError, match="there must be an accepted pair"):
        export_pairs(layout, Params(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(MeddiffError, match="dvc repro generate"):
        export_pairs(Layout(tmp_path / "new"), Params(), tmp_path / "none")


def test_the_command_says_what_it_wrote(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.params.write_text("prepare: {dataset: busi}\n")
    monkeypatch.chdir(layout.root)
    done = CliRunner().invoke(app, ["export", "folder", str(tmp_path / "out")], catch_exceptions=False)
    assert f"4 accepted pairs in {tmp_path / 'out'}: images/, masks/, samples.csv" in done.output
