"""Extractors load from where the settings say, see the lesion, and name what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import densenet121, resnet18
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MobileNetV2Config,
    MobileNetV2Model,
)

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.filtering.features import Embedding, load_extractor
from meddiff.lesions.appearance import joint_features
from meddiff.segmentation.segmenter import Architecture, Segmenter
from tests.conftest import SHARED_DATA
from tests.pasting import blob_cases, pasted, stack

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SHARED_WEIGHTS = SHARED_DATA.parent / "weights/mobilenet_v2_imagenet/mobilenet_v2_imagenet.safetensors"


@pytest.fixture(scope="module")
def pairs() -> tuple[Pixels, Pixels]:
    """The same lesion on three backgrounds, then two others."""
    cases = blob_cases(3, seed=2)
    return stack([*(pasted(cases[0], background=i) for i in range(3)), pasted(cases[1]), pasted(cases[2])])


def test_the_default_loads_nothing_and_is_the_statistics(pairs: tuple[Pixels, Pixels]) -> None:
    extractor = load_extractor()
    assert extractor.embedding is None
    assert (extractor.features(*pairs) == joint_features(*pairs)).all()
    assert (extractor.features(pairs[0]) == joint_features(pairs[0], None)).all()


def save_transformer(kind: str, folder: Path) -> int:
    """A tiny model with random weights; its width."""
    torch.manual_seed(0)
    if kind == "clip":
        tower = SMALL | {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
        text = SMALL | {"intermediate_size": 32, "vocab_size": 50}
        CLIPModel(CLIPConfig(vision_config=tower, text_config=text)).save_pretrained(folder)
    elif kind == "dinov2":
        Dinov2Model(Dinov2Config(**SMALL, image_size=56)).save_pretrained(folder)
    elif kind == "registers":
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, image_size=56)).save_pretrained(folder)
    else:
        MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)).save_pretrained(folder)
        return 1280
    return 32


@pytest.mark.parametrize("kind", ["dinov2", "registers", "clip", "mobilenet"])
def test_a_folder_of_transformers(kind: str, tmp_path: Path, pairs: tuple[Pixels, Pixels]) -> None:
    width = save_transformer(kind, tmp_path)
    features = load_extractor(str(tmp_path)).features(*pairs)
    assert features.shape == (5, width)
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert (features == load_extractor(str(tmp_path)).features(*pairs)).all()
    assert np.abs(features[3] - features[4]).max() > 1e-3 * np.abs(features).max()


def test_the_preprocessing_is_what_the_folder_states(tmp_path: Path, pairs: tuple[Pixels, Pixels]) -> None:
    save_transformer("dinov2", tmp_path)
    own = load_extractor(str(tmp_path))
    assert own.embedding is not None
    assert (own.embedding.side, own.embedding.mean) == (56, (0.485, 0.456, 0.406))
    stated = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "crop_size": {"height": 28, "width": 28}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    found = load_extractor(str(tmp_path)).embedding
    assert found is not None
    assert (found.side, found.mean, found.deviation) == (28, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_a_network_sees_scaled_crops_and_is_averaged_inside_the_mask() -> None:
    seen: list[Tensor] = []

    def encode(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch

    image = np.full((1, 32, 32, 3), 255, np.uint8)
    image[0, 8:24, 8:24] = (0, 51, 102)
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[0, 8:24, 8:16] = mask[0, 8:16, 8:24] = 3  # an L, whose bounding square is the dark one
    image[0, 16:24, 16:24] = 255
    extract = Embedding(encode, 16, (0.0, 0.2, 0.0), (0.5, 0.2, 0.4))
    np.testing.assert_allclose(extract(image, mask), [[0, 0, 1]], atol=1e-5)
    assert seen[0].shape == (1, 3, 16, 16)
    np.testing.assert_allclose(seen[0][0, :, -1, -1], [2, 4, 2.5], atol=1e-5)
    assert extract(image)[0, 0] > 1.5


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121"])
def test_weights_by_file(name: str, tmp_path: Path, pairs: tuple[Pixels, Pixels]) -> None:
    torch.manual_seed(0)
    x, file = torch.randn(2, 3, 64, 64), tmp_path / "weights.safetensors"
    if name == "mobilenet_v2":
        network = MobileNetV2Model(MobileNetV2Config(layer_norm_eps=1e-5, tf_padding=False)).eval()
        weights, wanted = torchvision_names(network.state_dict()), network(x).last_hidden_state
    elif name == "resnet18":
        network = resnet18(spatial_dims=2, n_input_channels=3, num_classes=7, conv1_t_stride=2).eval()
        inner = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
        weights, wanted = network.state_dict(), torch.nn.Sequential(*(getattr(network, part) for part in inner))(x)
    else:
        network = densenet121(spatial_dims=2, in_channels=3, out_channels=7).eval()
        weights = {key.replace(".layers.", "."): value for key, value in network.state_dict().items()}
        wanted = network.features(x)
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    extractor = load_extractor(f"{name}:{file}")
    assert extractor.embedding is not None
    with torch.inference_mode():
        np.testing.assert_allclose(extractor.embedding.encode(x), wanted.detach(), atol=1e-5)
    assert extractor.features(*pairs).shape == (5, wanted.shape[1])
    assert (extractor.embedding.side, extractor.embedding.mean) == (96, (0.485, 0.456, 0.406))


def torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in weights.items():
        layer = int(key.split(".")[1]) + 2 if key.startswith("layer.") else 0
        steps = {"conv_stem.first_conv": "features.0", "conv_stem.conv_3x3": "features.1.conv.0", "conv_1x1": "features.18"}
        places = {"expand_1x1": f"features.{layer}.conv.0", "conv_3x3": f"features.{layer}.conv.1"}
        part, kind, leaf = key.rsplit(".", 2)
        number = {"convolution": 0, "normalization": 1}[kind]
        if part.endswith("reduce_1x1"):
            new = f"features.1.conv.{number + 1}" if "stem" in part else f"features.{layer}.conv.{number + 2}"
        else:
            new = f"{steps.get(part) or places[part.split('.')[-1]]}.{number}"
        renamed[f"{new}.{leaf}"] = value
    return renamed


def test_the_inspector_is_an_extractor(pairs: tuple[Pixels, Pixels]) -> None:
    torch.manual_seed(0)
    inspector = Segmenter(Architecture("unet", 8).build().eval(), Architecture("unet", 8))
    features = load_extractor("inspector", inspector=inspector).features(*pairs)
    assert features.shape == (5, 32)
    assert np.ptp(features, axis=0).max() > 0


@pytest.mark.parametrize(("source", "message"), [
    ("inspector", "needs the trained segmenter"),
    ("./nowhere", "there is no such folder"),
    ("dinov2", "there is no such folder"),
    ("facebook/dinov2-small", r"extractor_revision, a commit of 40 hexadecimal digits, not None"),
    ("resnet18:nowhere.safetensors", "nowhere"),
    ("vgg16:nowhere.safetensors", "no such folder"),
])
def test_what_is_wrong_is_named(source: str, message: str) -> None:
    with pytest.raises(MeddiffError, match=message):
        load_extractor(source)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, file)
    for name in ("mobilenet_v2", "resnet18", "densenet121"):
        with pytest.raises(MeddiffError, match=rf"^{name}:.*must load"):
            load_extractor(f"{name}:{file}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MeddiffError, match="must load"):
        load_extractor(str(tmp_path))


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED_WEIGHTS.is_file(), reason="the weights are not here")
def test_mobilenet_of_imagenet_knows_a_lesion_on_another_background(pairs: tuple[Pixels, Pixels]) -> None:
    extractor = load_extractor(f"mobilenet_v2:{SHARED_WEIGHTS}")
    assert extractor.embedding is not None
    total = sum(value.numel() for key, value in load_file(SHARED_WEIGHTS).items() if "running" not in key and key[:2] != "cl")
    assert total == 2_223_872
    features = extractor.features(*pairs)
    assert features.shape == (5, 1280)
    far = np.linalg.norm(features[:, None] - features[None], axis=2)
    assert far[0, 1:3].max() < far[0, 3:].min()
