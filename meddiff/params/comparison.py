"""The settings of the segmenters and of their comparison: `segment` and `evaluate`."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from meddiff.params.arms import BASELINE, COMBINED, TREATED, arm_names
from meddiff.params.section import ArmName, Fraction, Positive, Section, Seed, SharedPrecision, SharedSeed


class SegmentParams(Section):
    """The segmenters whose Dice is compared: equal steps and order in all arms, equal augmentation in all but `augmented`."""

    network: Literal["unet", "segresnet", "attention_unet", "swin_unetr", "encoder_unet"] = Field(
        "unet", description="or segresnet, attention_unet, swin_unetr, encoder_unet: docs/reference/segmenters.md"
    )
    encoder: str = Field(
        "efficientnet_lite0", description="of encoder_unet: this, or a backbone of transformers, its folder or hub id"
    )
    encoder_revision: str | None = Field(None, description="commit of the hub id; required for a hub id")
    encoder_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="its learning rate, as a share of `learning_rate`")
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)] = Field(
        (BASELINE, TREATED, COMBINED), description=f"of {', '.join(arm_names())}: docs/reference/segmenters.md"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field((0, 1, 2), description="each arm is trained once with each")
    steps: Positive = Field(320, description="optimizer steps, the same in every arm")
    batch_size: Positive = Field(8, description="images of a training step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(3e-3, description="at its peak")
    ratio: Annotated[float, Field(gt=0)] = Field(10.0, description="synthetic pairs used for each real pair, at most")
    share: Fraction = Field(0.5, description="share of each batch drawn from the synthetic pairs in a synthetic arm")
    teacher_confidence: Fraction = Field(0.95, description="of arm consistency: least probability at which its teacher counts")
    precision: SharedPrecision = "float32"
    vertical_flips: bool = Field(False, description="also flip images upside down in training; wrong for ultrasound")
    decision_cost: Fraction | None = Field(
        None, description="Dice on the validation cases that a segmenter may lose by finding nothing in images that look "
        "lesion-free to it, where there are lesion-free validation cases; none: it always segments"
    )
    empty_arms: Literal["refuse", "real"] = Field(
        "refuse", description="an arm without any pair: stop before anything is trained, or train on the real cases alone; an "
        "arm without real cases too is left out"
    )

    @field_validator("arms", "seeds")
    @classmethod
    def _each_once(cls, chosen: tuple[str | int, ...], info: ValidationInfo) -> tuple[str | int, ...]:
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"{info.field_name} must differ")
        return chosen


class EvaluateParams(Section):
    """Statistics of the comparison on the test data."""

    resamples: Positive = Field(2000, description="draws of the bootstrap")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(0.95, description="of the intervals")
    tolerance: Annotated[float, Field(gt=0)] = Field(2.0, description="tolerance of the normalised surface distance [pixels]")
    pictures: Positive = Field(8, description="cases and pairs shown in the report")
    metric: str = Field(
        "", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$", description="a score of your own, `package.module:function` of two "
        "uint8 arrays of 0 and 1, reference and prediction, that returns a number; empty: none"
    )
    seed: SharedSeed = 0

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The name of the user's own score, if there is one."""
        return (self.metric.rpartition(":")[2],) if self.metric else ()
