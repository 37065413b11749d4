"""Painting lesions: a loaded pipeline, what the sampler gets of images and masks, and what is set right after it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import (
    decode_latents,
    embed_prompts,
    encode_images,
    model_input,
    move_pipeline,
    predict,
    to_tensor,
)
from meddiff.errors import MeddiffError
from meddiff.lesions.seams import join
from meddiff.lesions.texture import keep_texture
from meddiff.painting.sampler import sample
from meddiff.params import GenerateParams
from meddiff.seeds import Stream, hashed, numbers

# A CPU adds up one or two images in another order than more: the few that are left over get some for company, so that the bits of
# a sample don't depend on how many there are. Whoever sets smaller batches gets them, and values that differ by up to 2 of 255.
_LEAST_TOGETHER = 4
_T = TypeVar("_T")


@dataclass(frozen=True)
class Painter:
    """A loaded pipeline, ready to paint lesions.

    Attributes:
        pipeline: on its device, in eval mode.
        prompts: `[1 + K, tokens, width]`: the empty prompt, then that of each class of lesion.
        texture: of `texture_ratios`, for each band; empty where they aren't known, and textures stay as painted.
        seams: of `real_seams`; empty where they aren't known, and borders stay as painted.
    """

    pipeline: StableDiffusionInpaintPipeline
    prompts: Tensor
    texture: tuple[float, ...] = ()
    seams: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        pipeline: StableDiffusionInpaintPipeline,
        prompts: Sequence[str],
        texture: Sequence[float] = (),
        seams: Sequence[float] = (),
    ) -> "Painter":
        """Prepare a pipeline with the prompts of its K classes, as it was fine-tuned with; none for a mere foundation."""
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        return cls(pipeline, embed_prompts(pipeline, ["", *prompts]), tuple(texture), tuple(seams))

    def paint(
        self, backgrounds: Sequence[Pixels], masks: Sequence[Pixels], seeds: Sequence[int], params: GenerateParams
    ) -> list[Pixels]:
        """Paint lesions into each background under its mask, one class after the other, each on the result of the one before.

        Args:
            backgrounds: each `[H,W,3]` uint8, all of one size, its sides multiples of 16.
            masks: each `[H,W]` uint8 of 0 and the class index 1 to K; an empty one leaves its background as it is.
            seeds: one a sample, 0 to 2**31 - 1; a sample's noise depends on its own seed and class alone.

        Returns:
            Images `[H,W,3]` uint8, equal to the background farther than `params.rim` pixels from the mask; gray where
            the background is gray throughout.

        Raises:
            MeddiffError: a mask holds a class that has no prompt, or the model can't start from pure noise.
        """
        return [finish() for finish in self.begin(backgrounds, masks, seeds, params)]

    def begin(
        self, backgrounds: Sequence[Pixels], masks: Sequence[Pixels], seeds: Sequence[int], params: GenerateParams
    ) -> list[Callable[[], Pixels]]:
        """The network's part of `paint`: for each image a function that gives it, for any thread to call.

        It sets texture and border right, which needs no network.
        """
        images: list[Callable[[], Pixels]] = [partial(np.asarray, ground) for ground in backgrounds]
        classes = [np.unique(mask[mask > 0]).tolist() for mask in masks]
        for turn in range(max(map(len, classes), default=0)):
            chosen = [i for i, present in enumerate(classes) if turn < len(present)]
            labels = [classes[i][turn] for i in chosen]
            if max(labels) >= len(self.prompts):
                raise MeddiffError(
                    f"mask with class {max(labels)}",
                    f"this model paints {len(self.prompts) - 1} classes",
                    "Use its own classes, or fine-tune it with more",
                )
            grounds = [images[i]() for i in chosen]
            lesions = [masks[i] == label for i, label in zip(chosen, labels, strict=True)]
            noise = [_class_seed(seeds[i], label) for i, label in zip(chosen, labels, strict=True)]
            for i, image in zip(chosen, self._inpaint(grounds, lesions, noise, labels, params), strict=True):
                images[i] = image
        return images

    def erase(
        self, backgrounds: Sequence[Pixels], masks: Sequence[Pixels], seeds: Sequence[int], params: GenerateParams
    ) -> list[Pixels]:
        """Inpaint with the empty prompt, which means "no lesion", and without guidance; texture and border are as painted.

        Args:
            backgrounds, seeds: as for `paint`.
            masks: each `[H,W]`, above 0 what to fill; an empty one leaves its image as it is.
        """
        images, chosen = list(backgrounds), [i for i, mask in enumerate(masks) if mask.any()]
        if chosen:
            settings = params.model_copy(update={"guidance_scale": 1.0, "texture": 0.0, "feather": False})
            grounds, holes = [images[i] for i in chosen], [masks[i] > 0 for i in chosen]
            filled = self._inpaint(grounds, holes, [seeds[i] for i in chosen], [0] * len(chosen), settings)
            for i, image in zip(chosen, filled, strict=True):
                images[i] = image()
        return images

    def _inpaint(
        self,
        backgrounds: Sequence[Pixels],
        masks: Sequence[NDArray[np.bool_]],
        seeds: Sequence[int],
        labels: Sequence[int],
        params: GenerateParams,
    ) -> list[Callable[[], Pixels]]:
        """What gives images with lesions painted where masks, none of them empty, say."""
        n, least = len(seeds), min(_LEAST_TOGETHER, params.batch_size) if self.pipeline.unet.device.type == "cpu" else 0

        def filled(given: Sequence[_T]) -> list[_T]:
            return [*given, *[given[-1]] * (least - n)]

        with torch.no_grad(), torch.autocast(self.pipeline.unet.device.type, torch.bfloat16, params.precision == "bfloat16"):
            parts = filled(backgrounds), filled(masks), filled(seeds), filled(labels)
            painted = ((self._denoise(*parts, params) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()[:n]
        return [partial(self._finish, *each, params) for each in zip(painted, backgrounds, masks, seeds, strict=True)]

    def _denoise(
        self,
        backgrounds: Sequence[Pixels],
        masks: Sequence[NDArray[np.bool_]],
        seeds: Sequence[int],
        labels: Sequence[int],
        params: GenerateParams,
    ) -> Tensor:
        """Decoded images `[B,3,H,W]` float32 in [-1,1]: what `sampler.sample` needs of images and masks, and its result."""
        pipeline, device = self.pipeline, self.pipeline.unet.device
        images = torch.stack([to_tensor(b) for b in backgrounds]).to(device)
        exact = torch.from_numpy(np.stack(masks)).float()[:, None].to(device)
        clean, condition = encode_images(pipeline.vae, images), model_input(pipeline, images, exact)
        distances = torch.from_numpy(np.stack([lesion_distances(mask) for mask in masks])).float()[:, None]
        near = -F.adaptive_max_pool2d(-distances, clean.shape[-2:]).to(device)
        draws = [torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        prompts = self.prompts[torch.tensor(labels)]

        def network(z: Tensor, t: Tensor) -> Tensor:
            return self._predict(torch.cat([z, condition], dim=1), t, prompts, params.guidance_scale)

        z = sample(network, pipeline.scheduler, clean, torch.stack(draws).to(clean), near, params)
        return decode_latents(pipeline.vae, z)

    def _predict(self, inputs: Tensor, t: Tensor, prompts: Tensor, guidance: float) -> Tensor:
        """The UNet's output, with classifier-free guidance from the empty prompt in the same pass."""
        if guidance == 1:
            return predict(self.pipeline, inputs, t, prompts)
        both = predict(self.pipeline, torch.cat([inputs, inputs]), t, torch.cat([self.prompts[:1].expand_as(prompts), prompts]))
        without, with_lesion = both.chunk(2)
        guided: Tensor = without + guidance * (with_lesion - without)
        return guided

    def _finish(
        self, painted: NDArray[np.float32], background: Pixels, mask: NDArray[np.bool_], seed: int, params: GenerateParams
    ) -> Pixels:
        """A decoded image `[H,W,3]` with colours, texture and border set right. A real lesion drawn by chance limits the seam."""
        if (background == background[:, :, :1]).all():
            painted = np.repeat(painted.mean(axis=2, keepdims=True), 3, axis=2)
        if self.texture and params.texture:
            painted = keep_texture(painted, background, mask, self.texture, params.texture)
        limit = float(numbers(seed, Stream.SEAM).choice(self.seams)) if self.seams and params.feather else None
        return join(painted, background, mask, params.rim, limit)


def _class_seed(seed: int, label: int) -> int:
    """Seed of the noise of one class of lesion: the sample's own for the first."""
    return seed if label == 1 else hashed(seed, Stream.CLASS_NOISE, label)


def lesion_distances(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each pixel to the mask `[H,W]`, as a share of √(area/π) of the part of the mask that it is nearest to."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    radius = np.sqrt(np.bincount(parts.ravel()) / np.pi)
    distance, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    shares: NDArray[np.float64] = distance / radius[parts[tuple(nearest)]]
    return shares


def load_painter(folder: Path, device: str) -> Painter:
    """Load a generator folder as `finetune` writes it, or a foundation, which has no class of lesion and can only erase.

    Raises:
        MeddiffError: the folder is missing or no such pipeline.
    """
    pipeline, settings = load_foundation(str(folder.resolve())), folder / "meddiff.json"
    known = json.loads(settings.read_text()) if settings.is_file() else {"prompts": []}
    move_pipeline(pipeline, device)
    prompts = known["prompts"] if "prompts" in known else [known["prompt"]]
    return Painter.of(pipeline, prompts, known.get("texture", ()), known.get("seams", ()))
