"""The segmenters' networks: MONAI's, rebuilt from a saved `Architecture`, and encoders that start from weights of others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AttentionUnet, BasicUNet, FlexibleUNet, SegResNet, SwinUNETR
from monai.networks.nets.resnet import ResNet, ResNetFeatures, get_inplanes
from safetensors.torch import load_file
from torch import Tensor, nn

from meddiff.errors import MeddiffError
from meddiff.training import finite

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
WIDTHS = {"unet": 16, "segresnet": 8, "attention_unet": 16, "swin_unetr": 12, "flexible_unet": 16}
RESNETS = {"resnet18": ("basic", [2, 2, 2, 2]), "resnet34": ("basic", [3, 4, 6, 3]), "resnet50": ("bottleneck", [3, 4, 6, 3])}


@dataclass(frozen=True)
class Architecture:
    """What a saved segmenter is rebuilt from.

    Attributes:
        network: one of `WIDTHS`. `unet`: MONAI BasicUNet, which learned faster from 40 images than MONAI's UNet with residual
            units: after 300 steps 0.82 against 0.74 Dice on ISIC 2017 and 0.55 against 0.46 on BUSI at 64 px. `segresnet`.
            `attention_unet` (Oktay et al., 2018). `swin_unetr` (Hatamizadeh et al., 2022; in 2D). `flexible_unet`: a U-Net's
            decoder on an `encoder` that may come pretrained.
        width: channels of the finest level; see `build` for the deeper ones.
        classes: K. With one the network has one logit (sigmoid), with several one for the background and each class (softmax).
        encoder: one of `RESNETS`, of `flexible_unet` alone.
    """

    network: str
    width: int
    classes: int = 1
    encoder: str = ""

    @property
    def definition(self) -> tuple[type[nn.Module], dict[str, Any]]:
        """MONAI's class and its arguments: all that `build` needs, but for the encoder of `flexible_unet`, which is ours."""
        width, levels = self.width, [self.width * factor for factor in (1, 1, 2, 4, 8)]
        kinds: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
            "unet": (BasicUNet, {"spatial_dims": 2, "features": [*levels, width]}),
            "segresnet": (SegResNet, {"spatial_dims": 2, "init_filters": width}),
            "attention_unet": (AttentionUnet, {"spatial_dims": 2, "channels": levels, "strides": [2, 2, 2, 2]}),
            "swin_unetr": (SwinUNETR, {"spatial_dims": 2, "feature_size": width}),
            "flexible_unet": (FlexibleUNet, {"backbone": self.encoder, "pretrained": False,
                                             "decoder_channels": [16 * width, *levels[:0:-1]]}),
        }
        if self.network not in kinds:
            raise ValueError(f"there is no network {self.network}")
        kind, arguments = kinds[self.network]
        return kind, {"in_channels": 3, "out_channels": 1 if self.classes == 1 else self.classes + 1, **arguments}

    def build(self) -> nn.Module:
        """A network `[B, 3, H, W]` in [-1, 1] -> `[B, C, H, W]` logits, with weights from torch's global generator."""
        kind, arguments = self.definition
        network = kind(**arguments)
        if self.network == "flexible_unet":
            network.encoder = _Encoder(self.encoder)
        if self.network == "unet":
            for level in (network.upcat_1, network.upcat_2, network.upcat_3, network.upcat_4):
                level.is_pad = False  # sides that fit (`unfit`) need none, and padding by nothing still copies
        return network

    @property
    def sides(self) -> tuple[int, int]:
        """Image sides must be multiples of the first number, and at least the second [pixels]."""
        return {"swin_unetr": (32, 64), "flexible_unet": (32, 32)}.get(self.network, (16, 32))

    def unfit(self, height: int, width: int) -> str:
        """The rule that image sides break [pixels], empty where they are fit.

        The networks halve four or five times; SwinUNETR normalises over the positions left, of which one would be too few.
        """
        multiple, least = self.sides
        if height % multiple == width % multiple == 0 and min(height, width) >= least:
            return ""
        return f"image sides must be multiples of {multiple} from {least} on for {self.network}, these are {height} x {width}"


class _Encoder(ResNetFeatures):  # type: ignore[misc]
    """torchvision's ResNet, the layout of most pretrained weights: MONAI's own smaller ones have no weights in their shortcuts.

    It takes RGB in [-1, 1] to ImageNet's mean and deviation.
    """

    def __init__(self, name: str) -> None:
        block, layers = RESNETS[name]
        ResNet.__init__(self, block, layers, get_inplanes(), spatial_dims=2, n_input_channels=3, conv1_t_stride=2,
                        feed_forward=False, bias_downsample=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        features: list[Tensor] = super().forward((inputs / 2 + 0.5 - self.mean) / self.deviation)
        return features


def load_encoder(network: nn.Module, name: str, file: Path) -> None:
    """Give the encoder of a `flexible_unet` the weights of a file; the head of a classifier in it is left out.

    Args:
        network: from `Architecture.build`, changed in place.
        name: of its encoder.
        file: safetensors, or a state dict of torch, under torchvision's names (which timm's ResNets share).

    Raises:
        MeddiffError: the file is missing, no such file, or holds the weights of another network.
    """
    try:
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
        own = network.encoder.state_dict()
        shapes = {key: tuple(value.shape) for key, value in weights.items()}
        counts = {key for key in own if key.endswith("num_batches_tracked")}  # older files have none
        wrong = [key for key in sorted({*own, *shapes} - counts) if key not in own or shapes.get(key) != tuple(own[key].shape)]
        if wrong:
            found, wanted = shapes.get(wrong[0], "missing"), tuple(own[wrong[0]].shape) if wrong[0] in own else "unknown"
            raise ValueError(f"{wrong[0]} is {found} in the file, {wanted} in the network")
        if not finite(weights.values()):
            raise ValueError("its numbers must be finite, some aren't")
        network.encoder.load_state_dict(own | weights)
    except Exception as e:  # torch.load fails in as many ways as there are files
        raise MeddiffError(file, f"the encoder's weights must be those of {name} under torchvision's names "
                           f"({' '.join(str(e).split())[:200]})",
                           "Name another file in segment.encoder_weights, or its network in segment.encoder") from e


def deep_features(network: nn.Module, images: Tensor) -> Tensor:
    """Deep features `[B, 64, H/8, W/8]` of `unet` and `segresnet` (the inspector is a `unet`) for images `[B, 3, H, W]`."""
    if isinstance(network, SegResNet):
        return network.encode(images)[0]
    for level in (network.conv_0, network.down_1, network.down_2, network.down_3):
        images = level(images)
    return images
