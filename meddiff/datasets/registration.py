"""Which pictures show the same though one is turned by any angle, mirrored or cropped. Ours.

A picture is seen in rings around the centre of what a crop would leave of it. A Fourier transform along each ring makes a turn
a shift of phase, as in Fourier-Mellin registration (Reddy and Chatterji 1996): the magnitudes, which no turn or mirror changes,
tell by one matrix product which pairs are worth a closer look, and the phases how well these agree at the best of all angles.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft, rfft
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

from meddiff.cases import Pixels

# Ours: agreement above which one picture is a copy of another, and above which `prepare` keeps two together, so that none that it
# has sorted stands at the bound at which `evaluate` refuses. Of 2.3 million pairs of ISIC-2017 those that show something else
# reach 0.67.
SAME_PICTURE, KEPT_TOGETHER = 0.75, 0.7
_SIDE = 64                                    # of a picture [pixels]
_BAND = (1.2, 3.0)                            # the two blurs whose difference is the fine structure [pixels]
_AROUND, _FLAT = 2.5, 0.5                     # blur of the strength that it is divided by [pixels], what is flat [gray levels]
_RINGS, _ANGLES, _REACH = 16, 48, 0.45        # circles, places on each, radius of the outermost [sides]
_WAVES, _TURNS = np.arange(1, 16), 128        # frequencies along a ring, and angles that are compared
# What may be cut off left, at the top, right and at the bottom [sides]: at one or two sides, or the same at all; first nothing.
_CUTS = [cut for cut in product((0.0, 0.05, 0.1, 0.15), repeat=4) if np.count_nonzero(cut) <= 2 or len(set(cut)) == 1]
_CANDIDATE = 0.42                             # correlation of magnitudes from which a pair is looked at closely
_PRIOR, _TOGETHER = 16, 512                   # pictures that noise counts for in their mean; pictures compared at once

_Reals = NDArray[np.float32]
_Rings = NDArray[np.complex64]


def picture(image: Pixels) -> Pixels:
    """What is compared of an image `[H, W, 3]` uint8: gray levels `[64, 64]` uint8 of the whole frame."""
    gray = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    return np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def registered_pairs(pictures: Pixels, bound: float, first: int | None = None) -> NDArray[np.intp]:
    """Pairs of which one shows the other, turned by any angle, mirrored, or with up to about 15 % cut off at a side or two.

    Args:
        pictures: `[N, 64, 64]` uint8, as `picture` gives them.
        bound: correlation of fine structure, 0.5 to 1, above which two show the same.
        first: pairs within so many first ones, and within the others, aren't looked for; None: all are.

    Returns:
        `[P, 2]` indices, the smaller first, sorted. Blank pictures are in none.
    """
    n, pairs = len(pictures), [np.empty((0, 2), np.intp)]
    blocks = [(0, n, 0, n)] if first is None else [(0, first, first, n), (first, n, 0, first)]
    structure = _structure(pictures)
    plain = _rings(structure, _CUTS[0])
    mean = (_PRIOR * _of_noise() + _magnitudes(plain).sum(axis=0)) / (_PRIOR + n)
    known = _magnitudes(plain, mean)
    for cut in _CUTS:
        left = _rings(structure, cut)
        seen = _magnitudes(left, mean)
        for top, bottom, start, stop in blocks:
            for row in range(top, bottom, _TOGETHER):
                alike = seen[row:min(row + _TOGETHER, bottom)] @ known[start:stop].T
                near = np.argwhere(alike > _CANDIDATE) + np.array([row, start])
                near = near[near[:, 0] != near[:, 1]]
                pairs.append(near[_agreement(left[near[:, 0]], plain[near[:, 1]]) > bound])
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _structure(pictures: Pixels) -> _Reals:
    """`[64 * 64, N]` fine structure, as strong everywhere: no edge, alike in many pictures, must outweigh what else is there."""
    def blur(values: _Reals, sigma: float) -> _Reals:
        return np.asarray(gaussian_filter(values, (0, sigma, sigma)), np.float32)

    levels = pictures.astype(np.float32)
    fine = blur(levels, _BAND[0]) - blur(levels, _BAND[1])
    fine /= np.sqrt(blur(fine**2, _AROUND)) + np.float32(_FLAT)
    return np.ascontiguousarray(fine.reshape(len(fine), -1).T)


def _rings(structure: _Reals, cut: tuple[float, ...]) -> _Rings:
    """`[N, rings, waves]` of what a crop would leave, resized to the whole; of norm 1, each wave counted with its negative."""
    radii = ((np.arange(_RINGS) + 0.5) / _RINGS * _REACH)[:, None]
    turns, (left, top, right, bottom) = np.arange(_ANGLES) * (2 * np.pi / _ANGLES), cut
    x = ((left + (1 - left - right) * (0.5 + radii * np.cos(turns))) * _SIDE - 0.5).ravel()
    y = ((top + (1 - top - bottom) * (0.5 + radii * np.sin(turns))) * _SIDE - 0.5).ravel()
    cells = [(np.floor(y).astype(int) + down, np.floor(x).astype(int) + across) for down in (0, 1) for across in (0, 1)]
    weights = np.stack([(1 - abs(y - row)) * (1 - abs(x - column)) for row, column in cells], axis=1).astype(np.float32)
    places = np.stack([row * _SIDE + column for row, column in cells], axis=1)
    bilinear = csr_array((weights.ravel(), places.ravel(), np.arange(len(x) + 1) * len(cells)), shape=(len(x), _SIDE**2))
    seen = (bilinear @ structure).T.reshape(-1, _RINGS, _ANGLES)
    rings = rfft(seen, axis=2)[:, :, _WAVES] * np.sqrt(radii * _WAVES).astype(np.float32)
    return np.asarray(rings / (np.sqrt(2 * (np.abs(rings)**2).sum(axis=(1, 2), keepdims=True)) + 1e-6), np.complex64)


def _magnitudes(rings: _Rings, mean: _Reals | None = None) -> _Reals:
    """`[N, rings * waves]` of norm 1: roots of the magnitudes, less what is common to all."""
    values = np.sqrt(np.abs(rings)).reshape(len(rings), -1)
    values /= np.linalg.norm(values, axis=1, keepdims=True) + np.float32(1e-6)
    if mean is None:
        return values
    rest = values - mean
    return np.asarray(rest / np.linalg.norm(rest, axis=1, keepdims=True), np.float32)


@lru_cache(1)
def _of_noise() -> _Reals:
    """The mean of magnitudes where hardly a picture is there to tell it."""
    noise = np.random.default_rng(0).integers(0, 256, (256, _SIDE, _SIDE), np.uint8)
    return np.asarray(_magnitudes(_rings(_structure(noise), _CUTS[0])).mean(axis=0))


def _agreement(some: _Rings, others: _Rings) -> _Reals:
    """`[P]` greatest correlation of pairs over all angles, as they are and mirrored."""
    both = [np.pad((some * other).sum(axis=1), ((0, 0), (1, 0))) for other in (others.conj(), others)]  # a mirror turns back
    return np.asarray(irfft(np.stack(both), n=_TURNS, axis=2).max(axis=(0, 2)) * _TURNS)
