"""Segmenters that left the house give the same masks: by ONNX Runtime, by MONAI alone, and rebuilt from weights and JSON."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pydoc import locate

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from meddiff.cli.app import app
from meddiff.datasets.adapters import fit_square
from meddiff.delivery.segmenters import export_segmenter
from meddiff.delivery.trained import choose_segmenter
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.rows import ValidationRow
from meddiff.outputs.tables import VALIDATION
from meddiff.params import SegmentParams
from meddiff.segmentation.decision import Bounds
from meddiff.segmentation.ensemble import Recipe
from meddiff.segmentation.networks import WIDTHS
from meddiff.segmentation.segmenter import Segmenter, to_input, untrained

SIZE = 64
NETWORKS = sorted(WIDTHS)
_UNUSED = ("ignite", "matplotlib", "mlflow", "onnx", "optuna", "pandas", "skimage", "sklearn", "transformers")  # by the bundle


def trained(root: Path, network: str = "unet", classes: int = 1, fit: str = "pad", bounds: Bounds | None = None,
            ) -> tuple[Layout, Segmenter]:
    """A project with one segmenter whose random weights give masks of all classes."""
    layout = Layout(root)
    made = untrained(SegmentParams(network=network), classes, SIZE, SIZE)
    with torch.no_grad():
        logits = made.network.eval()(to_input(images()))
        bias = [p for p in made.network.parameters() if p.shape == logits.shape[1:2]][-1]
        bias -= logits.transpose(0, 1).flatten(1).median(1).values
    replace(made, bounds=bounds or Bounds()).save(layout.segmenters / "real/0")
    names = ("lesion",) if classes == 1 else tuple(f"kind {i}" for i in range(classes))
    Recipe("real", names, SIZE, fit).write(layout.segmenters / "real")
    VALIDATION.write(layout.segmenters, [ValidationRow("real", 0, 0.5, 4, 4, 0, 0)])
    return layout, Segmenter.load(layout.segmenters / "real/0")


def images(n: int = 3, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def assert_same(found: np.ndarray, segmenter: Segmenter, pixels: np.ndarray) -> None:
    """Masks are those of `segment`, but for pixels where two classes are equal to the rounding of other kernels."""
    with torch.no_grad():
        logits = segmenter.network(to_input(pixels))
    chances = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    best, second = chances.softmax(1).topk(2, 1).values.unbind(1)
    sure = (best - second > 0.01 * (best - second).mean()).numpy()
    assert sure.mean() > 0.95
    assert np.array_equal(found[sure], segmenter.segment(pixels)[sure])


def onnx_masks(folder: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "segmenter.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"image": pixels.transpose(0, 3, 1, 2)})
    assert found.dtype == np.float32
    return found[:, 0] > 0.5 if found.shape[1] == 1 else found.argmax(1)


@pytest.mark.parametrize("network", ["segresnet"])  # an export of the others takes up to a minute each
def test_onnx_runtime_gives_the_same_masks(network: str, tmp_path: Path) -> None:
    classes = 2 if network == "segresnet" else 1
    layout, segmenter = trained(tmp_path, network, classes)
    export_segmenter(layout, tmp_path / "out", "onnx")
    for pixels in (images(), images(1), images(2, 96, 128)):
        assert len(np.unique(segmenter.segment(pixels))) == classes + 1
        assert_same(onnx_masks(tmp_path / "out", pixels), segmenter, pixels)
    model = onnx.load(tmp_path / "out/segmenter.onnx")
    onnx.checker.check_model(model)
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["meddiff"])
    assert (facts["image_size"], facts["fit"], len(facts["class_names"])) == (SIZE, "pad", classes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "segmenter.onnx"]


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_and_json_rebuild_it(network: str, tmp_path: Path) -> None:
    layout, segmenter = trained(tmp_path, network, 2 if network == "unet" else 1)
    export_segmenter(layout, tmp_path / "out", "safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert np.array_equal(Segmenter.load(tmp_path / "out").segment(images()), segmenter.segment(images()))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["image_size"], config["fit"], config["arm"], config["seed"]) == (SIZE, "pad", "real", 0)
    assert config["needs_meddiff"] == (network == "encoder_unet")
    assert ("The network is meddiff's" in (tmp_path / "out/README.md").read_text()) == config["needs_meddiff"]
    assert config["network_class"].startswith("meddiff." if config["needs_meddiff"] else "monai.networks.nets.")
    rebuilt = locate(config["network_class"])(**config["network_arguments"])
    rebuilt.load_state_dict(load_file(tmp_path / "out/model.safetensors"))
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(to_input(images())), segmenter.network(to_input(images())))


def run_bundle(folder: Path, masks: Path, *without: str) -> None:
    """MONAI's `run`, as its command line calls it, and its two checks, in a process that lacks some packages."""
    code = ("import sys, warnings; sys.modules.update(dict.fromkeys(sys.argv[4:])); warnings.simplefilter('ignore')\n"
            "from monai.bundle import run, verify_metadata, verify_net_in_out\n"
            "root, masks, schema = sys.argv[1:4]\n"
            "config, meta = (f'{root}/configs/{name}.json' for name in ('inference', 'metadata'))\n"
            "run(config_file=config, bundle_root=root, dataset_dir=f'{root}/pictures', output_dir=masks)\n"
            "verify_net_in_out('network_def', meta_file=meta, config_file=config, device='cpu')\n"
            "if schema: verify_metadata(meta_file=meta, filepath=schema)")
    schema = os.environ.get("MEDDIFF_TEST_BUNDLE_SCHEMA", "")
    subprocess.run([sys.executable, "-c", code, folder, masks, schema, *without], check=True, cwd=folder.parent)


@pytest.mark.parametrize(("network", "classes", "fit"), [
    ("unet", 1, "pad"), ("segresnet", 2, "squash"), ("attention_unet", 1, "pad"), ("swin_unetr", 1, "pad"),
    ("encoder_unet", 1, "pad")])
def test_monai_runs_the_bundle_to_the_same_masks(network: str, classes: int, fit: str, tmp_path: Path) -> None:
    layout, segmenter = trained(tmp_path, network, classes, fit)
    export_segmenter(layout, tmp_path / "out", "bundle")
    pictures = [*images(2), images(1, 61, 90)[0], images(1, 200, 33)[0]]
    (tmp_path / "out/pictures").mkdir()
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"out/pictures/case.{i}.png")
    run_bundle(tmp_path / "out", tmp_path / "masks", *_UNUSED, *([] if network == "encoder_unet" else ["meddiff"]))
    assert len(list((tmp_path / "masks").iterdir())) == len(pictures)
    for i, pixels in enumerate(pictures):
        square = fit_square(pixels, np.zeros(pixels.shape[:2], np.uint8), SIZE, fit).image
        with Image.open(tmp_path / f"masks/case.{i}.png") as mask:
            assert mask.mode == "L"
            levels = np.asarray(mask)
        assert set(np.unique(levels)) == ({0, 255} if classes == 1 else {0, 1, 2})
        assert_same(levels[None] // (255 if classes == 1 else 1), segmenter, square[None])
    readme = (tmp_path / "out/docs/README.md").read_text()
    assert ("and meddiff for its network" in readme) == (network == "encoder_unet")


@pytest.mark.parametrize("kind", ["area", "probability"])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_bounds_for_the_whole_image_go_along(classes: int, kind: str, tmp_path: Path) -> None:
    layout, segmenter = trained(tmp_path / "free", classes=classes)
    pictures = np.concatenate([images(3), np.indices((3, SIZE, SIZE, 3))[2].astype(np.uint8) * 3])
    findings = segmenter.findings(pictures, weigh=True)
    reached = np.unique(findings.areas if kind == "area" else findings.probabilities)
    assert len(reached) > 1
    bounds = Bounds(**{kind: float(reached[0] + reached[-1]) / 2})
    layout, segmenter = trained(tmp_path / "bound", classes=classes, bounds=bounds)
    shown = segmenter.findings(pictures).shown
    assert 0 < shown.sum() < len(shown)
    for form in ("safetensors", "bundle"):
        export_segmenter(layout, tmp_path / form, form)
    facts = json.loads((tmp_path / "safetensors/config.json").read_text())
    assert facts["bounds"][kind] == getattr(bounds, kind)
    assert f"{getattr(bounds, kind):.6g}" in facts["decision"]
    assert facts["decision"] in (tmp_path / "safetensors/README.md").read_text()
    (tmp_path / "bundle/pictures").mkdir()
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"bundle/pictures/{i}.png")
    run_bundle(tmp_path / "bundle", tmp_path / "masks", *_UNUSED, "meddiff")
    drawn = [bool(np.asarray(Image.open(tmp_path / f"masks/{i}.png")).any()) for i in range(len(pictures))]
    assert drawn == shown.tolist()


def test_validation_alone_chooses(tmp_path: Path) -> None:
    layout, segmenter = trained(tmp_path)
    rows = [ValidationRow(arm, seed, dice, 4, 4, 0, 0) for arm, seed, dice in (
        ("real", 0, 0.9), ("real", 1, 0.1), ("synthetic", 0, 0.6), ("synthetic", 1, 0.7), ("combined", 0, float("nan")))]
    for row in rows:
        segmenter.save(layout.segmenters / row.arm / str(row.seed))
        Recipe(row.arm, ("lesion",), SIZE, "pad").write(layout.segmenters / row.arm)
    VALIDATION.write(layout.segmenters, rows)

    def chosen(arm: str | None = None, seed: int | None = None) -> tuple[str, int]:
        row = choose_segmenter(layout, arm, seed).row
        return row.arm, row.seed

    assert [chosen(), chosen("real"), chosen(seed=0), chosen("combined")] == [
        ("synthetic", 1), ("real", 0), ("synthetic", 0), ("combined", 0)]
    for given, message in ((("rival", None), "arm rival: there is no such trained.*real 0, real 1"),
                           (("real", 7), "arm real, seed 7: there is no")):
        with pytest.raises(MeddiffError, match=message):
            chosen(*given)
    (layout.segmenters / "combined/ensemble.json").unlink()
    with pytest.raises(MeddiffError, match="combined: the recipe of its segmenters must be there"):
        chosen("combined")
    VALIDATION.write(layout.segmenters, [replace(row, dice=float("nan")) for row in rows])
    with pytest.raises(MeddiffError, match="without validation Dice no arm is the best"):
        chosen()


def test_the_command_says_what_it_wrote_or_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, _ = trained(tmp_path / "project")
    layout.params.write_text("{}\n")
    monkeypatch.chdir(layout.root)
    command = ["export", "segmenter", str(tmp_path / "out"), "--format"]
    assert "arm real, seed 0, validation Dice 0.5000" in CliRunner().invoke(app, [*command, "safetensors"]).output
    with pytest.raises(MeddiffError, match="the folder for the segmenter must be new or empty"):
        CliRunner().invoke(app, [*command, "bundle"], catch_exceptions=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MeddiffError, match=r"needs the package onnx\. Install it with: pip install 'meddiff\[onnx\]'"):
        CliRunner().invoke(app, [*command[:2], str(tmp_path / "new"), "--format", "onnx"], catch_exceptions=False)
    assert not (tmp_path / "new").exists()
