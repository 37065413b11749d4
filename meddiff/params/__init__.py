"""Every setting, read into frozen sections. A function gets its section, never the whole."""

from pydantic import model_validator

from meddiff.params.actions import (
    AblateParams,
    BenchmarkDataset,
    BenchmarkParams,
    CatalogParams,
    ComputeParams,
    PlatformParams,
    PromoteParams,
    SearchRange,
    TrackingParams,
    TuneParams,
)
from meddiff.params.arms import arm_of
from meddiff.params.comparison import EvaluateParams, SegmentParams
from meddiff.params.section import ArmName, Section, Seed
from meddiff.params.stages import (
    MASK_RANDOMNESS,
    BackgroundsParams,
    FilterParams,
    FinetuneParams,
    FoundationParams,
    GenerateParams,
    MaskModelParams,
    MaskRandomness,
    PrepareParams,
)

__all__ = [
    "MAIN",
    "MASK_RANDOMNESS",
    "AblateParams",
    "ArmName",
    "BackgroundsParams",
    "BenchmarkDataset",
    "BenchmarkParams",
    "CatalogParams",
    "ComputeParams",
    "EvaluateParams",
    "FilterParams",
    "FinetuneParams",
    "FoundationParams",
    "GenerateParams",
    "MaskModelParams",
    "MaskRandomness",
    "Params",
    "PlatformParams",
    "PrepareParams",
    "PromoteParams",
    "SearchRange",
    "Section",
    "Seed",
    "SegmentParams",
    "TrackingParams",
    "TuneParams",
]


# The settings that people set, in the order of `params.yaml`; any other may be written there under its section, too.
MAIN = {
    "prepare": ("dataset", "path", "size", "n_labelled", "classes", "seed"),
    "foundation": ("source", "revision", "steps"),
    "backgrounds": ("finder_steps", "finder_rounds"),
    "mask_model": ("steps",),
    "finetune": ("mode", "steps", "learning_rate", "batch_size"),
    "generate": ("n", "steps", "guidance_scale"),
    "filter": ("agreement", "similarity_high", "corrosion_radius"),
    "segment": ("network", "arms", "seeds", "steps"),
    "evaluate": ("tolerance",),
    "compute": ("threads", "device", "precision"),
}


class Params(Section):
    """All sections of settings."""

    prepare: PrepareParams = PrepareParams()
    foundation: FoundationParams = FoundationParams()
    backgrounds: BackgroundsParams = BackgroundsParams()
    mask_model: MaskModelParams = MaskModelParams()
    finetune: FinetuneParams = FinetuneParams()
    generate: GenerateParams = GenerateParams()
    filter: FilterParams = FilterParams()
    segment: SegmentParams = SegmentParams()
    evaluate: EvaluateParams = EvaluateParams()
    tracking: TrackingParams = TrackingParams()
    promote: PromoteParams = PromoteParams()
    tune: TuneParams = TuneParams()
    ablate: AblateParams = AblateParams()
    benchmark: BenchmarkParams = BenchmarkParams()
    catalog: CatalogParams = CatalogParams()
    platform: PlatformParams = PlatformParams()
    compute: ComputeParams = ComputeParams()

    @model_validator(mode="after")
    def _shared_settings_reach_their_sections(self) -> "Params":
        precision = self.compute.precision  # `auto` until a stage asks the machine
        shared = {"seed": self.prepare.seed, "precision": "float32" if precision == "auto" else precision}
        for name in type(self).model_fields:
            section: Section = getattr(self, name)
            if own := {field: shared[field] for field in section.shared()}:
                object.__setattr__(self, name, section.model_copy(update=own))  # of a frozen model, before anyone has it
        return self

    @model_validator(mode="after")
    def _found_images_need_a_finder(self) -> "Params":
        if not self.backgrounds.finder_steps and (arms := [arm for arm in self.segment.arms if arm_of(arm).finds]):
            raise ValueError(f"the arm {arms[0]} of segment.arms needs backgrounds.finder_steps above 0")
        return self
