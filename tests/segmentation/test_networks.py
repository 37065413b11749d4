"""Networks learn, and encoders take the weights of the files they are given, or say what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.nn import functional as F

from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.segmentation.networks import DEVIATION, MEAN, RESNETS, WIDTHS, Architecture, deep_features, load_encoder
from meddiff.segmentation.segmenter import train_segmenter

FLEXIBLE = {"network": "flexible_unet", "steps": 2, "batch_size": 4}


def pretrained(name: str = "resnet18") -> dict[str, torch.Tensor]:
    """As torchvision saves a classifier: the encoder's own weights, and a head."""
    torch.manual_seed(9)
    weights = Architecture("flexible_unet", 4, encoder=name).build().encoder.state_dict()
    return {key: torch.randn_like(value) * 0.05 if value.is_floating_point() else value + 7 for key, value in weights.items()} | {
        "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("network", "side", "steps"), [
    ("attention_unet", 32, 16), ("swin_unetr", 64, 12), ("flexible_unet", 32, 8)])
def test_a_network_learns_dark_ellipses(cases, network, side, steps):
    params = SegmentParams(network=network, steps=steps, batch_size=4)
    segmenter = train_segmenter(cases(8, side), [], params, seed=0)
    assert np.mean(segmenter.losses[-3:]) < 0.9 * np.mean(segmenter.losses[:3])
    unseen = cases(4, side, seed=2)
    probability = segmenter.predict(np.stack([case.image for case in unseen]))
    lesions = np.stack([case.mask for case in unseen]) > 0
    assert probability[lesions].mean() > probability[~lesions].mean() + 0.1


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("network", sorted(WIDTHS))
def test_a_network_has_one_logit_or_one_for_each_class_and_the_background(network, classes):
    architecture = Architecture(network, WIDTHS[network], classes, "resnet18" if network == "flexible_unet" else "")
    built = architecture.build().eval()
    with torch.no_grad():
        assert built(torch.zeros(2, 3, 64, 96)).shape == (2, 1 if classes == 1 else 4, 64, 96)
    assert all(not architecture.unfit(side, 96) for side in (64, 128))
    with pytest.raises(ValueError, match="no network vnet"):
        Architecture("vnet", 8).build()


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.7), ("resnet34", 21.8), ("resnet50", 25.6)])
def test_encoders_are_torchvisions(name, millions):
    """The published sizes, less the head's; layers of the same names."""
    with torch.device("meta"):
        encoder = Architecture("flexible_unet", 4, encoder=name).build().encoder
    features = 2048 if RESNETS[name][0] == "bottleneck" else 512
    assert sum(p.numel() for p in encoder.parameters()) + 1000 * (features + 1) == pytest.approx(millions * 1e6, rel=0.01)
    names = set(encoder.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.conv2.weight"} <= names
    assert "layer2.0.downsample.0.bias" not in names


def test_an_encoder_sees_imagenets_levels():
    encoder = Architecture("flexible_unet", 4, encoder="resnet18").build().encoder.eval()
    image = torch.rand(1, 3, 64, 64)
    levels = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    with torch.no_grad():
        first = encoder(image * 2 - 1)[0]
        expected = torch.relu(encoder.bn1(F.conv2d(levels, encoder.conv1.weight, stride=2, padding=3)))
    assert torch.allclose(first, expected, atol=1e-5)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("counts", [True, False])
def test_training_starts_from_the_weights_of_the_file(cases, tmp_path, monkeypatch, ending, counts):
    weights = {key: value for key, value in pretrained().items() if counts or not key.endswith("num_batches_tracked")}
    file = tmp_path / f"resnet18.{ending}"
    save_file(weights, file) if ending == "safetensors" else torch.save(weights, file)
    seen = []
    monkeypatch.setattr("meddiff.segmentation.segmenter.train", lambda *_: seen.append(1) or [])
    segmenter = train_segmenter(cases(4), [], SegmentParams.model_validate(FLEXIBLE | {"encoder_weights": str(file)}), 0)
    assert seen
    found = segmenter.network.encoder.state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights.items() if not key.startswith("fc."))
    plain = train_segmenter(cases(4), [], SegmentParams.model_validate(FLEXIBLE), 0)
    assert not torch.equal(plain.network.encoder.conv1.weight, found["conv1.weight"])
    ours, theirs = (dict(made.network.decoder.named_parameters()) for made in (segmenter, plain))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())  # the rest is still the seed's


def save_pickle(weights: dict[str, torch.Tensor], file: Path) -> None:
    torch.save(weights | {"conv1.weight": Path("code that a pickle could run")}, file)


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("w.safetensors", lambda w, f: None, "No such file"),
    ("w.safetensors", lambda w, f: f.write_bytes(b"no"), "resnet18 under torchvision's names"),
    ("w.pth", lambda w, f: f.write_text("no"), "resnet18 under torchvision's names"),
    ("w.pth", save_pickle, "[Ww]eights.only"),
    ("w.pth", lambda w, f: torch.save({"state_dict": w}, f), "resnet18 under torchvision's names"),
    ("w.safetensors", lambda w, f: save_file({k: v for k, v in w.items() if k != "bn1.bias"}, f), r"bn1\.bias is missing"),
    ("w.safetensors", lambda w, f: save_file(w | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, f),
     r"conv1\.weight is \(64, 1, 7, 7\) in the file, \(64, 3, 7, 7\) in the network"),
    ("w.safetensors", lambda w, f: save_file(w | {"bn1.bias": torch.full((64,), torch.nan)}, f), "must be finite"),
    ("w.safetensors", lambda w, f: save_file(pretrained("resnet34"), f), r"layer1\.2\.\S+ is .* in the file, unknown"),
])
def test_a_file_of_other_weights_is_named(tmp_path, name, spoil, message):
    file = tmp_path / name
    spoil(pretrained(), file)
    network = Architecture("flexible_unet", 4, encoder="resnet18").build()
    before = network.encoder.conv1.weight.clone()
    with pytest.raises(MeddiffError, match=rf"{name}: the encoder's weights must be.*{message}.*segment\.encoder_weights"):
        load_encoder(network, "resnet18", file)
    assert torch.equal(network.encoder.conv1.weight, before)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValidationError, match="only `network: flexible_unet` takes an encoder's weights"):
        SegmentParams(encoder_weights="w.safetensors")
    with pytest.raises(ValidationError, match="needs at least 2 images"):
        SegmentParams(network="flexible_unet", batch_size=1)


@pytest.mark.parametrize("network", ["unet", "segresnet"])
def test_features_have_an_eighth_of_the_resolution(network):
    with torch.no_grad():
        assert deep_features(Architecture(network, WIDTHS[network]).build(), torch.zeros(2, 3, 64, 32)).shape == (2, 64, 8, 4)
