"""What a row of each table holds that a stage leaves; `tables` says which file has which rows.

The fields are the columns: `str` is text as it stands (an id may be `NA` or `007`), `int` a whole number, `float` a number, NaN
where the cell is empty. A column whose field has a default may be missing. A field that ends in `_` is the column without it.
"""

import math
from dataclasses import dataclass

from meddiff.cases import Frame


@dataclass(frozen=True)
class CaseRow:
    """A case of one split.

    Attributes:
        group: patient, video or near-duplicate group; a group never crosses a split.
        labelled: 1 where the chain may see a mask of it (in `test` an empty one for a lesion-free case), else 0.
        image_sha256, mask_sha256: of the files; the second is empty without a mask.
        top, left, height, width: where the square shows the image [pixels]; of height 0: everywhere.
        mode: Pillow's pixel format of the raw image.
        raw_sha256: of the raw image file; empty for an image that never was one.
        patient: as the dataset names it; empty where nobody knows it.
    """

    id: str
    group: str
    labelled: int
    image_sha256: str = ""
    mask_sha256: str = ""
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0
    mode: str = ""
    raw_sha256: str = ""
    patient: str = ""

    @property
    def frame(self) -> Frame | None:
        """Where the square shows the image; None: everywhere."""
        return Frame(self.top, self.left, self.height, self.width) if self.height else None


@dataclass(frozen=True)
class NormalRow:
    """A lesion-free image of the dataset; see `CaseRow`.

    Attributes:
        source: `normal`.
        sha256: of the file.
    """

    id: str
    source: str
    group: str
    sha256: str = ""
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0
    mode: str = ""
    raw_sha256: str = ""
    patient: str = ""

    @property
    def frame(self) -> Frame | None:
        """Where the square shows the image; None: everywhere."""
        return Frame(self.top, self.left, self.height, self.width) if self.height else None


@dataclass(frozen=True)
class LeftOutRow:
    """Something of the dataset that isn't used; the columns are `datasets.adapters.LeftOut`'s."""

    id: str
    what: str
    reason: str


@dataclass(frozen=True)
class SimilarRow:
    """Two images of one group by their look; the columns are `datasets.accounts.SimilarPair`'s."""

    first: str
    second: str
    kind: str
    correlation: float
    group: str


@dataclass(frozen=True)
class BackgroundRow:
    """An image to paint into.

    Attributes:
        source: `normal`, or `removed:CASE` or `site:CASE` for a training case whose annotated or found lesion was filled in.
        group: of the case.
        method: that filled the lesion in: `texture` or `foundation`; `found` of a site, else empty.
        sha256: of the file.
    """

    id: str
    source: str
    group: str = ""
    method: str = ""
    sha256: str = ""

    @property
    def kind(self) -> str:
        """`normal`, `removed` or `site`."""
        return self.source.partition(":")[0]

    @property
    def origin(self) -> str:
        """Id of the dataset's image that it is, or was made from."""
        return self.source.partition(":")[2] or self.id


@dataclass(frozen=True)
class RemovalRow:
    """An attempt at removing a case's lesions; the columns are `backgrounds.removal.Removal`'s."""

    case: str
    method: str
    before: float
    after: float
    reason: str


@dataclass(frozen=True)
class LossRow:
    """A training step, from 1, and its loss."""

    step: int
    loss: float


@dataclass(frozen=True)
class ComparisonRow:
    """A statistic of masks, real and invented, and the p-value of the two-sample Kolmogorov-Smirnov test."""

    statistic: str
    real_mean: float
    invented_mean: float
    real_median: float
    invented_median: float
    ks_p_value: float


@dataclass(frozen=True)
class SampleRow:
    """A synthetic sample.

    Attributes:
        batch: its folder.
        seed: of background, mask and noise.
        background: id of the image that was painted into.
        area: share of the image that the mask covers, 0 to 1.
        mask_likeness, site_iou: `painting.synthesizer.Sample.likeness` and `site_iou`, 0 to 1 or NaN.
        guidance_scale, steps: of the sampler.
        generator: hash of the model that made it.
    """

    id: str
    batch: str
    seed: int
    background: str
    area: float
    mask_likeness: float
    site_iou: float
    guidance_scale: float
    steps: int
    generator: str


@dataclass(frozen=True)
class DecisionRow:
    """What the filter made of a sample.

    Attributes:
        similarity, nearest, agreement, contrast, area: `filtering.decisions.Scores.table`; `nearest` is a real case's id.
        verdict: accepted, rejected or quarantined.
        reason: rule that it broke; of a quarantined one after the batch's failures and `; `; empty for an accepted one. `person`
            where a person accepted or rejected it and the rules didn't.
    """

    id: str
    batch: str
    similarity: float
    nearest: str
    agreement: float
    contrast: float
    area: float
    verdict: str
    reason: str


@dataclass(frozen=True)
class CorrosionRow:
    """Mean border profiles at a distance [inscribed radii]: of real lesions, and painted ones before and after corrosion."""

    distance: float
    real: float
    painted: float
    corroded: float


@dataclass(frozen=True)
class ValidationRow:
    """A trained segmenter.

    Attributes:
        dice: best mean Dice on the validation cases, NaN without any.
        steps: of its training.
        n_real, n_synthetic: pairs that it learned from: annotated ones, and those that the arm adds.
        n_wanted: pairs that the arm would have used if there were enough.
    """

    arm: str
    seed: int
    dice: float
    steps: int
    n_real: int
    n_synthetic: int
    n_wanted: int


@dataclass(frozen=True)
class ValidationCaseRow:
    """A validation case, arm and seed.

    Attributes:
        dice: of the delivered segmenter, NaN for a lesion-free case.
        silent: 1 where it finds nothing.
    """

    case: str
    group: str
    arm: str
    seed: int
    dice: float
    silent: int


@dataclass(frozen=True)
class DroppedRow:
    """An arm that couldn't be trained, and why."""

    arm: str
    reason: str


@dataclass(frozen=True)
class ScoreRow:
    """A test case, class, arm and seed.

    Attributes:
        seed: of the training; -1 for all seeds of the arm together (`segmentation.ensemble`).
        dice, iou, hd95, nsd: `segmentation.metrics.CaseScores`.
        lesions, found, false_positives: `segmentation.metrics.Detection`.
        lesion_area: share of the image that the class covers, 0 to 1.
        stratum: of the case by the size of all its lesions: small, medium, large or empty.
        dice_undecided: Dice of the mask as it was before the decision that the image shows no lesion.
    """

    case: str
    group: str
    class_: str
    arm: str
    seed: int
    dice: float
    iou: float
    hd95: float
    nsd: float
    lesions: int
    found: int
    false_positives: int
    lesion_area: float
    stratum: str
    dice_undecided: float = math.nan


@dataclass(frozen=True)
class ArmRow:
    """How many pairs an arm learned from, see `ValidationRow`."""

    arm: str
    n_real: int
    n_synthetic: int
    n_wanted: int
