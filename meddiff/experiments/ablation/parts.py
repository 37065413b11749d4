"""The parts of the method that an ablation switches: the name of each, what it shows, and the settings that are changed.

Most are switched off; what is off by default, guidance, or has other ways to be done, is switched to these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meddiff.errors import MeddiffError
from meddiff.experiments.recipes import NO_FILTER
from meddiff.params import MASK_RANDOMNESS, MaskRandomness, Params
from meddiff.params.overrides import Overrides, nested, setting


@dataclass(frozen=True)
class Part:
    """One variant of the method.

    Attributes:
        name: of the variant; `full` changes nothing.
        shows: what the difference from `full` tells.
        off: `section.name` -> value that makes the variant of the method.
        needs: `section.name` -> value without which there is nothing to switch.
        beside: a part that is switched too, since this one does nothing without; then the difference is from that variant.
    """

    name: str
    shows: str
    off: dict[str, Any]
    needs: dict[str, Any] | None = None
    beside: "Part | None" = None

    @property
    def overrides(self) -> Overrides:
        """Section -> name -> value, those of `beside` included."""
        return nested((self.beside.off if self.beside else {}) | self.off)

    @property
    def reference(self) -> str:
        """Name of the variant that this one is compared with; `full` where that one is idle."""
        return self.beside.name if self.beside else "full"

    def idle(self, params: Params) -> bool:
        """Whether the part is off already, or doesn't exist, under these settings."""
        changes = any(setting(params, key) != value for key, value in self.off.items())
        return not changes or any(setting(params, key) != value for key, value in (self.needs or {}).items())


def _without(level: MaskRandomness, shows: str, beside: Part | None = None) -> Part:
    key, rest = "generate.mask_randomness", tuple(other for other in MASK_RANDOMNESS if other != level)
    return Part(f"no-mask-{level}", shows, {key: rest}, {key: MASK_RANDOMNESS}, beside)


FULL = Part("full", "the method with the settings of params.yaml", {})
_NO_SITES = Part("no-sites", "lesions are painted into lesion-free images alone, none at the place of one without annotation",
                {"generate.site_share": 0.0})
PARTS = (
    Part("no-pretraining", "starting from the same network untrained", {"foundation.source": "scratch"},
         {"foundation.source": "embedded"}),
    _NO_SITES,
    Part("one-finder-round", "the finders of sites are trained once, on annotated images alone",
         {"backgrounds.finder_rounds": 1}),
    Part("no-site-agreement", "sites in which the two finders see different lesions are used, too",
         {"backgrounds.site_agreement": 0.0}),
    Part("removed-backgrounds", "lesions are painted into training images whose lesion was removed",
         {"backgrounds.sources": "removed"}, beside=_NO_SITES),
    Part("normal-backgrounds", "lesions are painted into the dataset's lesion-free images alone",
         {"backgrounds.sources": "normal"}, beside=_NO_SITES),
    Part("texture-fill", "lesions are removed by texture of the same image alone", {"backgrounds.fill": ("texture",)},
         beside=_NO_SITES),
    Part("foundation-fill", "lesions are removed by the foundation alone", {"backgrounds.fill": ("foundation",)},
         beside=_NO_SITES),
    Part("no-fill-check", "fills are kept though the inspector still finds a lesion", {"backgrounds.residue": 1.0},
         beside=_NO_SITES),
    Part("lora", "low-rank updates in place of full fine-tuning", {"finetune.mode": "lora"}),
    Part("token", "only the embedding of a new word learns", {"finetune.mode": "token"}),
    Part("no-lesion-weight", "the loss weighs the frame outside the lesion as much as inside", {"finetune.outside_weight": 1.0}),
    Part("no-prompt-dropout", "the empty prompt of guidance isn't trained", {"finetune.prompt_dropout": 0.0}),
    Part("no-min-snr", "the loss weighs all noise levels alike", {"finetune.min_snr": 0.0}),
    Part("no-averaging", "the last weights in place of their moving average", {"finetune.ema_decay": 0.0}),
    _without("noise", "masks without randomness level 1: the sampler's noise"),
    _without("condition", "masks without randomness level 2: a median mask's lesions", beside=_NO_SITES),
    _without("shape", "masks without randomness level 3: elastic change and roughness"),
    _without("pose", "masks without randomness level 4: sizes and angles as trained"),
    _without("placement", "masks without randomness level 5: centres as trained"),
    Part("guidance", "classifier-free guidance leads away from what the empty prompt paints", {"generate.guidance_scale": 1.5},
         {"generate.guidance_scale": 1.0}),
    Part("no-guidance", "without classifier-free guidance", {"generate.guidance_scale": 1.0}),
    Part("static-mask", "the exact mask guides every step", {"generate.mask_widening": 0.0}),
    Part("not-adaptive", "the guiding mask widens whatever the predicted image shows", {"generate.adaptive": False}),
    Part("no-feather", "a painted border may be sharper than a real lesion's", {"generate.feather": False}),
    Part("no-texture", "the painted lesion keeps the texture that the network gave it", {"generate.texture": 0.0}),
    Part("no-rim", "a hard border between painted and original pixels", {"generate.rim": 0}),
    Part("no-similarity-low", "samples unlike any real lesion are kept", {"filter.similarity_low": 0.0}),
    Part("no-similarity-high", "near-copies of real lesions are kept", {"filter.keep_copies": True}),
    Part("no-agreement", "samples whose lesion an independent segmenter doesn't find are kept", {"filter.agreement": 0.0}),
    Part("no-contrast", "samples without contrast at the border are kept", {"filter.min_contrast": 0.0}),
    Part("no-filter", "all samples are kept, whatever their scores", NO_FILTER),
    Part("fixed-corrosion", "masks are eroded by one pixel at 128 px, not by what border profiles say",
         {"filter.corrosion_radius": 1.0}),
    Part("no-corrosion", "masks are used as they guided the painting", {"filter.corrosion_radius": 0.0}),
)


def choose_parts(names: Sequence[str]) -> tuple[Part, ...]:
    """The parts of these names, with those that they stand beside, in the order of `PARTS`; all of them if no name is given.

    Raises:
        MeddiffError: a name that isn't known.
    """
    known = [part.name for part in PARTS]
    if unknown := [name for name in names if name not in known]:
        raise MeddiffError("ablate.parts", f"there is no part `{unknown[0]}`", f"Choose from {', '.join(known)}")
    beside = {part.reference for part in PARTS if part.name in names}
    return tuple(part for part in PARTS if not names or part.name in names or part.name in beside)
