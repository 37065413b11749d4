"""Frames of a video, recognised where nobody knows the patients: images that follow each other by name and look alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Ours. Of BUSI's images 5 % are more like the next by name than 99 % of pairs far apart, of ISIC-2017's 9 %: a few patients have
# several pictures in a row. Of a video's frames most are. Once it is a video a pair too many costs less than one missed.
_ALIKE, _VIDEO = 0.99, 0.25
_MERGED = {1: 0.95, 2: 0.99, 3: 0.99}  # places apart by name -> quantile of the far pairs' correlations, above which they merge
_FEWEST, _FAR_LAGS = 8, 16             # images below which nothing is said; distances by name at which far pairs are drawn


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Images that follow each other by name.

    Attributes:
        pairs: `[P, 2]` indices of those that belong together, sorted; none unless they are plainly frames of a video.
        alike: pairs of consecutive images that correlate by more than `bound`, as 1 in 100 would by chance.
        compared: pairs of consecutive images.
        bound: that correlation of thumbnails.
    """

    pairs: NDArray[np.intp]
    alike: int = 0
    compared: int = 0
    bound: float = 1.0

    @property
    def video(self) -> bool:
        """Whether most plainly the names count frames."""
        return self.alike >= max(3.0, _VIDEO * self.compared)


def find_neighbours(names: Sequence[str], thumbnails: NDArray[np.float32]) -> Neighbours:
    """Compare images that follow each other by name, numbers counted as such, with pairs that stand far apart.

    Args:
        names: `N` ids.
        thumbnails: `[N, 32, 32]` gray levels.
    """
    n = len(names)
    if n < _FEWEST:
        return Neighbours(np.empty((0, 2), np.intp))
    order = np.array(sorted(range(n), key=lambda i: _natural(names[i])), np.intp)
    flat = standardised(thumbnails[order])
    lags = np.unique(np.linspace(n // 4, n - n // 4 - 1, _FAR_LAGS).astype(int))
    far = np.concatenate([_correlations(flat, int(lag)) for lag in lags])
    near = {lag: _correlations(flat, lag) for lag in _MERGED}
    bound = float(np.quantile(far, _ALIKE))
    made = Neighbours(np.empty((0, 2), np.intp), int((near[1] > bound).sum()), n - 1, bound)
    if not made.video:
        return made
    merged = [np.stack([order[places], order[places + lag]], axis=1) for lag, share in _MERGED.items()
              if (places := np.flatnonzero(near[lag] > np.quantile(far, share))).size]
    return Neighbours(np.unique(np.sort(np.concatenate(merged), axis=1), axis=0), made.alike, made.compared, bound)


def standardised(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows `[N, 1024]` of mean 0 and length 1, whose products are correlations, of `[N, 32, 32]`; of blank ones 0."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def _correlations(flat: NDArray[np.float32], lag: int) -> NDArray[np.float32]:
    """Of each row with that `lag` places on."""
    return np.asarray((flat[:-lag] * flat[lag:]).sum(axis=1), np.float32)


def _natural(name: str) -> list[str | int]:
    """So that `frame 9` stands before `frame 10`: text and numbers take turns."""
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"(\d+)", name))]
