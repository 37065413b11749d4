"""The demo data: procedural ultrasound-like and dermoscopy-like images whose lesion masks are exactly known.

Ours; they imitate how the images look, not the physics behind them. Lengths are shares of the side, so that a case looks alike at
every size. Besides lesions there are things that only resemble them (cysts, shadows, moles, hairs, rulers), and faint lesions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from meddiff.cases import Case

Array = NDArray[np.float64]
Rng = np.random.Generator

MODALITIES = {"ultrasound": ("ultrasound",), "dermoscopy": ("dermoscopy",), "mixed": ("ultrasound", "dermoscopy")}
SHORT = {"ultrasound": "us", "dermoscopy": "derm"}


def make_phantoms(n: int, lesion: bool, size: int, modality: str, seed: int) -> list[Case]:
    """Draw `n` cases, in series of two or three of one patient, who share tissue and kind of lesion.

    Args:
        n: how many.
        lesion: with one lesion each, or lesion-free (mask all zero).
        size: side [pixels].
        modality: `ultrasound`, `dermoscopy`, or `mixed`, which alternates by patient.
        seed: a case depends on it and on its own number alone, not on `n`.

    Returns:
        Cases with image `[size, size, 3]` and mask `[size, size]`, ids such as `us_0001` and `derm_normal_0001`.
    """
    draw: dict[str, Callable[[Rng, Rng, int, bool], tuple[Array, Array]]] = {"ultrasound": _ultrasound, "dermoscopy": _dermoscopy}
    counts = dict.fromkeys(draw, 0)
    cases = []
    for kind, patient, view in _series(n, MODALITIES[modality], [seed, int(lesion)]):
        counts[kind] += 1
        key = [seed, int(lesion), int(kind == "dermoscopy"), patient]
        image, distance = draw[kind](np.random.default_rng(key), np.random.default_rng([*key, view]), size, lesion)
        infix = "" if lesion else "normal_"
        cases.append(Case(f"{SHORT[kind]}_{infix}{counts[kind]:04d}", np.clip(np.rint(image), 0, 255).astype(np.uint8),
                          (distance < 0).astype(np.uint8), f"{SHORT[kind]}_{infix}patient_{patient:03d}"))
    return cases


def _series(n: int, kinds: tuple[str, ...], key: list[int]) -> Iterator[tuple[str, int, int]]:
    """(modality, patient, view) of `n` cases."""
    patient, made = 0, 0
    while made < n:
        views = int(np.random.default_rng([*key, patient]).integers(2, 4))
        for view in range(1, min(views, n - made) + 1):
            yield kinds[patient % len(kinds)], patient, view
        patient, made = patient + 1, made + views


def _field(rng: Rng, size: int, cells: float, stretch: float = 1.0) -> Array:
    """`[size, size]` smooth noise of mean 0 and deviation 1, `cells` bumps high; bumps are `stretch` times as wide."""
    grid = rng.standard_normal((int(np.ceil(cells)) + 3, int(np.ceil(cells / stretch)) + 3))
    field = zoom(grid, (size / (grid.shape[0] - 2), size / (grid.shape[1] - 2)), order=3, mode="reflect")[:size, :size]
    field = np.pad(field, ((0, size - field.shape[0]), (0, size - field.shape[1])), mode="edge")
    return np.asarray((field - field.mean()) / (field.std() + 1e-9))


@dataclass(frozen=True)
class _Shape:
    """A closed contour as Fourier series: relative radius at angle t is 1 + Σ a_k cos(k t + p_k)."""

    amplitudes: Array
    phases: Array
    aspect: float

    def distance(self, size: int, centre: tuple[float, float], radius: float, angle: float) -> Array:
        """`[size, size]` distance to the contour, about, in shares of the side; negative inside."""
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        dy, dx = y - centre[0], x - centre[1]
        across, along = dy * np.cos(angle) - dx * np.sin(angle), dy * np.sin(angle) + dx * np.cos(angle)
        across, along = across * np.sqrt(self.aspect), along / np.sqrt(self.aspect)
        theta = np.arctan2(across, along)
        orders = np.arange(1, len(self.amplitudes) + 1)
        waves = np.cos(orders[:, None, None] * theta + self.phases[:, None, None])
        contour = 1 + (self.amplitudes[:, None, None] * waves).sum(axis=0)
        return np.asarray(np.hypot(across, along) - radius * contour)


def _shape(rng: Rng, irregularity: float, aspect: tuple[float, float]) -> _Shape:
    orders = np.arange(1, 9)
    return _Shape(irregularity * rng.standard_normal(8) / orders**0.9, rng.uniform(0, 2 * np.pi, 8), rng.uniform(*aspect))


def _inside(distance: Array, margin: float) -> Array:
    """1 inside and 0 outside of a contour, with a soft step of about `margin` [shares of the side]."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / (0.35 * margin + 1e-4), -60, 60))))


def _nowhere(size: int) -> Array:
    return np.ones((size, size))


def _ultrasound(patient: Rng, view: Rng, size: int, lesion: bool) -> tuple[Array, Array]:
    """Layered tissue, perhaps with a dark lesion, under speckle: gray levels `[S, S, 3]`, distance to the lesion `[S, S]`."""
    depth = ((np.arange(size) + 0.5) / size)[:, None] * np.ones((1, size))
    echo = _tissue(patient, view, size, depth)                        # log amplitude, natural
    irregularity = patient.uniform(0.02, 0.2)
    shape, contrast = _shape(patient, irregularity, (1.1, 1.9)), patient.uniform(0.8, 2.2)
    margin, behind, radius = patient.uniform(0.01, 0.07), patient.normal(0.0, 0.5), patient.uniform(0.08, 0.2)
    for _ in range(view.integers(0, 3)):                              # cysts, vessels and dark fat lobules: dark, but no lesions
        kind = _shape(view, 0.03, (1.0, 3.5))
        centre = view.uniform(0.15, 0.9), view.uniform(0.05, 0.95)
        away = kind.distance(size, centre, view.uniform(0.02, 0.06), view.normal(0, 0.3))
        echo = echo - view.uniform(0.5, 2.2) * _inside(away, 0.012) * (away < 0.08)
    distance = _nowhere(size)
    if lesion:
        centre = view.uniform(0.3, 0.7), view.uniform(0.25, 0.75)
        distance = shape.distance(size, centre, radius * view.uniform(0.85, 1.15), view.normal(0, 0.25))
        within = _inside(distance, margin)
        echo = echo * (1 - 0.6 * within) + within * (-contrast + 0.22 * _field(view, size, 9) - 0.15)
        shadow = np.cumsum(within, axis=0) / size / (2 * radius)
        echo = echo + behind * np.clip(shadow, 0, 1) * (1 - within) * (depth > centre[0])
    for _ in range(view.integers(0, 3)):                              # shadows of ribs, of bad contact, of ligaments
        where, width, top = view.uniform(0, 1), view.uniform(0.03, 0.1), view.uniform(0.0, 0.5)
        column = np.exp(-(((np.arange(size) + 0.5) / size - where - 0.1 * (depth - 0.5)) / width) ** 2)
        echo = echo - view.uniform(0.4, 1.6) * column * _inside(top - depth, 0.1)
    gain, attenuation, dynamic = patient.uniform(108, 145), patient.uniform(0.2, 1.7), patient.uniform(40, 56)
    gray = gain + dynamic * (echo - attenuation * (depth - 0.35) + np.log(_speckle(view, size, depth)))
    return np.repeat(np.clip(gray, 0, 255)[:, :, None], 3, axis=2), distance


def _tissue(patient: Rng, view: Rng, size: int, depth: Array) -> Array:
    """`[S, S]` log echo of skin, fat, gland and muscle, whose borders undulate."""
    levels = np.array([1.2, -0.7, 0.45, -0.35]) + patient.normal(0, 0.3, 4)
    borders = np.cumsum([patient.uniform(0.03, 0.07), patient.uniform(0.12, 0.25), patient.uniform(0.3, 0.45)])
    echo = np.full((size, size), levels[0])
    for i, border in enumerate(borders):
        wave = _field(view, size, 4)[size // 2] * (0.008 if i == 0 else 0.035)
        below = _inside(border + wave[None, :] - depth, 0.015)
        texture = patient.uniform(0.2, 0.5) * _field(view, size, (10, 7, 14)[i], (3.5, 1.8, 5.0)[i])
        strands = np.exp(-(_field(view, size, (5, 6, 9)[i], (4.0, 3.0, 7.0)[i]) / 0.14) ** 2)
        echo = echo * (1 - below) + below * (levels[i + 1] + texture + patient.uniform(0.1, 1.0) * strands)
        echo = echo + patient.uniform(0.0, 0.7) * np.exp(-((depth - border - wave[None, :]) / 0.012) ** 2)   # bright fascia
    return echo


def _speckle(rng: Rng, size: int, depth: Array) -> Array:
    """`[S, S]` Rayleigh-distributed amplitude of mean square 1; grains are wider than high, and widen with depth."""
    def grains(width: float) -> Array:
        scale = size / 64
        waves = [gaussian_filter(rng.standard_normal((size, size)), (0.5 * scale, width * scale), mode="wrap") for _ in range(2)]
        power = waves[0] ** 2 + waves[1] ** 2
        return np.asarray(power / power.mean())

    near, far = grains(0.7), grains(1.4)
    return np.asarray(np.sqrt(near * (1 - depth) + far * depth) * 0.92 + 0.08)


def _dermoscopy(patient: Rng, view: Rng, size: int, lesion: bool) -> tuple[Array, Array]:
    """Skin, perhaps with a pigmented lesion; RGB levels `[S, S, 3]` and distance to the lesion `[S, S]`."""
    tone = np.array([226, 178, 152]) * patient.uniform(0.72, 1.05) + patient.normal(0, 9, 3)
    skin = tone * (1 + 0.035 * _field(view, size, 3)[:, :, None])
    skin = skin + 7 * patient.uniform(0.3, 1) * _field(view, size, 14)[:, :, None] * np.array([0.4, 1.0, 1.0])     # redness
    skin = skin + 4 * _field(view, size, 40)[:, :, None]
    pigment = np.array([0.36, 0.6, 0.72]) + patient.normal(0, 0.04, 3)                                           # absorption
    density = np.zeros((size, size))
    for _ in range(view.integers(0, 6)):                              # freckles and small moles: pigmented, but no lesions
        mole = _shape(view, 0.06, (1.0, 1.5))
        away = mole.distance(size, (view.uniform(0, 1), view.uniform(0, 1)), view.uniform(0.012, 0.045), view.uniform(0, 3))
        density = np.maximum(density, view.uniform(0.25, 0.9) * _inside(away, 0.02))
    shape, strength = _shape(patient, patient.uniform(0.04, 0.2), (1.0, 1.5)), patient.uniform(0.35, 1.35)
    margin, radius, network = patient.uniform(0.015, 0.09), patient.uniform(0.11, 0.26), patient.uniform(0.0, 0.35)
    distance = _nowhere(size)
    if lesion:
        centre = view.uniform(0.36, 0.64), view.uniform(0.36, 0.64)
        distance = shape.distance(size, centre, radius * view.uniform(0.85, 1.15), view.uniform(0, 2 * np.pi))
        inner = 1 + 0.28 * _field(view, size, 6) + 0.35 * np.clip(_field(view, size, 3), -1, 1)                 # variegation
        ridges = np.abs(_field(view, size, 16)) < 0.35                                                           # network
        dots = _field(view, size, 22) > 1.7
        inner = inner + network * gaussian_filter(ridges.astype(float), size / 160) + 0.7 * network * dots
        density = np.maximum(density, strength * np.clip(inner, 0.25, 2) * _inside(distance, margin))
    image = skin * np.exp(-density[:, :, None] * pigment)
    image = _hairs(image, patient, view, size)
    return _lens(image, patient, size) + view.normal(0, 2.0, image.shape), distance


def _hairs(image: Array, patient: Rng, view: Rng, size: int) -> Array:
    """Draw hairs as dark bent lines, and sometimes a ruler, antialiased."""
    sharp = 4
    layer = Image.new("L", (size * sharp, size * sharp))
    pen = ImageDraw.Draw(layer)
    direction, dark = patient.uniform(0, np.pi), patient.uniform(0.35, 0.85)
    for _ in range(int(patient.choice([0, 0, 4, 10, 18]) * view.uniform(0.5, 1.2))):
        start, angle = view.uniform(-0.1, 1.1, 2), direction + view.normal(0, 0.5)
        t = np.linspace(0, view.uniform(0.25, 0.9), 24)
        bend = view.normal(0, 0.9) * t**2
        line = start + t[:, None] * [np.cos(angle), np.sin(angle)] + bend[:, None] * [-np.sin(angle), np.cos(angle)]
        thickness = max(1, round(view.uniform(0.005, 0.011) * size * sharp))
        pen.line([(float(x), float(y)) for x, y in line * size * sharp], fill=255, width=thickness)
    if patient.uniform() < 0.2:
        for i in range(30):
            long = 0.06 if i % 5 == 0 else 0.03
            x, y = i / 30 * size * sharp, 0.96 * size * sharp
            pen.line([(x, y), (x, y - long * size * sharp)], fill=220, width=max(1, round(0.006 * size * sharp)))
    cover = np.asarray(layer.resize((size, size), Image.Resampling.BOX), dtype=np.float64)[:, :, None] / 255
    return np.asarray(image * (1 - dark * cover) + dark * cover * np.array([48, 36, 32]))


def _lens(image: Array, patient: Rng, size: int) -> Array:
    """Darken towards the corners; some lenses leave them black."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    radius = np.hypot(x, y)[:, :, None]
    shaded = image * (1 - patient.uniform(0.1, 0.55) * radius**2 * 2)
    if patient.uniform() < 0.25:
        shaded = shaded * (0.06 + 0.94 * _inside(radius - patient.uniform(0.52, 0.62), 0.03))
    return np.asarray(shaded)
