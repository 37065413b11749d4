"""The inpainting model that fine-tuning starts from, loaded from a hub or a folder."""

from pathlib import Path

from diffusers import StableDiffusionInpaintPipeline

import meddiff.codec  # noqa: F401  a saved embedded pipeline names its class, and diffusers looks it up here
from meddiff.errors import MeddiffError


def load_foundation(source: str, revision: str | None = None) -> StableDiffusionInpaintPipeline:
    """Load a diffusers inpainting pipeline, safetensors only.

    Args:
        source: local folder, or a hub id such as `stable-diffusion-v1-5/stable-diffusion-inpainting`.
        revision: commit of the hub id, so that the weights can't change under a result.

    Raises:
        MeddiffError: the folder isn't there, isn't such a pipeline, or the hub can't be reached.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        if not (local / "model_index.json").is_file():
            raise MeddiffError(
                local,
                "a foundation folder is a saved diffusers pipeline with model_index.json",
                "Save it with `pipeline.save_pretrained(folder)`",
            )
        revision = None
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise MeddiffError(source, "the model folder must be there", "Correct foundation.source, or set `embedded`")
    elif not revision:
        raise MeddiffError(
            source,
            "a hub model needs foundation.revision (a commit), so that results can be repeated",
            "Copy the commit from the model's page",
        )
    try:
        pipeline: StableDiffusionInpaintPipeline = StableDiffusionInpaintPipeline.from_pretrained(
            local if local.is_dir() else source,
            revision=revision,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise MeddiffError(
            source,
            f"an inpainting pipeline in safetensors format must load ({' '.join(str(e).split())[:300]})",
            "Check the name, the network and the format, or download the folder and set foundation.source to it",
        ) from e
    unet, channels = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if unet <= 2 * channels:
        raise MeddiffError(
            source,
            f"an inpainting UNet takes latents, mask and masked-image latents; this one takes {unet} channels "
            f"for latents of {channels}",
            "Choose an inpainting model rather than a text-to-image one",
        )
    return pipeline
