"""The segmenters' networks: MONAI's and ours on a pretrained encoder, rebuilt from a saved `Architecture`."""

from dataclasses import dataclass
from typing import Any

from monai.networks.nets import AttentionUnet, BasicUNet, SegResNet, SwinUNETR
from torch import Tensor, nn

from meddiff.segmentation.encoders import EncoderUNet

WIDTHS = {"unet": 16, "segresnet": 8, "attention_unet": 16, "swin_unetr": 12, "encoder_unet": 16}


@dataclass(frozen=True)
class Architecture:
    """What a saved segmenter is rebuilt from.

    Attributes:
        network: one of `WIDTHS`. `unet`: MONAI BasicUNet, which learned faster from 40 images than MONAI's UNet with residual
            units: after 300 steps 0.82 against 0.74 Dice on ISIC 2017 and 0.55 against 0.46 on BUSI at 64 px. `segresnet`.
            `attention_unet` (Oktay et al., 2018). `swin_unetr` (Hatamizadeh et al., 2022; in 2D). `encoder_unet`: a U-Net's
            decoder on an encoder that comes pretrained.
        width: channels of the finest level; see `build` for the deeper ones.
        classes: K. With one the network has one logit (sigmoid), with several one for the background and each class (softmax).
        encoder: of `encoder_unet`, see `build_encoder`.
        finest: of `encoder_unet`, see there.
    """

    network: str
    width: int
    classes: int = 1
    encoder: str = ""
    finest: int = 1

    @property
    def definition(self) -> tuple[type[nn.Module], dict[str, Any]]:
        """The network's class, MONAI's or ours, and its arguments."""
        width, levels = self.width, [self.width * factor for factor in (1, 1, 2, 4, 8)]
        kinds: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
            "unet": (BasicUNet, {"spatial_dims": 2, "features": [*levels, width]}),
            "segresnet": (SegResNet, {"spatial_dims": 2, "init_filters": width}),
            "attention_unet": (AttentionUnet, {"spatial_dims": 2, "channels": levels, "strides": [2, 2, 2, 2]}),
            "swin_unetr": (SwinUNETR, {"spatial_dims": 2, "feature_size": width}),
            "encoder_unet": (EncoderUNet, {"width": width, "encoder": self.encoder, "finest": self.finest}),
        }
        if self.network not in kinds:
            raise ValueError(f"there is no network {self.network}")
        kind, arguments = kinds[self.network]
        channels = {"out_channels": 1 if self.classes == 1 else self.classes + 1}
        return kind, channels | arguments if self.own else {"in_channels": 3} | channels | arguments

    @property
    def own(self) -> bool:
        """Whether the class is meddiff's, not MONAI's."""
        return self.network == "encoder_unet"

    def build(self) -> nn.Module:
        """A network `[B, 3, H, W]` in [-1, 1] -> `[B, C, H, W]` logits, with weights from torch's global generator."""
        kind, arguments = self.definition
        network = kind(**arguments)
        if self.network == "unet":
            for level in (network.upcat_1, network.upcat_2, network.upcat_3, network.upcat_4):
                level.is_pad = False  # sides that fit (`unfit`) need none, and padding by nothing still copies
        return network

    @property
    def sides(self) -> tuple[int, int]:
        """Image sides must be multiples of the first number, and at least the second [pixels]."""
        return {"swin_unetr": (32, 64), "encoder_unet": (32, 64)}.get(self.network, (16, 32))

    def unfit(self, height: int, width: int) -> str:
        """The rule that image sides break [pixels], empty where they are fit.

        The networks halve four or five times; SwinUNETR normalises over the positions left, of which one would be too few.
        """
        multiple, least = self.sides
        if height % multiple == width % multiple == 0 and min(height, width) >= least:
            return ""
        return f"image sides must be multiples of {multiple} from {least} on for {self.network}, these are {height} x {width}"


def deep_features(network: nn.Module, images: Tensor) -> Tensor:
    """Deep features `[B, 64, H/8, W/8]` of `unet` and `segresnet` (the inspector is a `unet`) for images `[B, 3, H, W]`."""
    if isinstance(network, SegResNet):
        return network.encode(images)[0]
    for level in (network.conv_0, network.down_1, network.down_2, network.down_3):
        images = level(images)
    return images
