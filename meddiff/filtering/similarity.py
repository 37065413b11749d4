"""How near a lesion is to the real ones: from noise at one end to a copy at the other. Ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from torch import Tensor

from meddiff.cases import Case, Pixels
from meddiff.errors import MeddiffError
from meddiff.filtering.features import Extractor
from meddiff.filtering.recognition import Recogniser, learn_recogniser, see_lesions
from meddiff.lesions.appearance import Parts, Scalars, lesion_features, split_lesions

_LEAST_SCALE = 0.1      # a feature that hardly varies (the colour of gray images) isn't blown up; of an embedding: of the mean
_LEAST_SPREAD = 0.05    # spread of few, by chance equal, log distances
LEAST_REFERENCES = 8    # a class with fewer real lesions is held against those of all classes
_LESION = Extractor("lesion statistics")
_Views = tuple[Scalars, ...]  # features `[L, D]` of the same lesions in several spaces, identity last


@dataclass(frozen=True)
class Predictive:
    """Student's t distribution that n normal values predict for a further one: with few values its tails are wide."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Scalars) -> "Predictive":
        return cls(float(values.mean()), max(float(values.std(ddof=1)), _LEAST_SPREAD), len(values))

    def exceeds(self, values: Scalars) -> Scalars:
        """Probability that a further value is greater than each of these."""
        return np.asarray(student.sf((values - self.mean) / self._width, self.n - 1))

    def exceeded_with(self, probability: float) -> float:
        """The value that a further one exceeds with this probability."""
        return float(self.mean + self._width * student.isf(probability, self.n - 1))

    @property
    def _width(self) -> float:
        return self.deviation * float(np.sqrt(1 + 1 / self.n))


@dataclass(frozen=True, eq=False)
class Measure:
    """Nearness to one set of n real lesions: how plausible a lesion is by its views, and whether it is one of them.

    By their views two lesions are Σ ln(d_v) / s_v apart, with d_v their Euclidean distance in view v (appearance, the extractor's
    embedding if there is one, identity) and s_v the standard deviation of ln(d_v) over the leave-one-out nearest real pairs. The
    logarithms let both ends show: a copy has a tiny distance of identity whatever its gray, noise a great one of appearance. A
    copy that was changed may be far by them; hence copies are told by a `Recogniser`.

    Attributes:
        ids: case of each lesion.
        references: views of each, and of each mirrored, since training mirrors.
        spreads: for each view the distribution of ln(d_v) over the leave-one-out nearest real pairs.
        joint: the same of their sum.
        own: `[n]` leave-one-out similarity of each real lesion.
        recogniser: of these lesions.
        strange: distribution of the real lesions' leave-one-out strangeness.
    """

    ids: tuple[str, ...]
    references: _Views
    spreads: tuple[Predictive, ...]
    joint: Predictive
    own: Scalars
    recogniser: Recogniser
    strange: Predictive

    def similarity(self, views: _Views) -> Scalars:
        """Similarity in [0, 1] of each of L lesions to its nearest real one.

        The similarity is the probability that a further real lesion lies farther from its nearest one than this lesion does:
        0.5 is as near as real ones are to each other, 0 is far from all, 1 a copy. So bounds on it are quantiles of the real
        lesions' leave-one-out similarity, estimated by their distribution, since few cases have no empirical 0.995 quantile;
        as bounds 0 and 1 exclude nothing.
        """
        apart = _apart(_log_distances(views, self.references), self.spreads)
        return self.joint.exceeds(apart.min(axis=1))

    def recognise(self, seen: Tensor) -> tuple[Scalars, Scalars, list[str]]:
        """Of each of L lesions the probability that a further real one is stranger, its strangeness, and the likest one's case.

        Strangeness falls with the score of the recogniser; the probability is a quantile like `similarity`.
        """
        scores, likest = self.recogniser.score(seen)
        strangeness = _strangeness(scores)
        return self.strange.exceeds(strangeness), strangeness, [self.ids[i] for i in likest]


@dataclass(frozen=True, eq=False)
class Likeness:
    """N samples against the real lesions.

    Attributes:
        least: `[N]` similarity of each sample's least plausible lesion; 0 without any lesion.
        greatest: `[N]` probability that a further real lesion is less like a training lesion than the sample's likest lesion is:
            1 is a copy; 0 without any lesion.
        strangeness: `[N]` that lesion's, by which samples are ranked where `greatest` is 1; infinite without any.
        nearest: case of the real lesion that it is most like; empty without any.
        identity: for each sample its lesions' identities `[l, 257]`.
    """

    least: Scalars
    greatest: Scalars
    strangeness: Scalars
    nearest: list[str]
    identity: list[Scalars]


@dataclass(frozen=True, eq=False)
class RealLesions:
    """The real lesions as a measure of nearness; made by `measure_real`.

    Attributes:
        extractor: what embeds lesions, beside their statistics.
        scales: for each view but identity, centre and scale by which it is standardised.
        measures: class -> measure on its lesions, where there are `LEAST_REFERENCES`; 0 -> on all lesions.
    """

    extractor: Extractor
    scales: tuple[tuple[Scalars, Scalars], ...]
    measures: Mapping[int, Measure]

    @property
    def own(self) -> Scalars:
        """`[n]` leave-one-out similarity of the real lesions, of whatever class."""
        return self.measures[0].own

    @property
    def own_copies(self) -> Scalars:
        """`[n]` leave-one-out `Likeness.greatest` of the real lesions."""
        measure = self.measures[0]
        return measure.strange.exceeds(_strangeness(measure.recogniser.own))

    def compare(self, images: Pixels, masks: Pixels) -> Likeness:
        """Hold each lesion of samples `[N, H, W, 3]` uint8, masks `[N, H, W]` of 0 to K, against the real ones of its class."""
        parts, n = split_lesions(masks), len(masks)
        if not len(parts.owners):
            return Likeness(np.zeros(n), np.zeros(n), np.full(n, np.inf), [""] * n, [self.measures[0].references[-1][:0]] * n)
        views, similarity = _standardised(_views(images, parts, self.extractor), self.scales), np.zeros(len(parts.owners))
        for measure, chosen in self._by_class(parts):
            similarity[chosen] = measure.similarity(_rows(views, chosen))
        copied, strange, cases = self._recognise(images, parts)
        least, greatest, nearest, strangeness = np.ones(n), np.zeros(n), np.full(n, "", dtype=object), np.full(n, np.inf)
        np.minimum.at(least, parts.owners, similarity)
        np.maximum.at(greatest, parts.owners, copied)
        np.minimum.at(strangeness, parts.owners, strange)
        likest = strange == strangeness[parts.owners]
        nearest[parts.owners[likest]] = cases[likest]
        least[masks.reshape(n, -1).max(axis=1, initial=0) == 0] = 0.0
        identities = np.split(views[-1], np.searchsorted(parts.owners, np.arange(1, n)))
        return Likeness(least, greatest, strangeness, nearest.tolist(), identities)

    def strangeness(self, images: Pixels, masks: Pixels) -> Scalars:
        """`Likeness.strangeness` of the same samples alone, without their views."""
        parts, least = split_lesions(masks), np.full(len(masks), np.inf)
        np.minimum.at(least, parts.owners, self._recognise(images, parts)[1])
        return least

    def _recognise(self, images: Pixels, parts: Parts) -> tuple[Scalars, Scalars, NDArray[np.object_]]:
        """`Measure.recognise` of each lesion by the real ones of its class."""
        seen, cases = see_lesions(images, parts), np.full(len(parts.owners), "", dtype=object)
        copied, strange = np.zeros(len(parts.owners)), np.zeros(len(parts.owners))
        for measure, chosen in self._by_class(parts):
            copied[chosen], strange[chosen], cases[chosen] = measure.recognise(seen[torch.from_numpy(chosen)])
        return copied, strange, cases

    def _by_class(self, parts: Parts) -> Iterator[tuple[Measure, NDArray[np.bool_]]]:
        for label in np.unique(parts.classes):
            yield self.measures.get(int(label), self.measures[0]), parts.classes == label

    def same_within(self, similarity: float) -> float:
        """Distance of identities within which two lesions are one: `similarity` of the real ones are farther from all others."""
        return float(np.exp(self.measures[0].spreads[-1].exceeded_with(similarity)))


def measure_real(cases: Sequence[Case], extractor: Extractor = _LESION) -> RealLesions:
    """Learn from annotated real cases what is near and what is far.

    Leave-one-out distances go to other groups' lesions, since a patient's second picture is nearly a copy; where there is one
    group only, to other cases.

    Raises:
        MeddiffError: fewer than two cases hold a lesion.
    """
    cases = [case for case in cases if case.mask is not None and case.mask.any()]
    if len(cases) < 2:
        raise MeddiffError("training cases", "the filter needs at least two annotated lesions to tell near from far",
                           "Raise prepare.n_labelled")
    images = np.stack([case.image for case in cases])
    parts = split_lesions(np.stack([case.mask for case in cases if case.mask is not None]))
    views = _views(images, parts, extractor)
    mirrored = _views(images[:, :, ::-1], Parts(parts.owners, parts.classes, parts.masks[:, :, ::-1]), extractor)
    scales = tuple((view.mean(axis=0), np.maximum(deviation, _LEAST_SCALE * (1 if i == 0 else deviation.mean() or 1)))
                   for i, view in enumerate(views[:-1]) for deviation in [view.std(axis=0)])
    views, mirrored = _standardised(views, scales), _standardised(mirrored, scales)
    ids = np.array([case.id for case in cases], dtype=object)[parts.owners]
    groups = np.array([case.group or case.id for case in cases], dtype=object)[parts.owners]
    classes = {int(label): parts.classes == label for label in np.unique(parts.classes)}
    chosen = {label: own for label, own in classes.items() if own.sum() >= LEAST_REFERENCES and len(set(ids[own])) > 1}
    seen = see_lesions(images, parts, known=True)
    return RealLesions(extractor, scales, {
        label: _measure(_rows(views, own), _rows(mirrored, own), seen[torch.from_numpy(own)], ids[own], groups[own])
        for label, own in {0: parts.classes > 0, **chosen}.items()})


def _measure(views: _Views, mirrored: _Views, seen: Tensor, ids: NDArray[np.object_], groups: NDArray[np.object_]) -> Measure:
    other = groups[:, None] != groups[None]
    if not other.any(axis=1).all():
        other = ids[:, None] != ids[None]
    references = tuple(np.concatenate(pair) for pair in zip(views, mirrored, strict=True))
    logs = [np.where(np.tile(other, 2), part, np.inf) for part in _log_distances(views, references)]
    spreads = tuple(Predictive.of(part.min(axis=1)) for part in logs)
    apart = _apart(logs, spreads).min(axis=1)
    joint = Predictive.of(apart)
    recogniser = learn_recogniser(seen, other)
    return Measure(tuple(ids), references, spreads, joint, joint.exceeds(apart), recogniser,
                   Predictive.of(_strangeness(recogniser.own)))


def _strangeness(scores: Scalars) -> Scalars:
    """Falls with the score; its distribution over real lesions is nearly normal."""
    return -np.arcsinh(scores)


def _views(images: Pixels, parts: Parts, extractor: Extractor) -> _Views:
    images = images[parts.owners]
    embedded = [extractor.embedding(images, parts.masks)] if extractor.embedding else []
    looks, selves = lesion_features(images, parts.masks)
    return looks, *embedded, selves


def _standardised(views: _Views, scales: tuple[tuple[Scalars, Scalars], ...]) -> _Views:
    return *((view - centre) / scale for view, (centre, scale) in zip(views, scales, strict=False)), views[-1]


def _rows(views: _Views, chosen: NDArray[np.bool_]) -> _Views:
    return tuple(view[chosen] for view in views)


def _apart(logs: Sequence[Scalars], spreads: Sequence[Predictive]) -> Scalars:
    return np.asarray(np.sum([part / spread.deviation for part, spread in zip(logs, spreads, strict=True)], axis=0))


def _log_distances(views: _Views, references: _Views) -> list[Scalars]:
    return [np.log(np.maximum(cdist(*pair), 1e-6)) for pair in zip(views, references, strict=True)]
