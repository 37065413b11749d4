"""Filling a hole with the image's own texture.

Ours. The hole is covered by pieces of the same image, shifted, or mirrored and shifted. The pieces are as large as the
surroundings allow, and match what is around them; Poisson blending (Pérez et al. 2003, eq. 8) closes the seams.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.ndimage import binary_dilation, label
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from meddiff.cases import Pixels

Flags = NDArray[np.bool_]
_Array = NDArray[np.float64]

_PLAINNESS = 0.5  # weight of the piece against that of its ring
_MISFIT = 500.0   # mean squared difference, summed over the channels, that is no reason to halve a piece of even surroundings
_SMALLEST = 8     # pieces smaller than this are not halved [pixels of the search]
_SEARCH_SIDE = 128  # pieces are searched for on at most this many pixels a side; shifts of whole pixels there serve at any size


@dataclass(frozen=True)
class _Sources:
    """For each pixel the place `[S, S]` (row, column) its content is taken from, and the column step +1 or −1 (mirrored)."""

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    step: NDArray[np.intp]


def fill_with_texture(image: Pixels, hole: Flags, frame: Flags) -> Pixels | None:
    """Fill a hole with texture from elsewhere in the image.

    Args:
        image: `[S, S, 3]` uint8, S a multiple of 16.
        hole: `[S, S]` bool, within the frame.
        frame: `[S, S]` bool, true where the image shows something (false on the bars of `pad`).

    Returns:
        `[S, S, 3]` uint8, equal to `image` outside the hole; None where no place outside the hole fits.
    """
    size = len(image)
    if not hole.any():
        return image.copy()
    factor = 1
    while size // factor > _SEARCH_SIDE:
        factor *= 2
    coarse = image.reshape(size // factor, factor, size // factor, factor, 3).mean(axis=(1, 3))
    search = _Search(coarse, _any_block(hole, factor), ~_any_block(~frame, factor))
    if not all(search.cover(piece) for piece in components(search.hole)):
        return None
    return _blend(image, image, hole, frame, search.sources(factor))


def clone(image: Pixels, content: Pixels, hole: Flags, frame: Flags) -> Pixels:
    """Put `content` into the hole of an image without a seam: its gradients, with the image's values around the hole.

    Args:
        image, content: `[S, S, 3]` uint8; the content reaches a pixel beyond the hole, so that the step across the
            edge is its own.
        hole, frame: `[S, S]` bool, as for `fill_with_texture`.
    """
    row, column = (np.asarray(plane, dtype=np.intp) for plane in np.indices(hole.shape))
    return _blend(image, content, hole, frame, _Sources(row, column, np.ones_like(row)))


def widened(flags: Flags, radius: int) -> Flags:
    y, x = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    return np.asarray(binary_dilation(flags, y**2 + x**2 <= radius**2))


def _any_block(flags: Flags, factor: int) -> Flags:
    side = len(flags) // factor
    return np.asarray(flags.reshape(side, factor, side, factor).any(axis=(1, 3)))


def components(flags: Flags) -> Iterator[Flags]:
    labels, count = label(flags)
    for number in range(1, count + 1):
        yield labels == number


class _Search:
    """The shifts that cover the hole, found piece by piece on the coarse image."""

    def __init__(self, image: _Array, hole: Flags, frame: Flags) -> None:
        self.image, self.hole, self.frame = image, hole, frame
        self.side = len(image)
        self.filled = np.where(hole[:, :, None], 0.0, image)
        self.known = frame & ~hole
        self.shift = np.zeros((3, self.side, self.side), dtype=np.intp)   # rows, columns, mirrored
        usable = frame & ~hole
        self.mirrors = [(mirrored, pixels, self._spectra(pixels, flags)) for mirrored, pixels, flags in
                        ((0, image, usable), (1, image[:, ::-1], usable[:, ::-1]))]

    def cover(self, piece: Flags) -> bool:
        """Cover `piece` by one shift, or by halves of it where none fits well; false where none fits at all."""
        rows, columns = np.nonzero(piece)
        spans = np.ptp(rows) + 1, np.ptp(columns) + 1
        if self._cover_whole(piece, small := bool(max(spans) < _SMALLEST)):
            return True
        if small:
            return False
        axis, places = (0, rows) if spans[0] >= spans[1] else (1, columns)
        first = piece & (np.arange(self.side) < np.median(places)).reshape((-1, 1) if axis == 0 else (1, -1))
        return all(self.cover(half) for half in (first, piece & ~first) if half.any())

    def sources(self, factor: int) -> _Sources:
        """The places to take from, at full size."""
        rows, columns, mirrored = (np.kron(plane, np.ones((factor, factor), dtype=np.intp)) for plane in self.shift)
        size = self.side * factor
        y, x = np.mgrid[:size, :size]
        source = x + columns * factor
        return _Sources(y + rows * factor, np.where(mirrored == 1, size - 1 - source, source), 1 - 2 * mirrored)

    def _cover_whole(self, piece: Flags, at_any_cost: bool) -> bool:
        ring = widened(piece, 3) & ~piece & self.known
        spread = self.filled[ring].var(axis=0).sum() if ring.any() else 0.0
        best, cost = None, np.inf if at_any_cost else _MISFIT + 2 * spread
        for mirrored, pixels, spectra in self.mirrors:
            costs = self._costs(piece, ring, spectra)
            place = np.unravel_index(int(np.argmin(costs)), costs.shape)
            if costs[place] < cost:
                best, cost = (int(place[0]), int(place[1]), mirrored, pixels), float(costs[place])
        if best is None:
            return False
        rows, columns, mirrored, pixels = best
        rows, columns = (s - 2 * self.side if s >= self.side else s for s in (rows, columns))
        y, x = np.nonzero(piece)
        self.filled[y, x] = pixels[y + rows, x + columns]
        self.known = self.known | piece
        self.shift[:, y, x] = np.array([[rows], [columns], [mirrored]])
        return True

    def _spectra(self, pixels: _Array, usable: Flags) -> tuple[NDArray[np.complex128], ...]:
        planes = [~usable, *np.moveaxis(pixels, 2, 0), (pixels**2).sum(axis=2)]
        # Beyond the image nothing is usable: the padding of the first plane is 1.
        blocked = np.pad(planes[0].astype(np.float64), (0, self.side), constant_values=1.0)
        return (rfft2(blocked), *(rfft2(plane, (2 * self.side, 2 * self.side)) for plane in planes[1:]))

    def _costs(self, piece: Flags, ring: Flags, spectra: tuple[NDArray[np.complex128], ...]) -> _Array:
        """`[2S, 2S]` mean squared difference from what is wanted, for each cyclic shift; infinite where a source isn't usable."""
        shape = (2 * self.side, 2 * self.side)
        blocked, red, green, blue, squares = spectra
        asked = np.conj(rfft2((piece | ring).astype(np.float64), shape))
        unusable = irfft2(blocked * asked, shape) > 0.5
        around = ring.astype(np.float64)
        # Wanted over the ring are its own colours, over the piece the ring's mean colour with a smaller weight: else a piece with
        # a colour patch or a ruler in its middle is as good as any.
        count = max(1.0, around.sum())
        weight = around / count + _PLAINNESS * piece / piece.sum()
        mean = (self.filled * around[:, :, None]).sum(axis=(0, 1)) / count
        wanted = np.where(piece[:, :, None], mean, self.filled)
        cross = sum(channel * np.conj(rfft2(weight * wanted[:, :, i], shape)) for i, channel in enumerate((red, green, blue)))
        costs = irfft2(squares * np.conj(rfft2(weight, shape)) - 2 * cross, shape) + (weight[:, :, None] * wanted**2).sum()
        return np.where(unusable, np.inf, costs)


def _blend(image: Pixels, content: Pixels, hole: Flags, frame: Flags, sources: _Sources) -> Pixels:
    """Solve Poisson's equation in the hole for the gradients of the pieces of `content`, with the image's values at its border.

    Between two pieces the gradient is the mean of both pieces' gradients. At the end of the frame nothing is asked (Neumann).
    """
    size, result, levels = len(image), image.astype(np.float64), content.astype(np.float64)
    number = np.full((size, size), -1)
    y, x = np.nonzero(hole)
    number[y, x] = np.arange(len(y))
    rows, columns, values = [], [], []
    diagonal, right = np.zeros(len(y)), np.zeros((len(y), 3))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        ny, nx = y + dy, x + dx
        there = (ny >= 0) & (ny < size) & (nx >= 0) & (nx < size)
        there[there] = frame[ny[there], nx[there]]
        py, px, qy, qx, me = y[there], x[there], ny[there], nx[there], np.flatnonzero(there)
        inside = number[qy, qx] >= 0
        gradient = _step(levels, sources, py, px, dy, dx)
        back = -_step(levels, sources, qy[inside], qx[inside], -dy, -dx)
        gradient[inside] = (gradient[inside] + back) / 2
        diagonal[me] += 1
        right[me] -= gradient
        right[me[~inside]] += image[qy[~inside], qx[~inside]]
        rows.append(me[inside])
        columns.append(number[qy[inside], qx[inside]])
        values.append(np.full(int(inside.sum()), -1.0))
    everyone = np.arange(len(y))
    matrix = coo_array((np.concatenate([*values, diagonal]),
                        (np.concatenate([*rows, everyone]), np.concatenate([*columns, everyone]))), shape=(len(y), len(y)))
    result[y, x] = splu(matrix.tocsc()).solve(right)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _step(image: _Array, sources: _Sources, y: NDArray[np.intp], x: NDArray[np.intp], dy: int, dx: int) -> _Array:
    """`[N, 3]` change from (y, x) to (y + dy, x + dx) in the piece that covers (y, x)."""
    size = len(image)
    row, column = sources.row[y, x], sources.column[y, x]
    next_row = np.clip(row + dy, 0, size - 1)
    next_column = np.clip(column + dx * sources.step[y, x], 0, size - 1)
    return np.asarray(image[next_row, next_column] - image[row, column])
