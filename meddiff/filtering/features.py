"""Feature spaces for lesions and images: the statistics of `lesions`, or the embedding by a network.

Where a network is given, it sees a lesion as the resampled bounding square and its last feature map is averaged inside the mask
(ours), so that the background weighs little; of whole images the map is averaged throughout.
"""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.lesions.appearance import IMAGES_AT_ONCE, Scalars, channels_first, crop, joint_features
from meddiff.segmentation.encoders import DEVIATION, MEAN
from meddiff.segmentation.segmenter import Segmenter
from meddiff.training import finite

_SIDE = 96            # at which convolutional networks see, and those that don't say [pixels]
_INSPECTOR_SIDE = 64  # at which the inspector was trained [pixels]
_PREPROCESSOR = "preprocessor_config.json"
_HEADS = ("fc.", "classifier.", "class_layers.")  # not needed
_NETWORKS = ("mobilenet_v2", "resnet18", "resnet50", "densenet121")


@dataclass(frozen=True, eq=False)
class Embedding:
    """A network as a feature space.

    Attributes:
        encode: `[B, 3, side, side]` float32 to a map of features `[B, D, h, w]`.
        side: see there [pixels].
        mean, deviation: of RGB in [0, 1], taken off and divided by.
    """

    encode: Callable[[Tensor], Tensor]
    side: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    device: str = "cpu"

    def __call__(self, images: Pixels, masks: Pixels | None = None) -> Scalars:
        """`[N, D]` features of images `[N, H, W, 3]` uint8, inside masks `[N, H, W]` where they are given."""
        mean, deviation = (torch.tensor(values)[:, None, None] * 255 for values in (self.mean, self.deviation))
        parts = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            rgb = channels_first(images[start:start + IMAGES_AT_ONCE])
            inside = torch.ones_like(rgb[:, :1]) if masks is None else torch.from_numpy(
                (masks[start:start + IMAGES_AT_ONCE] > 0).astype(np.float32))[:, None]
            square, weight = crop(torch.cat([rgb, inside], 1), inside, self.side).split([3, 1], 1)
            with torch.inference_mode():
                features = self.encode(((square - mean) / deviation).to(self.device)).float().cpu()
            weight = F.adaptive_avg_pool2d(weight, features.shape[2:])
            parts.append((features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6))
        return np.asarray(torch.cat(parts).double().numpy())


@dataclass(frozen=True, eq=False)
class Extractor:
    """A choice of features.

    Attributes:
        name: for records.
        embedding: None for the statistics of `lesions` alone.
    """

    name: str
    embedding: Embedding | None = None

    def features(self, images: Pixels, masks: Pixels | None = None) -> Scalars:
        """Features in which sets of lesions or images are compared.

        Args:
            images: `[N, H, W, 3]` uint8 RGB; sides are multiples of 16.
            masks: `[N, H, W]` uint8, non-zero is lesion: features of the lesions. None: of the whole images.

        Returns:
            `[N, D]` float64: `lesions.statistics`, or the embedding.
        """
        return joint_features(images, masks) if self.embedding is None else self.embedding(images, masks)


def load_extractor(source: str = "lesion", revision: str | None = None, device: str = "cpu",
                   inspector: Segmenter | None = None) -> Extractor:
    """Load what `filter.extractor` names; weights are safetensors.

    Args:
        source: `lesion`: the statistics alone, nothing is loaded. `inspector`: the encoder of the segmenter that was trained here
            on the training images. A hub id or a local folder of a vision model of transformers, such as
            `facebook/dinov2-small` or `openai/clip-vit-base-patch32`. `NAME:FILE`: one of `_NETWORKS` with weights under
            torchvision's names, which timm's and MONAI's ResNets share (the networks are MONAI's; MobileNetV2 is transformers').
            Pixels are scaled by the mean and deviation in the `preprocessor_config.json` beside the weights, else by ImageNet's.
        revision: full commit of the hub id, so that the features can't change under a result.
        inspector: needed for `inspector`.

    Raises:
        MeddiffError: it isn't there, or is none of these.
    """
    if source == "lesion":
        return Extractor("lesion statistics")
    if source == "inspector" and inspector is None:
        raise MeddiffError(source, "this extractor needs the trained segmenter", "Give it, or set filter.extractor to `lesion`")
    name, _, file = source.partition(":")
    try:
        if source == "inspector" and inspector:
            return Extractor(source, Embedding(partial(_inspect, inspector), _INSPECTOR_SIDE, (0.5,) * 3, (0.5,) * 3, device))
        if file and name in _NETWORKS:
            return Extractor(f"{name}:{Path(file).name}", _from_file(name, Path(file).expanduser(), device))
        embedding = _from_transformers(source, revision, device)
        return Extractor(Path(source).name if Path(source).expanduser().is_dir() else f"{source}@{revision}", embedding)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as e:
        raise MeddiffError(source, f"a feature extractor must load ({' '.join(str(e).split())[:300]})",
                           "Set filter.extractor to `lesion`, `inspector`, a hub id with filter.extractor_revision, a folder of "
                           f"transformers, or NAME:FILE with a safetensors file for {', '.join(_NETWORKS)}") from e


def _inspect(inspector: Segmenter, batch: Tensor) -> Tensor:
    return inspector.features(((batch.cpu() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())


def _from_transformers(source: str, revision: str | None, device: str) -> Embedding:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from transformers import AutoModel

    folder, prepared = Path(source).expanduser(), None
    if folder.is_dir():
        revision, prepared = None, folder / _PREPROCESSOR
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise OSError("there is no such folder, and it isn't a hub id")
    elif not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ValueError(f"a hub model needs filter.extractor_revision, a commit of 40 hexadecimal digits, not {revision!r}")
    model = AutoModel.from_pretrained(folder if prepared else source, revision=revision, use_safetensors=True,
                                      trust_remote_code=False)  # else it asks on a terminal
    _check_finite(model)
    if prepared is None:
        with suppress(EntryNotFoundError):
            prepared = Path(hf_hub_download(source, _PREPROCESSOR, revision=revision))
    model = getattr(model, "vision_model", model).float().to(device).eval()  # CLIP's two halves come as one model
    return _embedding(lambda batch: model(pixel_values=batch).last_hidden_state, prepared, model.config, device)


def _from_file(name: str, file: Path, device: str) -> Embedding:
    weights = {key: value for key, value in load_file(file).items() if not key.startswith(_HEADS)}
    network = _mobilenet(weights) if name == "mobilenet_v2" else (
        _densenet(weights) if name == "densenet121" else _resnet(name, weights))
    network.to(device).eval()
    return _embedding(lambda batch: getattr(out := network(batch), "last_hidden_state", out), file.with_name(_PREPROCESSOR), None,
                      device)


def _mobilenet(weights: dict[str, Tensor]) -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    network = MobileNetV2Model(MobileNetV2Config(layer_norm_eps=1e-5, tf_padding=False), add_pooling_layer=False)
    ours = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    theirs = sorted({key.rpartition(".")[0] for key in weights}, key=lambda key: [int(n) for n in re.findall(r"\d+", key)])
    names = dict(zip(theirs, ours, strict=True))  # both count from the image on
    _fill(network, {f"{names[part]}.{leaf}": value for key, value in weights.items() for part, _, leaf in [key.rpartition(".")]})
    return network


def _resnet(name: str, weights: dict[str, Tensor]) -> nn.Module:
    from monai.networks import nets

    network = getattr(nets, name)(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False,
                                  bias_downsample="layer2.0.downsample.0.bias" in weights)  # as in MONAI's own
    _fill(network, weights)
    return nn.Sequential(network.conv1, network.bn1, network.act, network.maxpool, network.layer1, network.layer2, network.layer3,
                         network.layer4)


def _densenet(weights: dict[str, Tensor]) -> nn.Module:
    from monai.networks.nets import densenet121

    network = densenet121(spatial_dims=2, in_channels=3, out_channels=1).features
    _fill(network, {re.sub(r"(denselayer\d+)\.(norm|conv)", r"\1.layers.\2", key.removeprefix("features.")): value
                    for key, value in weights.items()})
    return network


def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every weight must be there; batch norm's count of batches, which nothing here uses, may be missing."""
    found = network.load_state_dict(weights, strict=False)
    missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
        raise ValueError(f"weights are missing or too many, such as {(missing + found.unexpected_keys)[0]}")
    _check_finite(network)


def _check_finite(network: nn.Module) -> None:
    if not finite(network.parameters()):
        raise ValueError("weights must be finite numbers, some aren't")


def _embedding(network: Callable[[Tensor], Tensor], prepared: Path | None, config: object, device: str) -> Embedding:
    """With the side, mean and deviation that the model's files state."""
    stated = json.loads(prepared.read_text()) if prepared and prepared.is_file() else {}
    size = stated.get("crop_size") or stated.get("size") or getattr(config, "image_size", _SIDE)
    side = min(size.values()) if isinstance(size, dict) else int(size or _SIDE)
    return Embedding(lambda batch: _as_map(network(batch)), side, tuple(stated.get("image_mean", MEAN)),
                     tuple(stated.get("image_std", DEVIATION)), device)


def _as_map(features: Tensor) -> Tensor:
    """`[B, D, h, w]` as it is; of a transformer's tokens `[B, T, D]` those of the patches, which come last."""
    if features.ndim == 4:
        return features
    side = math.isqrt(features.shape[1])
    return features[:, -side * side:].transpose(1, 2).unflatten(2, (side, side))
