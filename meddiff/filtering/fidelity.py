"""How near synthetic samples as a whole come to real ones, and whether they repeat the training lesions.

Pure functions on feature matrices `[N, D]`, one row a sample, and their assembly for whole images, lesion crops and mask shapes.
The reference is real images that nothing was trained on. Features are centred on the training images and brought to a mean square
of 1 there, all by one factor (ours: the kernel depends on the unit of the features), so that KIDs compare sets within one report
and aren't those of published tables; the other measures don't change by it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from meddiff.cases import Case, Pixels
from meddiff.filtering.decisions import fitted
from meddiff.filtering.features import Extractor
from meddiff.filtering.membership import Copies, Membership, copies, infer_members
from meddiff.filtering.similarity import RealLesions
from meddiff.lesions.seams import REAL_RIM, real_seams, seam
from meddiff.lesions.shapes import Floats
from meddiff.masks.statistics import mask_statistics

_NEIGHBOURS = 5          # k of density and coverage, as in their paper
_GREATEST_SUBSET = 100   # samples of each side in one subset of the kernel distance
SUBSETS = 50
CHUNK = 64
_Pair = tuple[Pixels, Pixels]  # image [H,W,3], mask [H,W]
_Extract = Callable[[Pixels, Pixels | None], Floats]  # images [N,H,W,3], masks [N,H,W] (None: whole images) -> [N,D]
_Recognise = Callable[[Pixels, Pixels], Floats]  # images, masks of 0 to K -> [N] `Likeness.strangeness`


@dataclass(frozen=True)
class KernelDistance:
    """KID: squared maximum mean discrepancy, near 0 (it may be negative) for two samples of one distribution.

    Attributes:
        mean, deviation: over `subsets` random subsets of `subset` samples of each side; NaN with fewer than four samples.
    """

    mean: float
    deviation: float
    subset: int
    subsets: int


@dataclass(frozen=True)
class Support:
    """Density and coverage with `k` neighbours; NaN where a side is too small.

    Attributes:
        density: how deep the samples lie where real ones are: 1 for the real distribution, more on its modes.
        coverage: share of the real images near which a sample lies.
        expected_coverage: coverage expected of as many samples of the real distribution.
    """

    density: float
    coverage: float
    expected_coverage: float
    k: int


@dataclass(frozen=True)
class Comparison:
    """One set of samples against the held-back real ones.

    Attributes:
        n: samples.
        kid, support: `image` (whole image) or `lesion` (crop) -> value.
        shapes: mask statistic -> Kolmogorov-Smirnov distance, 0 to 1, and `p` of it -> its p-value.
        copies: None for the training images themselves, and where nothing was recognised.
        seam: what the painting measured at the masks' borders, mean over samples; NaN if it wasn't measured.
    """

    n: int
    kid: dict[str, KernelDistance]
    support: dict[str, Support]
    shapes: dict[str, dict[str, float]]
    copies: Copies | None
    seam: float = math.nan


@dataclass(frozen=True)
class Fidelity:
    """Every comparison, and what it rests on.

    Attributes:
        extractor: name of the feature space.
        reference: what the reference images are, `n_reference` of them.
        n_training: training images, whose comparison is the floor: what real images of another draw give.
        sets: name of a set -> its comparison; `membership`: what the accepted samples give away of the training.
    """

    extractor: str
    reference: str
    n_reference: int
    n_training: int
    sets: dict[str, Comparison]
    membership: Membership | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, null in the place of NaN."""
        return _plain(asdict(self))  # type: ignore[no-any-return]

    def numbers(self) -> dict[str, float]:
        """The main values as `measure_space_set`, undefined ones left out."""
        found: dict[str, float] = {}
        for name, one in self.sets.items():
            for space in one.kid:
                found |= {f"kid_{space}_{name}": one.kid[space].mean, f"density_{space}_{name}": one.support[space].density,
                          f"coverage_{space}_{name}": one.support[space].coverage}
            found |= {f"shape_{part}_{name}": test["distance"] for part, test in one.shapes.items()} | {f"seam_{name}": one.seam}
            if one.copies:
                found[f"copy_share_{name}"] = one.copies.share
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True, eq=False)
class Description:
    """What N samples are compared by.

    Attributes:
        spaces: `image`, `lesion` and `mirrored` (the lesion crop of the mirrored image) -> `[N, D]` features.
        shapes: `[N]` rows of `mask_statistics.statistics`.
        strange: `[N]` strangeness to the training lesions; None where nothing was recognised.
    """

    spaces: dict[str, Floats]
    shapes: pd.DataFrame
    strange: Floats | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def rows(self, chosen: NDArray[np.bool_]) -> "Description":
        """Those of the samples for which `chosen` `[N]` holds."""
        return Description({name: values[chosen] for name, values in self.spaces.items()}, self.shapes[chosen],
                           None if self.strange is None else self.strange[chosen])


def describe(extract: _Extract, pairs: Iterable[_Pair], mirrored: bool = False,
             recognise: _Recognise | None = None) -> Description:
    """Features and shapes of images `[H, W, 3]` uint8 with their masks `[H, W]` of 0 to K, none empty, a chunk at a time.

    Args:
        extract: features of images, of the lesion alone where masks are given.
        mirrored: describe the mirrored lesions too; needed of the training images, since training mirrors.
        recognise: what tells copies.
    """
    parts: dict[str, list[Floats]] = {name: [] for name in ("image", "lesion", *(["mirrored"] if mirrored else []))}
    shapes, strange, rest = [], list[Floats](), iter(pairs)
    while chunk := list(islice(rest, CHUNK)):
        images, classes = (np.stack(part) for part in zip(*chunk, strict=True))
        masks = (classes > 0).astype(np.uint8)
        strange += [recognise(images, classes)] if recognise else []
        parts["image"].append(extract(images, None))
        parts["lesion"].append(extract(images, masks))
        if mirrored:
            parts["mirrored"].append(extract(np.ascontiguousarray(images[:, :, ::-1]), np.ascontiguousarray(masks[:, :, ::-1])))
        shapes.append(mask_statistics(list(masks)))
    if not shapes:
        return Description({name: np.empty((0, 1)) for name in parts}, pd.DataFrame(), np.empty(0))
    return Description({name: np.concatenate(values) for name, values in parts.items()}, pd.concat(shapes, ignore_index=True),
                       np.concatenate(strange) if strange else None)


def compare_samples(extractor: Extractor, real: RealLesions, cases: Sequence[Case], held_back: Sequence[Case],
                    painted: Iterable[_Pair], accepted: NDArray[np.bool_], corroded: Iterable[_Pair]) -> Fidelity:
    """The samples against held-back cases, before and after the filter, and with the corroded masks.

    Args:
        real: the training lesions, as the filter knows them.
        cases, held_back: of training and validation; those with a lesion count.
        painted: images and masks of the N samples with a lesion, read once; those of another size are resampled.
        accepted: `[N]`, which of them passed the filter.
        corroded: the accepted ones' images and corroded masks, read once.
    """
    training, reference = ([(case.image, case.mask) for case in part if case.mask is not None and case.mask.any()]
                           for part in (cases, held_back))
    steps = list[float]()

    def seams_noted() -> Iterator[_Pair]:
        for pair in painted:
            image, mask = (fitted(pixels, cases[0].image.shape[0]) for pixels in pair)
            steps.append(seam(image, mask, None, REAL_RIM))
            yield image, mask

    generated = describe(extractor.features, seams_noted(), recognise=real.strangeness)
    sets = {"generated": generated, "accepted": generated.rows(accepted),
            "corroded": describe(extractor.features, corroded, recognise=real.strangeness)}
    seen, known = np.array(steps), np.array(real_seams([image for image, _ in training], [mask for _, mask in training]))
    seams = {name: float(values[np.isfinite(values)].mean()) for name, values in
             {"training": known, "generated": seen, "accepted": seen[accepted]}.items() if np.isfinite(values).any()}
    kept = describe(extractor.features, reference, mirrored=True, recognise=real.strangeness)
    learned = describe(extractor.features, training, mirrored=True)
    found = infer_members(learned.spaces, kept.spaces, sets["accepted"].spaces["lesion"])
    return replace(assess_fidelity(kept, learned, sets, extractor.name, seams), membership=found)


def assess_fidelity(reference: Description, training: Description, sets: Mapping[str, Description], extractor: str,
           seams: Mapping[str, float] | None = None, stated: str = "held-back real images (validation)",
           seed: int = 0) -> Fidelity:
    """Compare every set, and the training images, with the reference.

    Args:
        training: with `mirrored`, see `describe`.
        sets: name -> samples; those of an empty set are all NaN.
        extractor, stated: what the features and the reference are, for the record.
        seams: name of a set -> seam of its samples, for the record.
    """
    every = {"training": training, **sets}
    return Fidelity(extractor, stated, len(reference), len(training), {
        name: _compare(reference, training, found, (seams or {}).get(name, math.nan), seed, itself=name == "training")
        for name, found in every.items()})


def kid(real: Floats, other: Floats, seed: int = 0) -> KernelDistance:
    """Kernel inception distance of `[N, D]` and `[M, D]` (Binkowski et al. 2018, section 4).

    Mean of the unbiased estimate of MMD² with the kernel (x·y / D + 1)³ over random subsets. A subset is half of the smaller
    side, at most `_GREATEST_SUBSET` (ours: the usual 1000 exceeds small sets, and subsets of all would hide the deviation).
    """
    subset = min(_GREATEST_SUBSET, len(real) // 2, len(other) // 2)
    if subset < 2:
        return KernelDistance(math.nan, math.nan, subset, 0)
    rng = np.random.default_rng(seed)
    values = [_mmd2(real[rng.permutation(len(real))[:subset]], other[rng.permutation(len(other))[:subset]])
              for _ in range(SUBSETS)]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subset, SUBSETS)


def density_coverage(real: Floats, other: Floats, k: int = _NEIGHBOURS) -> Support:
    """Density and coverage of `[M, D]` samples by `[N, D]` real ones (Naeem et al. 2020, equations 4, 5 and 9)."""
    n, m, k = len(real), len(other), min(k, len(real) - 1)
    if k < 1 or not m:
        return Support(math.nan, math.nan, math.nan, max(k, 0))
    radius = np.sort(cdist(real, real), axis=1)[:, k]  # the nearest is the image itself
    inside = cdist(real, other) < radius[:, None]
    i = np.arange(1, k + 1)
    return Support(float(inside.sum() / (k * m)), float(inside.any(axis=1).mean()), float(1 - np.prod((n - i) / (n + m - i))), k)


def shape_tests(real: pd.DataFrame, other: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Two-sample Kolmogorov-Smirnov test of each column of `mask_statistics.statistics`: column -> distance (0 to 1) and p."""
    if real.empty or other.empty:
        return {}
    tests = {name: ks_2samp(real[name], other[name]) for name in real}
    return {str(name): {"distance": float(test.statistic), "p": float(test.pvalue)} for name, test in tests.items()}


def _compare(reference: Description, training: Description, found: Description, seam: float, seed: int,
             itself: bool) -> Comparison:
    distances, supports = {}, {}
    for space in ("image", "lesion"):
        real, other = _scaled(training.spaces[space], [reference.spaces[space], found.spaces[space]])
        distances[space], supports[space] = kid(real, other, seed), density_coverage(real, other)
    told = None if itself or reference.strange is None or found.strange is None else copies(reference.strange, found.strange)
    return Comparison(len(found), distances, supports, shape_tests(reference.shapes, found.shapes), told, seam)


def _scaled(by: Floats, parts: Sequence[Floats]) -> list[Floats]:
    centre = by.mean(axis=0)
    scale = max(1e-9, float(np.sqrt(((by - centre) ** 2).mean())))
    return [(part - centre) / scale if len(part) else part for part in parts]


def _mmd2(x: Floats, y: Floats) -> float:
    """Unbiased estimate from `[m, D]` and `[m, D]` (equation 4)."""
    m = len(x)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
