"""Fine-tuning of an inpainting pipeline on the few annotated cases: all of the UNet, a LoRA, or the embedding of one word."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionInpaintPipeline
from peft import LoraConfig
from torch import Tensor, nn

from meddiff.cases import Case
from meddiff.diffusion.examples import Examples
from meddiff.diffusion.inpainting import diffusion_loss, embed_prompts, move_pipeline, text_embeddings
from meddiff.diffusion.tokens import LearnedToken, own_token
from meddiff.errors import MeddiffError
from meddiff.params import FinetuneParams
from meddiff.progress import Report, silent
from meddiff.training import Schedule, train


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning leaves besides the pipeline itself.

    Attributes:
        losses: of each step.
        prompt: as the pipeline knows it: with a learned word in brackets.
        prompts: that of each class, for `Painter.of`.
    """

    losses: list[float]
    prompt: str
    prompts: list[str]


def finetune(
    pipeline: StableDiffusionInpaintPipeline,
    cases: Sequence[Case],
    params: FinetuneParams,
    device: str,
    checkpoint: Path | None = None,
    report: Report = silent,
    classes: Sequence[str] = ("lesion",),
) -> Finetuned:
    """Teach the pipeline, in place, to paint the lesions of `cases`, and to paint none for the empty prompt.

    A LoRA is merged into the weights at the end, a learned token stands in tokenizer and text encoder.

    Args:
        cases: annotated, all of one size; a case with an empty mask is left out.
        classes: names of the K classes that masks hold as 1 to K.

    Raises:
        MeddiffError: settings that can't work together, no lesion, a class without name, or a loss that isn't finite.
    """
    if params.inside_weight == params.outside_weight == 0:
        raise MeddiffError("finetune", "the loss needs weight inside or outside the mask", "Set inside_weight above 0")
    word = _learned_word(params)
    move_pipeline(pipeline, device)
    encoders = [part for name in ("text_encoder", "text_encoder_2") if (part := getattr(pipeline, name, None)) is not None]
    for part in (pipeline.vae, *encoders):
        part.requires_grad_(False)
    examples = Examples(pipeline, cases, len(classes), params.batch_size)
    token = LearnedToken(pipeline, word, params.token_learning_rate / params.learning_rate) if word else None
    prompt = " ".join(own_token(w) if token and w == word else w for w in params.prompt.split(" "))
    prompts = [prompt] if len(classes) == 1 else [f"{prompt} {name}" for name in classes]
    _check_apart(pipeline, ["", *prompts])
    fixed = embed_prompts(pipeline, ["", *prompts])
    for part in [*([] if token else encoders), *([] if params.prompt_dropout else [pipeline.vae])]:
        part.to("cpu")  # whatever comes of it is computed
    unet = _prepared(pipeline.unet, params)

    def loss(generator: torch.Generator) -> Tensor:
        batch = examples.draw(params.batch_size, params.prompt_dropout, generator)
        texts = text_embeddings(pipeline, ["", *prompts]) if token else fixed
        with torch.autocast(device, torch.bfloat16, enabled=params.precision == "bfloat16"):
            return diffusion_loss(
                pipeline,
                batch.latents,
                batch.condition,
                texts[batch.labels],
                batch.masks,
                params.inside_weight,
                params.outside_weight,
                generator,
                params.min_snr or None,
            )

    schedule = Schedule(
        params.steps,
        params.learning_rate,
        params.seed,
        params.weight_decay,
        params.gradient_clip,
        params.accumulation,
        params.ema_decay,
    )
    with halved(unet if params.precision == "bfloat16" else None):
        losses = train([*unet.parameters(), *([token.offset] if token else [])], loss, schedule, checkpoint, report)
    if not math.isfinite(losses[-1]):
        raise MeddiffError("finetune.learning_rate", "the loss must stay finite, and didn't", "Lower it, or use float32")
    if token:
        token.store()
    if params.mode == "lora":
        unet.fuse_lora()
        unet.unload_lora()
    unet.disable_gradient_checkpointing()
    unet.eval()
    move_pipeline(pipeline, device)
    return Finetuned(losses, prompt, prompts)


def _prepared(unet: nn.Module, params: FinetuneParams) -> nn.Module:
    """The UNet in train mode, with what `params.mode` trains requiring gradients."""
    unet.requires_grad_(params.mode == "full")
    if params.mode == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            unet.add_adapter(
                LoraConfig(r=params.lora_rank, lora_alpha=params.lora_rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
            )
    if params.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet.train()


@contextmanager
def halved(network: nn.Module | None) -> Iterator[None]:
    """Hold a network's frozen matrices and kernels in bfloat16 meanwhile: autocast would round them so in every step.

    A LoRA is merged into what they were before, which waits in the CPU's memory.
    """
    frozen = [] if network is None else [p for p in network.parameters() if not p.requires_grad and p.ndim > 1]
    before = [weight.data.cpu() for weight in frozen]
    for weight in frozen:
        weight.data = weight.data.bfloat16()
    try:
        yield
    finally:
        for weight, values in zip(frozen, before, strict=True):
            weight.data = values.to(weight.device)


def _learned_word(params: FinetuneParams) -> str:
    """The word of the prompt that gets an embedding of its own, or nothing."""
    words = params.prompt.split(" ")
    word = params.token or (words[-1] if params.mode == "token" else "")
    if (word or params.mode == "token") and word not in filter(None, words):
        raise MeddiffError("finetune.token", f"`{word}` must be a word of the prompt `{params.prompt}`", "Use one, such as `hta`")
    return word


def _check_apart(pipeline: StableDiffusionInpaintPipeline, prompts: Sequence[str]) -> None:
    """Refuse prompts that are the same to the text encoder, which sees a limited number of tokens."""
    most = pipeline.tokenizer.model_max_length
    seen = [tuple(pipeline.tokenizer(prompt, truncation=True, max_length=most).input_ids) for prompt in prompts]
    for i, prompt in enumerate(prompts):
        if seen[i] in seen[:i]:
            raise MeddiffError(
                "finetune.prompt",
                f"prompts must differ from each other and the empty one within {most} tokens, and `{prompt}` doesn't",
                "Set finetune.prompt, or shorten it or the names in prepare.classes",
            )
