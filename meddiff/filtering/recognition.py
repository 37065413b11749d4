"""Which lesion it is: the same wherever it lies, turned, mirrored, larger, cropped, noisy or in other levels. Ours.

A lesion is seen in rings around its mask's centre, in units of the radius of a disc of its area, as gray levels less their mean
and as outline. A Fourier transform along each ring makes a turn a shift of phase, so that all angles are compared at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.lesions.appearance import IMAGES_AT_ONCE, Parts, Scalars, average, channels_first, erode

_RINGS, _ANGLES, _REACH = 14, 48, 1.3  # circles, places on each, radii of the lesion up to the outermost
_PATCH, _EXTENT, _FINER = 32, 1.5, 4   # side of the square they are read from [cells], half of it [radii], samples along a cell
_NOISE = 40.0                          # structure weaker than this counts as little [gray levels, times the rings' root]
_OUTLINE, _LEAST_POWER = 0.3, 1e-4     # weight of the outline beside the levels; power below which nothing more is amplified
_PRIOR = 4                             # lesions that the spread of all counts for, beside a lesion's own
# How a copy's mask may lie to the lesion's: its size, and how far its centre is off [radii]: where the outline was drawn tighter.
_FITS = [(0.9, 0.0, 0.0), (1.0, 0.0, 0.0), (1.12, 0.0, 0.0),
         *((1.06, 0.1 * np.cos(turn), 0.1 * np.sin(turn)) for turn in np.arange(6) * np.pi / 3)]
_AS_IT_IS = 1  # of `_FITS`
# A real lesion is also known by what is left of it where its outline lacks a tenth of its width and height at one side each.
_CUT, _CUTS = 0.1, [(left, top) for left in (True, False) for top in (True, False)]
_CUT_COSTS = 0.05  # correlation by which such a part must be the better match: it has less to be known by


@dataclass(frozen=True, eq=False)
class Recogniser:
    """How like lesions are to each of n real ones, against how like real lesions of others are.

    The likeness of two is -ln(1.02 - c), with c the greatest correlation over angles, fits, cuts and mirror images. It is told in
    standard deviations of the real lesion's likeness to others, plus the same of the lesion's own to the other real ones, since
    small round lesions are like many.

    Attributes:
        weights: `[2 rings, frequencies]`; they halve the logarithm of how unevenly power is spread.
        references: `[n, 1 + cuts, 2 rings, frequencies]` complex, weighted, of norm 1: as it is, and cut.
        others: `[n, 3]` number, sum and sum of squares of each one's likeness to lesions of others.
        own: `[n]` leave-one-out score of each.
    """

    weights: Tensor
    references: Tensor
    others: Scalars
    own: Scalars

    def score(self, seen: Tensor) -> tuple[Scalars, NDArray[np.intp]]:
        """The greatest score of each of L lesions, as `see_lesions` gives them, and which real one it is to."""
        scores = self._scores(_likeness(seen, self.references, self.weights), self.others[None])
        return scores.max(axis=1), scores.argmax(axis=1)

    def _scores(self, likeness: Scalars, others: Scalars) -> Scalars:
        """Of `[L, n]`; minus infinity is no candidate. `others` `[1 or L, n, 3]`."""
        pooled, known = _Spread.of(self.others.sum(axis=0)), np.isfinite(likeness)
        values = np.where(known, likeness, 0.0)
        each = np.stack([known * 1.0, values, values**2], axis=2)
        theirs, ours = _Spread.of(others, pooled), _Spread.of(each.sum(axis=1, keepdims=True) - each, pooled)
        return np.where(known, theirs.standardised(values) + ours.standardised(values), -np.inf)


@dataclass(frozen=True, eq=False)
class _Spread:
    mean: Scalars
    deviation: Scalars

    @classmethod
    def of(cls, sums: Scalars, prior: "_Spread | None" = None) -> "_Spread":
        """From number, sum and sum of squares `[..., 3]`; with a prior that counts for `_PRIOR` further values."""
        n, total, squares = np.moveaxis(sums, -1, 0)
        if prior is not None:
            n, total = n + _PRIOR, total + _PRIOR * prior.mean
            squares = squares + _PRIOR * (prior.deviation**2 + prior.mean**2)
        mean = total / np.maximum(n, 1)
        return cls(mean, np.sqrt(np.maximum(squares / np.maximum(n, 1) - mean**2, 1e-4)))

    def standardised(self, values: Scalars) -> Scalars:
        return np.asarray((values - self.mean) / self.deviation)


def see_lesions(images: Pixels, parts: Parts, known: bool = False) -> Tensor:
    """What lesions are recognised by.

    Args:
        images: `[N, H, W, 3]` uint8 RGB.
        parts: their L lesions.
        known: whether others are to be held against them.

    Returns:
        `[L, fits, 2 rings, frequencies]` complex64: levels and outline around each of the `_FITS`; of known ones further on
        what each of the `_CUTS` leaves.
    """
    empty = torch.zeros((0, len(_FITS) + known * len(_CUTS), 2 * _RINGS, _ANGLES // 2), dtype=torch.complex64)
    chunks = [slice(start, start + IMAGES_AT_ONCE) for start in range(0, len(parts.owners), IMAGES_AT_ONCE)]
    return torch.cat([empty, *(_seen(images[parts.owners[chunk]], parts.masks[chunk], known) for chunk in chunks)])


def learn_recogniser(seen: Tensor, other: NDArray[np.bool_]) -> Recogniser:
    """The recogniser of n real lesions, as `see_lesions` gives known ones.

    Args:
        other: `[n, n]`, whether two are of different patients; each has another.
    """
    plain = seen[:, _AS_IT_IS]
    power = (plain.abs() ** 2).mean(0)
    weights = power.clamp(min=float(power.max()) * _LEAST_POWER) ** -0.25
    shares = [(power * weights**2)[part].sum().clamp(min=1e-12) for part in (slice(_RINGS), slice(_RINGS, None))]
    weights[:_RINGS] *= (1 / shares[0]).sqrt()
    weights[_RINGS:] *= (_OUTLINE / shares[1]).sqrt()
    references = _weighted(torch.cat([plain[:, None], seen[:, len(_FITS):]], 1), weights)
    likeness = np.where(other, _likeness(seen, references, weights), -np.inf)
    counted = np.stack([other * 1.0, np.where(other, likeness, 0.0), np.where(other, likeness, 0.0) ** 2], axis=2)
    made = Recogniser(weights, references, counted.sum(axis=0), np.zeros(len(seen)))
    own = made._scores(likeness, made.others[None] - counted).max(axis=1)
    return Recogniser(weights, references, made.others, own)


def _seen(images: Pixels, masks: Pixels, known: bool) -> Tensor:
    left = [_cut(masks, *cut) for cut in _CUTS] if known else []
    return torch.cat([_read(_patches(images, masks), _FITS),
                      *(_read(_patches(images, part), [_FITS[_AS_IT_IS]]) for part in left)], 1)


def _cut(masks: Pixels, left: bool, top: bool) -> Pixels:
    """Lesions that lack a part at two sides; one that would hold nothing then is left as it is."""
    cut = np.zeros_like(masks)
    for mask, part in zip(masks, cut, strict=True):
        (y, x) = ((hit[0], hit[-1] + 1, max(1, round(_CUT * (hit[-1] - hit[0]))))
                  for hit in (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)))
        kept = (slice(y[0] + top * y[2], y[1] - (not top) * y[2]), slice(x[0] + left * x[2], x[1] - (not left) * x[2]))
        part[kept] = mask[kept]
        if not part.any():
            part[:] = mask
    return cut


def _read(patch: Tensor, fits: Sequence[tuple[float, float, float]]) -> Tensor:
    radii = (torch.arange(_RINGS) + 0.5) / _RINGS * _REACH
    turns = torch.arange(_ANGLES) * (2 * torch.pi / _ANGLES)
    rings = torch.stack([radii[:, None] * turns.cos(), radii[:, None] * turns.sin()], -1)
    basis, views = torch.from_numpy(_cosines()).float(), []
    for size, right, down in fits:
        grid = (rings * size + torch.tensor([right, down], dtype=torch.float32)) / _EXTENT
        gray, inside, outline = F.grid_sample(patch, grid.expand(len(patch), -1, -1, -1), align_corners=False).unbind(1)
        mean = average(gray[:, None], (inside * radii[:, None])[:, None])[:, None, None]
        levels = (gray - mean) * inside * radii[:, None].sqrt()
        levels = levels / (levels.flatten(1).norm(dim=1)[:, None, None] + _NOISE)
        drawn = (outline - (radii[:, None] < 1).float()) * radii[:, None].sqrt() / (_RINGS * _ANGLES) ** 0.5
        both = torch.cat([torch.einsum("kr,nra->nka", basis, part) for part in (levels, drawn)], 1)
        views.append(torch.fft.rfft(both, dim=2, norm="ortho")[:, :, :_ANGLES // 2])
    return torch.stack(views, 1)


def _patches(images: Pixels, masks: Pixels) -> Tensor:
    """`[L, 3, _PATCH, _PATCH]` around each lesion: gray levels, its inside, and its outline filled."""
    filled = np.stack([ndimage.binary_fill_holes(mask) for mask in masks]).astype(np.uint8)
    inner = erode(filled, 1)
    enough = inner.sum((1, 2), keepdims=True, dtype=np.int64) >= 0.25 * filled.sum((1, 2), keepdims=True, dtype=np.int64)
    outline, inside = (torch.from_numpy(part).float()[:, None] for part in (filled, np.where(enough, inner, filled)))
    height, width = filled.shape[1:]
    area = outline.sum((1, 2, 3))
    y = (outline[:, 0].sum(2) * (torch.arange(height) + 0.5)).sum(1) / area
    x = (outline[:, 0].sum(1) * (torch.arange(width) + 0.5)).sum(1) / area
    half, theta = _EXTENT * (area / torch.pi).sqrt(), torch.zeros(len(filled), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 2 * half / width, 2 * half / height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * x / width - 1, 2 * y / height - 1
    grid = F.affine_grid(theta, [len(filled), 1, _PATCH * _FINER, _PATCH * _FINER], align_corners=False)
    gray = F.grid_sample(channels_first(images).mean(1, keepdim=True), grid, padding_mode="border", align_corners=False)
    drawn = F.grid_sample(torch.cat([inside, outline], 1), grid, align_corners=False)
    return F.avg_pool2d(torch.cat([gray, drawn], 1), _FINER)


def _cosines() -> Scalars:
    """`[rings, rings]` orthonormal cosines across the rings, so that slow and fast changes are weighted apart."""
    ring, wave = np.arange(_RINGS), np.arange(_RINGS)[:, None]
    basis = np.sqrt(2 / _RINGS) * np.cos(np.pi * wave * (2 * ring + 1) / (2 * _RINGS))
    basis[0] /= np.sqrt(2)
    return np.asarray(basis)


def _weighted(seen: Tensor, weights: Tensor) -> Tensor:
    """Weighted and of norm 1; a frequency stands for its negative, too."""
    values, twice = seen * weights, torch.full((seen.shape[-1],), 2.0)
    twice[0] = 1.0
    return values / ((values.abs() ** 2 * twice).sum((-2, -1), keepdim=True).sqrt() + 1e-6)


def _likeness(seen: Tensor, references: Tensor, weights: Tensor) -> Scalars:
    """`[L, n]` greatest over fits, cuts, mirror images and angles."""
    best, views = torch.full((len(seen), len(references)), -1.0), _weighted(seen[:, :len(_FITS)], weights)
    tried = [(fit, 0) for fit in range(len(_FITS))] + [(_AS_IT_IS, 1 + cut) for cut in range(len(_CUTS))]
    for fit, part in tried:
        for known in (references[:, part].conj(), references[:, part]):  # a mirror image turns the other way
            product = torch.bmm(views[:, fit].permute(2, 0, 1), known.permute(2, 1, 0)).permute(1, 2, 0)
            found = torch.fft.irfft(F.pad(product.contiguous(), (0, 1)), n=_ANGLES, dim=2).amax(2) * _ANGLES
            best = torch.maximum(best, found - (_CUT_COSTS if part else 0.0))
    return np.asarray(-torch.log(1.02 - best).double().numpy())
