"""The inpainting model that fine-tuning starts from, loaded from a hub or a folder."""

import json
import re
from pathlib import Path

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn

import meddiff.diffusion.codec  # noqa: F401  a saved embedded pipeline names its class
from meddiff.errors import MeddiffError
from meddiff.training import finite

_INDEX = "model_index.json"
_POINTER = b"version https://git-lfs"  # the beginning of what a clone without Git LFS has in the place of a file
# Left out when loading: not needed here, and older folders name classes of them that no longer exist.
_UNUSED = {"feature_extractor": None, "image_encoder": None}
_KINDS = {
    "StableDiffusionInpaintPipeline": (
        StableDiffusionInpaintPipeline,
        {**_UNUSED, "safety_checker": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLInpaintPipeline": (StableDiffusionXLInpaintPipeline, {**_UNUSED, "add_watermarker": False}),
}


def load_foundation(source: str, revision: str | None = None) -> StableDiffusionInpaintPipeline:
    """Load a diffusers inpainting pipeline, safetensors only, as float32.

    Args:
        source: local folder, or a hub id such as `stable-diffusion-v1-5/stable-diffusion-inpainting`.
        revision: full commit of the hub id, so that the weights can't change under a result.

    Returns:
        The pipeline of Stable Diffusion 1 and 2, the embedded one included, or that of Stable Diffusion XL, in eval mode.

    Raises:
        MeddiffError: the folder isn't there, isn't such a pipeline or holds weights that aren't numbers, or the hub can't be
            reached.
    """
    place, revision = _place(source, revision)
    try:
        index = place / _INDEX if isinstance(place, Path) else Path(hf_hub_download(place, _INDEX, revision=revision))
        content = json.loads(index.read_text(encoding="utf-8"))
        name = content.get("_class_name") if isinstance(content, dict) else None
        if not isinstance(name, str) or name not in _KINDS:
            raise MeddiffError(
                source, f"a foundation is a {' or '.join(_KINDS)}, this is a {name}", "Choose an inpainting model of such a kind"
            )
        kind, options = _KINDS[name]
        pipeline: StableDiffusionInpaintPipeline = kind.from_pretrained(
            place, revision=revision, use_safetensors=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as e:
        reason, remedy = _fault(place) or (
            " ".join(str(e).split())[:300],
            "Check the name, the network and the format, or download the folder and set foundation.source to it",
        )
        raise MeddiffError(source, f"an inpainting pipeline in safetensors format must load ({reason})", remedy) from e
    for part, network in pipeline.components.items():
        if isinstance(network, nn.Module) and not finite(network.parameters()):
            raise MeddiffError(source, f"weights must be finite numbers, some of `{part}` aren't", "Take an intact copy")
    unet, channels = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if unet <= 2 * channels:
        raise MeddiffError(
            source,
            f"an inpainting UNet takes latents, mask and masked-image latents; this one takes {unet} channels "
            f"for latents of {channels}",
            "Choose an inpainting model rather than a text-to-image one",
        )
    # Latents have no bounds as pixels have, and schedulers that take over a config without this setting would clip them.
    pipeline.scheduler.register_to_config(clip_sample=False)
    for part in (pipeline, pipeline.unet, pipeline.vae):  # a saved copy would name this folder, and so differ from tree to tree
        part.register_to_config(_name_or_path="")
    return pipeline


def _fault(place: str | Path) -> tuple[str, str] | None:
    """What is seen to be wrong with a folder's weights, and the remedy: the libraries' own words don't say it."""
    files = sorted(place.rglob("*.safetensors")) if isinstance(place, Path) else []
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                return (f"{file.relative_to(place)} is a pointer of Git LFS, not the weights",
                        "Run `git lfs pull` in the folder, or download the files themselves")
    variants = {file.parent: file for file in files if file.name.count(".") > 1}
    for folder, file in variants.items():
        if not any(other.parent == folder and other.name.count(".") == 1 for other in files):
            return (f"{file.relative_to(place)} is of the variant `{file.name.split('.')[1]}`, and the plain file isn't there",
                    "Load it with `variant=` and save it anew without, or take the variant's name out of the files' names")
    return None


def _place(source: str, revision: str | None) -> tuple[str | Path, str | None]:
    """What diffusers loads from: a folder without revision, or a hub id with its commit."""
    local = Path(source).expanduser()
    if local.is_dir():
        if not (local / _INDEX).is_file():
            raise MeddiffError(
                local,
                f"a foundation folder is a saved diffusers pipeline with {_INDEX}",
                "Save it with `pipeline.save_pretrained(folder)`",
            )
        return local, None
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise MeddiffError(source, "the model folder must be there",
                           "Run `dvc repro` for one below models/; else correct foundation.source, or set `embedded`")
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise MeddiffError(
            source,
            f"a hub model needs foundation.revision, a commit of 40 hexadecimal digits, not {revision!r}, so that results can be "
            "repeated",
            "Copy the newest commit from the list of commits on the page of the model into params.yaml",
        )
    return source, revision
