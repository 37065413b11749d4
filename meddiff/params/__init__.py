"""Every setting of `params.yaml`, read into frozen sections. A function gets its section, never the whole."""

from pydantic import model_validator

from meddiff.params.actions import (
    AblateParams,
    BenchmarkDataset,
    BenchmarkParams,
    CatalogParams,
    ComputeParams,
    PromoteParams,
    TrackingParams,
    TuneParams,
)
from meddiff.params.arms import arm_of
from meddiff.params.section import ArmName, Section, Seed
from meddiff.params.stages import (
    BackgroundsParams,
    EvaluateParams,
    FilterParams,
    FinetuneParams,
    FoundationParams,
    GenerateParams,
    MaskModelParams,
    PrepareParams,
    SegmentParams,
)

__all__ = [
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
    "Params",
    "PrepareParams",
    "PromoteParams",
    "Section",
    "Seed",
    "SegmentParams",
    "TrackingParams",
    "TuneParams",
]


class Params(Section):
    """All sections of `params.yaml`."""

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
    compute: ComputeParams = ComputeParams()

    @model_validator(mode="after")
    def _found_images_need_a_finder(self) -> "Params":
        if not self.backgrounds.finder_steps and (arms := [arm for arm in self.segment.arms if arm_of(arm).finds]):
            raise ValueError(f"the arm {arms[0]} of segment.arms needs backgrounds.finder_steps above 0")
        return self
