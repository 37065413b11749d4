"""Mask corrosion: accepted masks are eroded as far as painted lesions end deeper inside their mask than real ones do.

How far is measured: real annotations too don't lie where an image changes most steeply, so that the painted lesions are held
against the real ones. Measure, choice, cap and the treatment of the frame are ours; that masks are eroded is the paper's.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from meddiff.cases import Case, Pixels
from meddiff.lesions.shapes import Floats
from meddiff.params import FilterParams

GREATEST_SHARE = 0.5     # of a lesion's inscribed radius that may be eroded
BINS = 40                # of the profile, from one radius outside the border to one inside
_CORE = 0.35             # beyond this distance from the border [radii] a lesion is surely lesion, or background
_SOUGHT = 0.65           # the steepest change is sought within this distance [radii]
_SMOOTH = 1.5            # deviation of the Gaussian that smooths a profile before its slope is taken [bins]
_LEAST_RADIUS = 3.0      # smaller lesions have no profile [pixels]
_LEAST_LESIONS = 8       # with fewer on either side nothing is measured
_RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Corrosion:
    """How far painted lesions end inside their masks; distances are in inscribed radii of the lesion, positive inside the mask.

    Attributes:
        share: erosion that moves the painted lesions' steepest change to where the real ones have it, in [0, `GREATEST_SHARE`].
        wanted: the same before it is bounded (negative: the masks are too tight already); NaN where nothing was measured.
        low, high: 95 % bootstrap interval of `wanted` over lesions, real and painted.
        real, painted: distance of the steepest change, NaN where nothing was measured.
        n_real, n_painted: lesions measured.
        profiles: one row a distance: distance, real, painted [gray levels from background towards lesion].
    """

    share: float
    wanted: float
    low: float
    high: float
    real: float
    painted: float
    n_real: int
    n_painted: int
    profiles: pd.DataFrame

    def numbers(self) -> dict[str, float]:
        """Everything but the profiles, undefined values left out."""
        values = {name: float(getattr(self, name)) for name in self.__dataclass_fields__ if name != "profiles"}
        return {name: value for name, value in values.items() if not math.isnan(value)}


def corrode(mask: Pixels, radius: float = 0.0, share: float = 0.0) -> Pixels:
    """Erode a mask by a disc of `radius` + `share` times the lesion's inscribed radius.

    A pixel stays where its Euclidean distance to the nearest background pixel exceeds that + 1/2: the boundary runs half a pixel
    before that pixel's centre, so that a straight edge retreats by the radius rounded, and 0 changes nothing. Each connected
    part of a class retreats by at most `GREATEST_SHARE` of its inscribed radius, so that none vanishes. The frame is no boundary,
    a lesion that it cuts goes on beyond; nor is the border between two classes. So the inscribed radius is a part's greatest
    distance to the background, whatever class lies between, and classes that touch retreat together.

    Args:
        mask: `[H, W]` uint8, 0 = background, 1..K = class.
        radius: erosion, sub-pixel values allowed [pixels].
        share: erosion that grows with the lesion [inscribed radii].

    Returns:
        `[H, W]` uint8, `mask` or 0; a mask that fills the frame or is empty stays as it is.
    """
    if mask.all() or not mask.any():
        return mask.copy()
    distance = ndimage.distance_transform_edt(mask)
    parts, radii = _lesions(mask, distance)
    retreat = np.minimum(radius + share * radii, GREATEST_SHARE * radii)[parts]
    kept: Pixels = np.where(distance > retreat + 0.5, mask, 0).astype(np.uint8)
    return kept


def corrode_samples(cases: Iterable[Case], samples: Callable[[str], Iterable[tuple[Pixels, Pixels]]],
                    keep: Callable[[int, Pixels], None], params: FilterParams) -> Corrosion:
    """Measure how far samples are to be corroded, and corrode them by that, or by `params.corrosion_radius`.

    Args:
        cases: annotated.
        samples: starts a pass over the images and masks of the samples; gets what it is for, in words.
        keep: gets the number of each sample and its corroded mask `[H, W]`.

    Returns:
        What was measured; the profiles have a column `corroded` too, of the corroded samples.
    """
    real = border_profiles((case.image, case.mask) for case in cases if case.mask is not None)
    corrosion, radius = choose_corrosion(real, border_profiles(samples("border profiles")), params.seed), params.corrosion_radius

    def corroded() -> Iterator[tuple[Pixels, Pixels]]:
        for number, (image, mask) in enumerate(samples("corrosion")):
            kept = corrode(mask, share=corrosion.share) if radius == "auto" else corrode(mask, radius * len(mask) / 128)
            keep(number, kept)
            yield image, kept

    return replace(corrosion, profiles=corrosion.profiles.assign(corroded=mean_profile(border_profiles(corroded()))))


def choose_corrosion(real: Floats, painted: Floats, seed: int = 0) -> Corrosion:
    """The erosion after which painted lesions change most steeply where real ones do, measured from their masks' borders.

    With e the distance of the steepest change of the mean profile, in inscribed radii inside the border: eroding by a share s
    moves the border by s and leaves the radius 1 - s, so that e_painted becomes (e_painted - s) / (1 - s). Set equal to e_real:

        s = (e_painted - e_real) / (1 - e_real)

    Args:
        real, painted: `[L, BINS]`, see `border_profiles`.
        seed: of the bootstrap.
    """
    rng, lines = np.random.default_rng(seed), [mean_profile(real), mean_profile(painted)]
    profiles = pd.DataFrame({"distance": _middles(), "real": lines[0], "painted": lines[1]})
    counts = (len(real), len(painted))
    if min(counts) < _LEAST_LESIONS:
        return Corrosion(0.0, math.nan, math.nan, math.nan, math.nan, math.nan, *counts, profiles)
    e_real, e_painted = map(steepest, lines)
    wanted = _share(e_real, e_painted)
    drawn = [_share(*(steepest(mean_profile(part[rng.integers(0, len(part), len(part))])) for part in (real, painted)))
             for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Corrosion(float(np.clip(wanted, 0, GREATEST_SHARE)), wanted, float(low), float(high), e_real, e_painted,
                     *counts, profiles)


def border_profiles(pairs: Iterable[tuple[Pixels, Pixels]]) -> Floats:
    """How each lesion changes from its background to its core, `[L, BINS]` [gray levels].

    A profile is the mean colour at each signed distance to the mask's border (-1 to 1 inscribed radii, positive inside), along
    the unit vector of RGB from the mean of the ring outside to that of the core (both beyond `_CORE`): a lesion may be darker,
    brighter or of another colour. Where profiles are averaged, a lesion weighs as much as it stands out.

    Args:
        pairs: images `[H, W, 3]` uint8 RGB with their masks `[H, W]` uint8, 0 = background; each connected part of a class whose
            inscribed radius is `_LEAST_RADIUS` or more gives a row.
    """
    rows = [row for image, mask in pairs for row in _profiles(image, mask)]
    return np.stack(rows) if rows else np.empty((0, BINS))


def steepest(profile: Floats) -> float:
    """Distance [inscribed radii] within `_SOUGHT` at which a profile `[BINS]` rises most steeply; between bins by a parabola."""
    at, slope = _middles(), np.gradient(ndimage.gaussian_filter1d(profile, _SMOOTH, mode="nearest"))
    sought = np.flatnonzero(np.abs(at) < _SOUGHT)
    top = sought[np.argmax(slope[sought])]
    before, peak, after = slope[top - 1:top + 2]
    bend = before - 2 * peak + after
    return float(at[top] + (np.clip((before - after) / (2 * bend), -0.5, 0.5) if bend < 0 else 0.0) * (at[1] - at[0]))


def _share(real: float, painted: float) -> float:
    return (painted - real) / (1 - real)


def mean_profile(profiles: Floats) -> Floats:
    """Mean `[BINS]` of `[L, BINS]`; NaN without any lesion."""
    mean: Floats = profiles.mean(axis=0) if len(profiles) else np.full(BINS, np.nan)
    return mean


def _middles() -> Floats:
    return np.asarray((np.arange(BINS) + 0.5) * 2 / BINS - 1)


def _lesions(mask: Pixels, distance: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The connected parts of each class, numbered from 1 `[H, W]`, and their inscribed radii `[1 + L]` (0 for the background).

    An inscribed radius is the greatest distance to the background, which no other class is.
    """
    parts, n = np.zeros(mask.shape, dtype=np.intp), 0
    for c in np.unique(mask[mask > 0]):
        found, more = ndimage.label(mask == c, np.ones((3, 3)))
        parts[found > 0] = found[found > 0] + n
        n += more
    radii = np.asarray(ndimage.maximum(distance, parts, np.arange(n + 1)), dtype=np.float64) - 0.5
    radii[0] = 0.0
    return parts, radii


def _profiles(image: Pixels, mask: Pixels) -> list[Floats]:
    if mask.all() or not mask.any():
        return []
    inside = ndimage.distance_transform_edt(mask)
    outside, (y, x) = ndimage.distance_transform_edt(mask == 0, return_indices=True)
    parts, radii = _lesions(mask, inside)
    nearest = parts[y, x]
    signed = np.where(mask > 0, inside - 0.5, 0.5 - outside) / np.maximum(radii, _LEAST_RADIUS)[nearest]
    rows = []
    for part in np.flatnonzero(radii >= _LEAST_RADIUS):
        near = (nearest == part) & (np.abs(signed) < 1)
        at, colours = signed[near], image[near].astype(np.float64)
        ring, core = at < -_CORE, at > _CORE
        if not ring.any() or not core.any():
            continue
        start = colours[ring].mean(axis=0)
        towards = colours[core].mean(axis=0) - start
        levels = (colours - start) @ (towards / max(1e-6, float(np.linalg.norm(towards))))
        bins = ((at + 1) * BINS / 2).astype(int)
        count, total = np.bincount(bins, minlength=BINS), np.bincount(bins, levels, BINS)
        filled = np.flatnonzero(count)
        rows.append(np.interp(np.arange(BINS), filled, total[filled] / count[filled]))
    return rows
