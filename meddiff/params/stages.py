"""The settings of the stages from `prepare` to `filter`."""

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from meddiff.params.section import ClassName, DatasetName, Fraction, Positive, Section, Seed, SharedPrecision, SharedSeed

MaskRandomness = Literal["noise", "condition", "shape", "pose", "placement"]
MASK_RANDOMNESS: tuple[MaskRandomness, ...] = get_args(MaskRandomness)


class PrepareParams(Section):
    """Which dataset, at what size, and which few annotated cases the chain may see."""

    dataset: DatasetName = Field("demo", description="what the raw dataset is: phantoms, a folder of images and masks, as its "
                                 "authors publish it, or as an annotation tool exports it")
    path: Annotated[str, Field(min_length=1)] = Field("raw", description="folder of the raw dataset; unused by `demo`")
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=16)] = Field(64, description="side of the square images [pixels]")
    fit: Literal["pad", "squash"] = Field("pad", description="how a frame that isn't square becomes so")
    n_labelled: Annotated[int, Field(ge=2)] = Field(10, description="annotated training cases that the chain may see")
    val_fraction: Fraction = Field(0.15, description="share of cases for validation where the dataset has no split, and of "
                                    "lesion-free images")
    test_fraction: Fraction = Field(0.25, description="share of cases for the test where the dataset has no split, and of "
                                    "lesion-free images")
    duplicate_bits: Annotated[int, Field(ge=0, le=32)] = Field(
        4, description="64-bit perceptual hashes that differ in at most this many bits are near-duplicates"
    )
    demo_cases: Positive = Field(1200, description="phantoms with a lesion")
    demo_normal: Positive = Field(60, description="lesion-free phantoms")
    demo_modality: Literal["ultrasound", "dermoscopy", "mixed"] = Field("mixed", description="what the phantoms look like")
    demo_lesions: Annotated[int, Field(ge=1, le=5)] = Field(1, description="greatest number of lesions in one phantom")
    group_pattern: str = Field(
        "", description="regular expression: what its first bracket finds in an image's name is the patient, as in "
        "^(patient_\\d+); empty: patients are those of groups.json or groups.csv, or of the dataset's layout"
    )
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=8)] = Field(
        ("lesion",), description="names of the classes of lesions; several need masks that hold class "
        "indices, or are categories of an annotation tool"
    )
    empty_masks: Literal["unannotated", "lesion_free"] = Field(
        "unannotated", description="what an image counts as whose mask holds nothing, unless the dataset declares it lesion-free"
    )
    window: str = Field(
        "auto", description="CENTER,WIDTH of the gray levels that become 0 to 255, such as 40,400 for CT, in images of more "
        "than 8 bits of the datasets `dicom` and `volumes`; auto: the file's own window, or percentiles"
    )
    axis: Literal["axial", "coronal", "sagittal"] = Field("axial", description="planes in which the dataset `volumes` is cut")
    frames: Positive = Field(
        16, description="greatest number of images that a video gives, or a volume, beside those with a lesion, evenly spread"
    )
    seed: Seed = Field(0, description="of every random choice; the segmenters have `segment.seeds`, the demo's phantoms are "
                       "always the same")

    @field_validator("group_pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as e:
            raise ValueError(f"it must be a regular expression ({e})") from e
        return pattern

    @field_validator("window")
    @classmethod
    def _window_is_wide(cls, window: str) -> str:
        if window != "auto" and not re.fullmatch(r"-?\d+(\.\d+)?,0*[1-9]\d*(\.\d+)?", window):
            raise ValueError("it must be auto, or CENTER,WIDTH with a width of 1 or more, such as 40,400")
        return window

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("class names must differ")
        return names


class FoundationParams(Section):
    """The inpainting model that fine-tuning starts from."""

    source: str = Field(
        "embedded", description="`embedded` (comes with meddiff), `scratch` (the same untrained), a hub id, or a local folder"
    )
    revision: str | None = Field(None, description="commit of the hub id; required for a hub id")
    patch: Literal[2, 4, 8, 16] = Field(4, description="scratch: side of a patch that becomes one latent position [pixels]")
    channels: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=1, max_length=6)] = Field(
        (64, 128), description="scratch: width of each UNet level"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        15, description="embedded, scratch: training steps on the training images without their masks"
    )
    batch_size: Positive = Field(16, description="images of a training step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-4, description="of that training, at its peak")
    seed: SharedSeed = 0


class BackgroundsParams(Section):
    """Images to paint into, and the inspector: a segmenter that judges them and, later, the synthetic samples."""

    sources: Literal["auto", "normal", "removed", "both"] = Field(
        "auto", description="the dataset's lesion-free images, labelled training images with the lesion removed, or both; "
        "`auto`: removed ones where the dataset has fewer than 8"
    )
    fill: Annotated[tuple[Literal["texture", "foundation"], ...], Field(min_length=1, max_length=2)] = Field(
        ("texture", "foundation"), description="how lesions are removed: the first of these whose result passes the inspector"
    )
    fill_steps: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="denoising steps of the foundation's fill")
    largest: Fraction = Field(0.35, description="largest share of the image that is filled in; larger lesions are left out")
    residue: Fraction = Field(
        0.1, description="greatest area where the inspector still finds a lesion, as a share of what it found before; 1: no check"
    )
    inspector_steps: Positive = Field(130, description="training steps of the inspector")
    finder_steps: Annotated[int, Field(ge=0)] = Field(
        130, description="training steps of each finder; two of them look for lesions to be replaced in the training images "
        "without annotation; 0: no such backgrounds"
    )
    finder_rounds: Annotated[int, Field(ge=1, le=4)] = Field(
        1, description="times that two finders are trained; from the second on, also on the images in which the two before agree"
    )
    finder_network: Literal["unet", "encoder_unet"] = Field(
        "unet", description="of the finders; `encoder_unet`, on a pretrained encoder, needs fewer steps and finds better outlines"
    )
    finder_encoder: str = Field("efficientnet_lite0", description="of finders of `encoder_unet`: see segment.encoder")
    finder_encoder_revision: str | None = Field(None, description="commit of the hub id; required for a hub id")
    site_agreement: Fraction = Field(
        0.85, description="least Dice between what two finders see in an image without annotation, else it isn't used"
    )
    precision: SharedPrecision = "float32"
    seed: SharedSeed = 0


class MaskModelParams(Section):
    """The diffusion model that invents masks."""

    grid: Annotated[int, Field(ge=16, le=128, multiple_of=8)] = Field(32, description="side of the signed distance maps [pixels]")
    steps: Positive = Field(80, description="training steps")
    batch_size: Positive = Field(16, description="lesions of a training step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="at its peak")
    seed: SharedSeed = 0


class FinetuneParams(Section):
    """Fine-tuning of the foundation on the few annotated cases."""

    mode: Literal["full", "lora", "token"] = Field("full", description="what learns: the UNet, a LoRA (merged), or a `token`")
    steps: Positive = Field(75, description="optimizer steps")
    batch_size: Positive = Field(16, description="crops computed together")
    accumulation: Positive = Field(1, description="batches of one optimizer step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-4, description="of the UNet's weights or of the LoRA's")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-2, description="of AdamW")
    gradient_clip: Annotated[float, Field(gt=0)] = Field(1.0, description="greatest norm of the gradient")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="of the moving average of the weights; 0: none")
    inside_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the loss inside the lesion mask")
    outside_weight: Annotated[float, Field(ge=0)] = Field(0.1, description="weight of the loss outside the lesion mask")
    min_snr: Annotated[float, Field(ge=0)] = Field(5.0, description="gamma of the min-SNR weights of times; 0: all times alike")
    prompt: str = Field("a photo of hta", pattern=r"\S", description="holds a rare word; of several classes each adds its name")
    token: str = Field("", description="word of the prompt that gets a learned embedding; empty: none, in mode `token` the last")
    token_learning_rate: Annotated[float, Field(gt=0)] = Field(0.001, description="of the token's embedding")
    prompt_dropout: Fraction = Field(0.1, description="share of examples that teach the empty prompt to paint no lesion; 0: none")
    lora_rank: Positive = Field(8, description="of the LoRA's updates, in mode `lora`")
    precision: SharedPrecision = "float32"
    gradient_checkpointing: bool = Field(False, description="compute activations twice, not keep them: less memory, slower")
    seed: SharedSeed = 0

    @field_validator("outside_weight")
    @classmethod
    def _something_weighs(cls, weight: float, info: ValidationInfo) -> float:
        if not weight and not info.data.get("inside_weight"):
            raise ValueError("the loss needs weight inside or outside the mask")
        return weight

    @field_validator("token")
    @classmethod
    def _token_is_a_word(cls, token: str, info: ValidationInfo) -> str:
        if token and token not in (prompt := info.data.get("prompt", token)).split(" "):
            raise ValueError(f"it must be a word of the prompt `{prompt}`")
        return token


class GenerateParams(Section):
    """Painting invented lesions into lesion-free images, and over lesions of images without annotation."""

    n: Annotated[int, Field(ge=1, le=1_000_000)] = Field(75, description="samples to make")
    samples_per_batch: Positive | None = Field(None, description="of a shard, the unit of resume and checks; null: 25 or n / 400")
    batch_size: Positive = Field(16, description="samples computed together")
    precision: SharedPrecision = "float32"
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="denoising steps")
    scheduler: Literal["ddim", "dpmsolver++", "unipc"] = Field("ddim", description="solver of the denoising steps")
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = Field(
        1.0, description="1: none; above, lesions are farther from real ones (KID), at twice the time")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the noise schedule that is run; 1 starts from pure noise"
    )
    site_share: Fraction = Field(
        1.0, description="share of the samples whose lesion replaces one of an image without annotation, as far as there are "
        "such sites"
    )
    mask_widening: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="first widening of the guiding mask, as a share of the lesion's radius; 0 keeps it exact throughout"
    )
    adaptive: bool = Field(True, description="widen the guiding mask only where the predicted image leaves the background")
    rim: Annotated[int, Field(ge=0, le=16)] = Field(
        1, description="soft rim outside the mask in which the pixels may change [pixels]"
    )
    feather: bool = Field(True, description="soften a border that is sharper than a real lesion's, inside the mask")
    texture: Fraction = Field(
        0.5, description="share of the fine texture lacking in a lesion that the background's own fills in; 0 adds none"
    )
    mask_randomness: tuple[MaskRandomness, ...] = Field(
        MASK_RANDOMNESS, description="what is random in a mask: the sampler's noise; number, class and size of the lesions (else "
        "a median mask's); elastic change of the contour; size, elongation and angle; centre (else a training lesion's)"
    )
    seed: SharedSeed = 0

    @field_validator("mask_randomness")
    @classmethod
    def _in_order(cls, chosen: tuple[MaskRandomness, ...]) -> tuple[MaskRandomness, ...]:
        return tuple(level for level in MASK_RANDOMNESS if level in chosen)


class FilterParams(Section):
    """What is accepted, and how far masks are tightened."""

    similarity_low: Fraction = Field(
        0.02, description="least similarity to the real lesions, as a quantile of the real lesions' own leave-one-out similarity"
    )
    similarity_high: Annotated[float, Field(ge=0, le=0.999)] = Field(
        0.995, description="greatest similarity to a real lesion, as a quantile of the real lesions' own: above is a copy"
    )
    keep_copies: bool = Field(False, description="let copies and repeats through: for comparisons; the gate refuses such runs")
    extractor: Annotated[str, Field(min_length=1)] = Field(
        "lesion", description="features: `lesion`, or beside them `inspector`, a hub id, a folder of transformers, or NAME:FILE"
    )
    extractor_revision: str | None = Field(None, description="commit of the hub id; required for a hub id")
    agreement: Fraction = Field(0.2, description="least Dice between the mask and an independent segmenter's prediction")
    corrosion_radius: Annotated[float, Field(ge=0, le=16)] | Literal["auto"] = Field(
        "auto", description="erosion of accepted masks [pixels at 128 px, scaled with size], 0: none; `auto`: by border profiles"
    )
    min_contrast: Annotated[float, Field(ge=0)] = Field(
        2.0, description="least difference of mean gray level across the mask's border [0 to 255]"
    )
    min_acceptance: Fraction = Field(0.05, description="a batch with a smaller share of accepted samples is quarantined")
    seed: SharedSeed = 0
