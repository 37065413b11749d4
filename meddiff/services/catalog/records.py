"""What the catalogue answers."""

from dataclasses import dataclass
from datetime import datetime

from meddiff.outputs.sources import Source


@dataclass(frozen=True)
class CatalogCounts:
    """Rows of one project in the catalogue."""

    batches: int
    samples: int
    decisions: int
    promotions: int


@dataclass(frozen=True)
class PromotionRecord:
    """What the gate said of a model version, with its reasons; `generator` is empty where it wasn't given."""

    model: str
    version: str
    passed: bool
    reasons: tuple[str, ...]
    generator: str
    at: datetime


@dataclass(frozen=True)
class ActionRecord:
    """A row of the audit log.

    Attributes:
        project: in which it was done.
        at: when, in UTC.
        person: who did it.
        action: what was done, in the past tense: one of `audit.Action`.
        subject: to what, such as `meddiff-segmenter 3` or a release's address.
        reason: as it was given, or as the gate gives it; may be empty.
        before, after: the version or state that it changed; empty where there is none.
    """

    project: str
    at: datetime
    person: str
    action: str
    subject: str
    reason: str
    before: str
    after: str


@dataclass(frozen=True)
class ExecutionRecord:
    """One execution of the pipeline, see `models.ExecutionEntry`."""

    id: str
    run: str
    commit: str
    generator: str
    segmenter: str
    dataset: str
    at: datetime


@dataclass(frozen=True)
class DeliveryRecord:
    """Pairs that left the project.

    Attributes:
        kind: `release` or `export`.
        name, place: of the release, and its storage; of an export its format and folder.
        generators: hashes of the models that made the samples.
    """

    kind: str
    name: str
    place: str
    generators: tuple[str, ...]
    pairs: int
    at: datetime


@dataclass(frozen=True)
class MadeRecord:
    """How many samples of a generator, given by the hash that they carry, an execution wrote down."""

    execution: str
    generator: str
    samples: int
    accepted: int


@dataclass(frozen=True)
class History:
    """What became of a project's datasets.

    Attributes:
        executions: the newest first.
        cases: dataset of an execution -> its images.
        made: samples by execution and generator.
        deliveries: the oldest first.
    """

    executions: tuple[ExecutionRecord, ...]
    cases: dict[str, tuple[Source, ...]]
    made: tuple[MadeRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]


@dataclass(frozen=True)
class SampleRecord:
    """Where a sample comes from and what became of it.

    Attributes:
        seed: of background, mask and noise.
        background: id of the image that was painted into, or `given`.
        source, patient: the dataset's case that it is or was made from, and whose that is, as a salted hash.
        execution: that wrote it down: of the pipeline, or `files` for what a rebuild read; `model` is the generator's
            NAME/VERSION in the registry, where it is known.
        area: share of the image that the mask covers, 0 to 1.
        generator: hash of the model that made it; `promotions` are those recorded for this hash.
        similarity, nearest, agreement, contrast: the filter's scores and the nearest real case; None before `filter` ran.
        verdict: accepted, rejected, quarantined or, before `filter` ran, undecided; with its reason.
        batch_passed: verdict of the batch's quality check, None before `filter` ran; `batch_reasons` says why not.
        pictures, corroded: shards below the project folder: of its image and mask, and of the tightened mask, or None.
    """

    id: str
    batch: str
    seed: int
    background: str
    source: str
    patient: str
    execution: str
    model: str
    area: float
    guidance_scale: float
    steps: int
    generator: str
    similarity: float | None
    nearest: str | None
    agreement: float | None
    contrast: float | None
    verdict: str
    reason: str
    batch_passed: bool | None
    batch_reasons: tuple[str, ...]
    pictures: str
    corroded: str | None
    promotions: tuple[PromotionRecord, ...]
