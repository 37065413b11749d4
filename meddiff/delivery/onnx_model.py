"""A segmenter as an ONNX model: RGB levels in, probabilities out."""

import json
import logging
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from meddiff.delivery.trained import Trained
from meddiff.environment import require_extra

_FIXED = ("swin_unetr",)  # whose masks of shifted windows are of one size


class _Probabilities(nn.Module):  # type: ignore[misc]
    """Levels `[B, 3, H, W]` uint8 to probabilities `[B, C, H, W]`, as `Segmenter` has them."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image.float() / 127.5 - 1)
        return torch.sigmoid(logits) if self.classes == 1 else logits.softmax(1)


def write_onnx(trained: Trained, folder: Path) -> None:
    """Write `segmenter.onnx`: `image`, `[B, 3, H, W]` uint8 RGB, to `probability`, `[B, C, H, W]` float32.

    B is free; H and W are any multiples that `Architecture.sides` tells, but those of training where the network has fixed sizes.
    All of `Trained.facts` is in the model's metadata under `meddiff`, as JSON.

    Raises:
        MeddiffError: a package of the extra `onnx` is missing.
    """
    require_extra("onnx", "onnx", "onnxscript")
    architecture, dim = trained.segmenter.architecture, torch.export.Dim
    multiple, least = architecture.sides
    free = {} if architecture.network in _FIXED else {
        axis: multiple * dim(name, min=max(2, least // multiple)) for axis, name in ((2, "rows"), (3, "columns"))}
    module = _Probabilities(trained.segmenter.network.cpu(), architecture.classes).eval().requires_grad_(False)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # of torchvision, which isn't used
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(module, (torch.zeros(2, 3, *[trained.recipe.size] * 2, dtype=torch.uint8),), dynamo=True,
                                    dynamic_shapes={"image": {0: dim("batch"), **free}}, input_names=["image"],
                                    output_names=["probability"], verbose=False)
    assert program is not None
    program.model.metadata_props["meddiff"] = json.dumps(trained.facts)
    program.save(folder / "segmenter.onnx", external_data=False)
