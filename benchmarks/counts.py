"""Operations, bytes and memory of fine-tuning and painting by count: networks that have shapes but no values, on no device.

Counts take no time on the device that is measured, and don't fail where the work itself wouldn't fit.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from floors import Work, count
from published import SIZES, autoencoder, noise_levels, unet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from meddiff.diffusion.finetuning import _prepared, halved
from meddiff.diffusion.inpainting import decode_latents, diffusion_loss, encode_images, model_input, predict
from meddiff.params import FinetuneParams

ADAM = 4 * 7  # bytes of a step for each weight: it, its gradient and both moments are read, all but the gradient written


@dataclass
class Hollow:
    """A pipeline's networks without values, as much of it as losses and predictions need."""

    unet: nn.Module
    vae: nn.Module
    scheduler: Any
    mode: FakeTensorMode
    tokens: int = 77

    @classmethod
    def of(cls, kind: str, params: FinetuneParams | None = None,
           pipeline: StableDiffusionInpaintPipeline | None = None) -> "Hollow":
        """Of one of `SIZES`, or of a pipeline's own configuration; prepared for fine-tuning by `params`."""
        with torch.device("meta"):
            if pipeline is None:
                parts = [unet(SIZES[kind]), autoencoder(SIZES[kind])]
            else:
                parts = [type(part).from_config(part.config).eval() for part in (pipeline.unet, pipeline.vae)]
            if params:
                _prepared(parts[0], params)
        with (mode := FakeTensorMode()):
            for module in (module for part in parts for module in part.modules()):
                for held in (module._parameters, module._buffers):
                    for name, value in held.items():
                        if value is not None:
                            empty = torch.empty(value.shape, dtype=value.dtype)
                            held[name] = nn.Parameter(empty, value.requires_grad) if held is module._parameters else empty
        if pipeline is None:
            return cls(*parts, noise_levels(), mode)
        return cls(*parts, pipeline.scheduler, mode, pipeline.tokenizer.model_max_length)

    def inputs(self, size: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, masks and text embeddings."""
        width = self.unet.config.cross_attention_dim
        return torch.zeros(batch, 3, size, size), torch.ones(batch, 1, size, size), torch.zeros(batch, self.tokens, width)


def learning(hollow: Hollow, size: int, batch: int, encoded: bool, passes: int = 1) -> Work:
    """One optimizer step, its images encoded in each pass or not; texts aren't counted."""
    with hollow.mode:
        images, masks, texts = hollow.inputs(size, batch)
        once = count(lambda: (encode_images(hollow.vae, images), model_input(hollow, images, masks))) if encoded else Work()
        latents, condition = encode_images(hollow.vae, images), model_input(hollow, images, masks)
        work = once + count(lambda: _loss(hollow, latents, condition, texts, masks).backward())
    return work * passes + Work(bytes=ADAM * sum(p.numel() for p in hollow.unet.parameters() if p.requires_grad))


def painting(hollow: Hollow, size: int, batch: int, steps: int, guided: bool) -> Work:
    """A batch of images: one step, taken so many times, between encoding and decoding."""
    with hollow.mode, torch.no_grad():
        images, masks, texts = hollow.inputs(size, batch * (1 + guided))
        latents = encode_images(hollow.vae, images)
        inputs, time = torch.cat([latents, model_input(hollow, images, masks)], dim=1), torch.tensor(0)
        around = count(lambda: (encode_images(hollow.vae, images[:batch]), model_input(hollow, images[:batch], masks[:batch]),
                                decode_latents(hollow.vae, latents[:batch])))
        return count(lambda: predict(hollow, inputs, time, texts)) * steps + around


@dataclass(frozen=True)
class Need:
    """Bytes of the GPU's memory in a training step.

    Attributes:
        frozen, trained: weights.
        moments: Adam's two of each trained weight, and the moving average where there is one.
        passing: the most that lives at once of gradients, activations and copies for autocast, in a forward and a backward pass.
    """

    frozen: int
    trained: int
    moments: int
    passing: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.moments + self.passing


class Living(TorchDispatchMode):
    """The most bytes at once of what operations have made and somebody still holds; freed when nobody does, no blocks rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for part in tree_leaves((args, kwargs)):
            if isinstance(part, Tensor):
                self.known.setdefault(part.untyped_storage(), True)  # was there before: a weight, or an input
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, Tensor) and (storage := part.untyped_storage()) not in self.known:
                self.known[storage] = True
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _free(self, size: int) -> None:
        self.now -= size


def memory(kind: str, size: int, params: FinetuneParams, published: bool = False) -> Need:
    """What a step of these settings needs; or of the published training, whose encoders stay on the GPU.

    Under autocast norms give float32, as on a GPU. Of meddiff the text encoder has left the GPU, the autoencoder encodes one
    image (of the empty prompt) and the optimizer's own temporary values are left out: they're made when activations are gone.
    """
    hollow, half = Hollow.of(kind, params), params.precision == "bfloat16"
    text = 123_060_480 if published and kind == "sd15" else 0
    with hollow.mode:
        network = hollow.unet
        hollow.vae.requires_grad_(False)
        for part in network.modules():
            if half and isinstance(part, nn.GroupNorm | nn.LayerNorm):
                part.register_forward_pre_hook(lambda part, given: (given[0].float(), *given[1:]))
        images, masks, texts = hollow.inputs(size, params.batch_size)
        latents, condition = encode_images(hollow.vae, images), model_input(hollow, images, masks)
        with halved(network if half else None):
            held = [(p.requires_grad, p.numel(), p.element_size()) for p in network.parameters()]
            with Living() as living:
                encode_images(hollow.vae, images if published else images[:1])
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = _loss(hollow, latents, condition, texts, masks)
                loss.backward()
    trained = sum(n for grown, n, _ in held if grown)
    frozen = sum(n * each for grown, n, each in held if not grown) + 4 * (text + sum(p.numel() for p in hollow.vae.parameters()))
    return Need(frozen, 4 * trained, 4 * trained * (3 if params.ema_decay else 2), living.most)


def _loss(hollow: Hollow, latents: Tensor, condition: Tensor, texts: Tensor, masks: Tensor) -> Tensor:
    return diffusion_loss(hollow, latents, condition, texts, masks, 1.0, 1.0, torch.Generator())
