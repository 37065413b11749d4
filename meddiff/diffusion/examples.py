"""What fine-tuning draws its batches from: lesions to paint, and for the empty prompt shapes without a lesion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from meddiff.cases import Case, Pixels
from meddiff.diffusion.embedded import random_shapes
from meddiff.diffusion.inpainting import encode_images, model_input, to_tensor
from meddiff.errors import MeddiffError

_T = TypeVar("_T")

_TRIES = 4           # shapes drawn before an example keeps its lesion
_SMALLEST = 0.005    # of a shape, as a share of the frame
_MARGIN = 1 / 32     # between a shape and a lesion, as a share of the frame's side


@dataclass(frozen=True)
class Batch:
    """Examples of one optimizer step, on the pipeline's device.

    Attributes:
        latents: `[B,C,h,w]` clean.
        condition: of `inpainting.model_input`.
        masks: `[B,1,H,W]` float32 of 0 and 1.
        labels: `[B]` int64, 0 = the empty prompt, 1 to K = the class that is painted.
    """

    latents: Tensor
    condition: Tensor
    masks: Tensor
    labels: Tensor


class Examples:
    """Annotated cases and their mirror images, their latents and conditions computed once and kept in the CPU's memory.

    An example is a view of a case and one class of lesion in it: the image with the lesions of that class hidden, those of
    other classes in sight. Its size in memory is that of a few latents, not of pixels.

    Args:
        cases: all of one size; those without a lesion are left out.
        classes: K.
        chunk: images encoded together.

    Raises:
        MeddiffError: no case holds a lesion, or one holds a class above K.
    """

    def __init__(self, pipeline: StableDiffusionInpaintPipeline, cases: Sequence[Case], classes: int, chunk: int) -> None:
        self.pipeline = pipeline
        self.views: list[tuple[Pixels, Pixels]] = []
        for case in cases:
            if case.mask is None or not case.mask.any():
                continue
            if case.mask.max() > classes:
                raise MeddiffError(
                    f"case {case.id}", f"a mask holds classes 1 to {classes}, not {case.mask.max()}", "Name it in prepare.classes"
                )
            self.views += [(case.image, case.mask), (case.image[:, ::-1], case.mask[:, ::-1])]
        if not self.views:
            raise MeddiffError("finetune", "one annotated training case at least must hold a lesion", "Raise prepare.n_labelled")
        self.present = [[int(label) for label in np.unique(mask) if label] for _, mask in self.views]
        keys = [(view, label) for view, labels in enumerate(self.present) for label in labels]
        self.latents = _chunked(range(len(self.views)), chunk, lambda part: encode_images(pipeline.vae, self._images(part)))
        found = _chunked(keys, chunk, lambda part: self._condition([(v, self.views[v][1] == label) for v, label in part]))
        self.conditions = dict(zip(keys, found, strict=True))

    def draw(self, n: int, dropout: float, generator: torch.Generator) -> Batch:
        """Draw n examples: a view each, one of its classes, and by the chance `dropout` a shape without lesion instead."""
        picks = [self._pick(dropout, generator) for _ in range(n)]
        bare = [(view, mask) for view, label, mask in picks if label == 0]
        fresh = iter(self._condition(bare) if bare else ())
        conditions = [self.conditions[view, label].to(self._device) if label else next(fresh) for view, label, _ in picks]
        return Batch(
            torch.stack([self.latents[view] for view, *_ in picks]).to(self._device),
            torch.stack(conditions),
            self._masks([mask for *_, mask in picks]),
            torch.tensor([label for _, label, _ in picks], device=self._device),
        )

    def _pick(self, dropout: float, generator: torch.Generator) -> tuple[int, int, NDArray[np.bool_]]:
        """A view, the class to paint or 0, and the mask `[H,W]` to paint in."""
        view = int(torch.randint(len(self.views), (1,), generator=generator))
        labels, mask = self.present[view], self.views[view][1]
        label = labels[int(torch.randint(len(labels), (1,), generator=generator))]
        if float(torch.rand(1, generator=generator)) < dropout:
            shape = _lesion_free_shape(mask, generator)
            if shape is not None:
                return view, 0, shape
        return view, label, mask == label

    def _condition(self, chosen: Sequence[tuple[int, NDArray[np.bool_]]]) -> Tensor:
        return model_input(self.pipeline, self._images([view for view, _ in chosen]), self._masks([mask for _, mask in chosen]))

    def _images(self, views: Sequence[int]) -> Tensor:
        return torch.stack([to_tensor(np.ascontiguousarray(self.views[view][0])) for view in views]).to(self._device)

    def _masks(self, masks: Sequence[NDArray[np.bool_]]) -> Tensor:
        return torch.from_numpy(np.stack(masks)).float()[:, None].to(self._device)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.pipeline.unet.device
        return device


def _lesion_free_shape(mask: Pixels, generator: torch.Generator) -> NDArray[np.bool_] | None:
    """A random shape `[H,W]` with the widened lesions cut off; None where they leave too little room."""
    free = ndimage.distance_transform_edt(mask == 0) > _MARGIN * mask.shape[0]
    for _ in range(_TRIES):
        shape: NDArray[np.bool_] = (random_shapes(1, mask.shape[0], generator)[0, 0].numpy() > 0) & free
        if shape.mean() >= _SMALLEST:
            return shape
    return None


def _chunked(items: Sequence[_T], chunk: int, compute: Callable[[Sequence[_T]], Tensor]) -> list[Tensor]:
    """The rows of what `compute` gives for each few items, on the CPU."""
    return [row for start in range(0, len(items), chunk) for row in compute(items[start : start + chunk]).cpu()]
