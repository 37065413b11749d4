"""Recipes: sets of settings with a name, `section.name` -> value. What the paper did stands here alone."""

from typing import Any

from meddiff.errors import MeddiffError

# A filter without rules: every sample that no batch check holds back is accepted.
NO_FILTER: dict[str, Any] = {"filter.similarity_low": 0.0, "filter.keep_copies": True, "filter.agreement": 0.0,
                             "filter.min_contrast": 0.0, "filter.min_acceptance": 0.0}

# Training and sampling as far as the paper's public code shows them.
RELEASED: dict[str, Any] = {
    "finetune.mode": "full",
    "finetune.steps": 500,
    "finetune.batch_size": 1,
    "finetune.accumulation": 2,
    "finetune.learning_rate": 3e-6,
    "finetune.weight_decay": 1e-2,
    "finetune.gradient_clip": 1.0,
    "finetune.ema_decay": 0.0,          # no moving average
    "finetune.inside_weight": 1.0,      # the code weighs the full frame
    "finetune.outside_weight": 1.0,     # the paper's figure shows the lesion alone: 0
    "finetune.min_snr": 0.0,            # all times alike
    "finetune.prompt_dropout": 0.0,
    "finetune.token": "",
    "generate.batch_size": 1,           # one image at a time
    "generate.steps": 50,
    "generate.scheduler": "ddim",
    "generate.guidance_scale": 7.5,
    "generate.strength": 1.0,
}

# The published recipe as a rival on the same foundation: the released code's exact mask, and nothing of what was never released:
# no filter, no corrosion. Masks and backgrounds are ours, and the precision is that of all cells, so that their segmenters differ
# in the recipe alone.
PAPER: dict[str, Any] = RELEASED | {
    "generate.site_share": 0.0,
    "generate.mask_widening": 0.0,
    "generate.adaptive": False,
    "generate.rim": 0,
    "generate.feather": False,
    "generate.texture": 0.0,
    "filter.corrosion_radius": 0.0,
} | NO_FILTER

# What `meddiff profile` writes into params.yaml.
PROFILES: dict[str, dict[str, Any]] = {
    # For a GPU of 24 GB. One thing is the user's to choose: foundation.revision, the commit of the model on its hub; stage
    # `foundation` asks for it. `foundation.source` may be a folder instead.
    "paper": RELEASED | {
        "prepare.size": 512,
        "foundation.source": "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "finetune.prompt": "a photo of hta",
        "compute.precision": "float32",
    },
}


def profile_settings(name: str) -> dict[str, Any]:
    """The settings of a profile.

    Raises:
        MeddiffError: there is none of this name.
    """
    if name not in PROFILES:
        raise MeddiffError("profile", f"there is no profile `{name}`", f"Choose one of: {', '.join(PROFILES)}")
    return PROFILES[name]
