"""The demo data: procedural ultrasound-like and dermoscopy-like images whose lesion masks are exactly known.

Ours; they imitate how the images look, not the physics behind them. Lengths are shares of the side, so that a case looks alike at
every size. Lesions are round, lobed or spiculated, sharp or ill-defined, faint to plain, with a core, a rim or dots of their own,
brighter than tissue at times, brown, reddish or bluish. Besides them there are things that only resemble them (cysts, shadows,
moles), and things in front of them (hairs, bubbles, rulers, gains set by hand). With two classes the first looks benign (smooth
outline) and the second malignant (ragged, and taller than wide in ultrasound).
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from meddiff.cases import Case, Pixels
from meddiff.datasets.demo_lesions import ANY, PIGMENTS, Array, Labels, Look, Rng, field, inside, outline, place_lesions
from meddiff.errors import MeddiffError

MODALITIES = {"ultrasound": ("ultrasound",), "dermoscopy": ("dermoscopy",), "mixed": ("ultrasound", "dermoscopy")}
Draw = Callable[[Rng, Rng, int, Labels], tuple[Array, Pixels]]
SHORT = {"ultrasound": "us", "dermoscopy": "derm"}


def make_phantoms(n: int, lesion: bool, size: int, modality: str, seed: int, classes: int = 1, lesions: int = 1) -> list[Case]:
    """Draw `n` cases, in series of two or three of one patient, who share tissue and kind of lesion.

    Args:
        n: how many.
        lesion: with a lesion each, or lesion-free (mask all zero).
        size: side [pixels].
        modality: `ultrasound`, `dermoscopy`, or `mixed`, which alternates by patient.
        seed: a case depends on it and on its own number alone, not on `n`.
        classes: 1, or 2 for a benign-like and a malignant-like one; a patient's first lesion is of one class in every image.
        lesions: greatest number of lesions in an image; all numbers up to it are equally likely. Further ones are smaller, and of
            either class.

    Returns:
        Cases with image `[size, size, 3]` and mask `[size, size]` of 0 to `classes`, ids such as `us_0001` and
        `derm_normal_0001`.

    Raises:
        MeddiffError: more than two classes.
    """
    if classes > 2:
        raise MeddiffError("prepare.classes", f"the demo has lesions of one or two classes, not of {classes}",
                           "Name one or two, such as [benign, malignant]")
    draw: dict[str, Draw] = {"ultrasound": _ultrasound, "dermoscopy": _dermoscopy}
    counts = dict.fromkeys(draw, 0)
    cases = []
    for kind, patient, view in _series(n, MODALITIES[modality], [seed, int(lesion)]):
        counts[kind] += 1
        key = [seed, int(lesion), int(kind == "dermoscopy"), patient]
        labels = _labels([*key, view], classes, lesions, patient // len(MODALITIES[modality])) if lesion else ()
        image, mask = draw[kind](np.random.default_rng(key), np.random.default_rng([*key, view]), size, labels)
        infix = "" if lesion else "normal_"
        cases.append(Case(f"{SHORT[kind]}_{infix}{counts[kind]:04d}", np.clip(np.rint(image), 0, 255).astype(np.uint8),
                          mask, f"{SHORT[kind]}_{infix}patient_{patient:03d}"))
    return cases


def _labels(key: list[int], classes: int, lesions: int, turn: int) -> Labels:
    """Class of each lesion of an image, `ANY` where there is one class. A stream of its own: the first lesion stays as it is."""
    rng = np.random.default_rng([*key, 1])
    further = rng.integers(1, classes + 1, int(rng.integers(0, lesions)))
    return tuple(ANY if classes == 1 else label for label in (turn % classes + 1, *further.tolist()))


def _series(n: int, kinds: tuple[str, ...], key: list[int]) -> Iterator[tuple[str, int, int]]:
    """(modality, patient, view) of `n` cases."""
    patient, made = 0, 0
    while made < n:
        views = int(np.random.default_rng([*key, patient]).integers(2, 4))
        for view in range(1, min(views, n - made) + 1):
            yield kinds[patient % len(kinds)], patient, view
        patient, made = patient + 1, made + views


def _ultrasound(patient: Rng, view: Rng, size: int, labels: Labels) -> tuple[Array, Pixels]:
    """Layered tissue, perhaps with dark lesions, under speckle: gray levels `[S, S, 3]` and mask `[S, S]`."""
    depth = ((np.arange(size) + 0.5) / size)[:, None] * np.ones((1, size))
    echo, mask = _tissue(patient, view, size, depth), np.zeros((size, size), np.uint8)      # log amplitude, natural
    first = Look.in_ultrasound(patient, labels[0] if labels else ANY)
    for _ in range(view.integers(0, 3)):                              # cysts, vessels and dark fat lobules: dark, but no lesions
        kind = outline(view, 0.03, (1.0, 3.5))
        centre = view.uniform(0.15, 0.9), view.uniform(0.05, 0.95)
        away = kind.distance(size, centre, view.uniform(0.02, 0.06), view.normal(0, 0.3))
        echo = echo - view.uniform(0.5, 2.2) * inside(away, 0.012) * (away < 0.08)
    middle = ((0.26, 0.74), (0.18, 0.82))
    for lesion in place_lesions(first, Look.in_ultrasound, view, size, labels, middle, lambda rng: rng.normal(0, 0.3)):
        look, away, rng = lesion.look, lesion.distance, lesion.rng
        within = inside(away, look.margin * np.exp(0.6 * field(rng, size, 3)))                  # partly sharp, partly vague
        inner = 0.25 * field(rng, size, 9) - look.strength - 0.15 + look.dots * (field(rng, size, 22) > 1.9)
        inner = inner - look.core * inside(away + 0.45 * look.radius, 0.3 * look.radius)
        echo = echo * (1 - 0.6 * within) + within * inner + look.rim * np.exp(-((away - 0.012) / 0.02) ** 2)
        shadow = np.cumsum(within, axis=0) / size / (2 * look.radius)
        echo = echo + look.extra * np.clip(shadow, 0, 1) * (1 - within) * (depth > lesion.depth)
        mask[away < 0] = lesion.label
    for _ in range(view.integers(0, 3)):                              # shadows of ribs, of bad contact, of ligaments
        where, width, top = view.uniform(0, 1), view.uniform(0.03, 0.1), view.uniform(0.0, 0.5)
        column = np.exp(-(((np.arange(size) + 0.5) / size - where - 0.1 * (depth - 0.5)) / width) ** 2)
        echo = echo - view.uniform(0.4, 1.6) * column * inside(top - depth, 0.1)
    gain, attenuation, dynamic = patient.uniform(95, 150), patient.uniform(0.0, 1.9), patient.uniform(34, 58)
    echo = echo + view.uniform(0.0, 0.35) * field(view, size, 3, 9.0)                        # the gain of each depth, set by hand
    gray = gain + dynamic * (echo - attenuation * (depth - 0.35) + np.log(_speckle(view, size, depth)))
    return np.repeat(np.clip(gray, 0, 255)[:, :, None], 3, axis=2), mask


def _tissue(patient: Rng, view: Rng, size: int, depth: Array) -> Array:
    """`[S, S]` log echo of skin, fat, gland and muscle, whose borders undulate."""
    levels = np.array([1.2, -0.7, 0.45, -0.35]) + patient.normal(0, 0.3, 4)
    borders = np.cumsum([patient.uniform(0.03, 0.07), patient.uniform(0.12, 0.25), patient.uniform(0.3, 0.45)])
    echo = np.full((size, size), levels[0])
    for i, border in enumerate(borders):
        wave = field(view, size, 4)[size // 2] * (0.008 if i == 0 else 0.035)
        below = inside(border + wave[None, :] - depth, 0.015)
        texture = patient.uniform(0.2, 0.5) * field(view, size, (10, 7, 14)[i], (3.5, 1.8, 5.0)[i])
        strands = np.exp(-(field(view, size, (5, 6, 9)[i], (4.0, 3.0, 7.0)[i]) / 0.14) ** 2)
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


def _dermoscopy(patient: Rng, view: Rng, size: int, labels: Labels) -> tuple[Array, Pixels]:
    """Skin, perhaps with pigmented lesions; RGB levels `[S, S, 3]` and mask `[S, S]`."""
    tone = np.array([226, 178, 152]) * patient.uniform(0.72, 1.05) + patient.normal(0, 9, 3)
    skin = tone * (1 + 0.035 * field(view, size, 3)[:, :, None])
    skin = skin + 7 * patient.uniform(0.3, 1) * field(view, size, 14)[:, :, None] * np.array([0.4, 1.0, 1.0])     # redness
    skin = skin + 4 * field(view, size, 40)[:, :, None]
    density = np.zeros((size, size))
    for _ in range(view.integers(0, 6)):                              # freckles and small moles: pigmented, but no lesions
        mole = outline(view, 0.06, (1.0, 1.5))
        away = mole.distance(size, (view.uniform(0, 1), view.uniform(0, 1)), view.uniform(0.012, 0.045), view.uniform(0, 3))
        density = np.maximum(density, view.uniform(0.25, 0.9) * inside(away, 0.02))
    first, mask = Look.in_dermoscopy(patient, labels[0] if labels else ANY), np.zeros((size, size), np.uint8)
    middle = ((0.3, 0.7), (0.3, 0.7))
    image = skin * np.exp(-density[:, :, None] * PIGMENTS[0])
    for lesion in place_lesions(first, Look.in_dermoscopy, view, size, labels, middle, lambda rng: rng.uniform(0, 2 * np.pi)):
        look, away, rng = lesion.look, lesion.distance, lesion.rng
        inner = 1 + 0.28 * field(rng, size, 6) + 0.35 * np.clip(field(rng, size, 3), -1, 1)                   # variegation
        ridges = np.abs(field(rng, size, 16)) < 0.35                                                            # network
        inner = inner + look.extra * gaussian_filter(ridges.astype(float), size / 160) + look.dots * (field(rng, size, 20) > 1.6)
        inner = inner + look.core * inside(away + 0.4 * look.radius, 0.4 * look.radius)
        within = inside(away, look.margin * np.exp(0.5 * field(rng, size, 3)))                  # partly sharp, partly vague
        density = look.strength * np.clip(inner, 0.2, 2) * within + look.rim * np.exp(-((away + 0.015) / 0.02) ** 2)
        image = image * np.exp(-density[:, :, None] * look.pigment)
        mask[away < 0] = lesion.label
    image = _bubbles(image, view, size)
    image = _hairs(image, patient, view, size)
    return _lens(image, patient, size) + view.normal(0, 2.0, image.shape), mask


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


def _bubbles(image: Array, view: Rng, size: int) -> Array:
    """Bubbles of the gel below the lens in one image of five: bright rings, with a glint."""
    for _ in range(int(view.integers(1, 7)) * (view.uniform() < 0.2)):
        y, x = (np.mgrid[:size, :size] + 0.5) / size - view.uniform(0, 1, (2, 1, 1))
        radius = view.uniform(0.015, 0.06)
        ring, glint = (np.hypot(x, y) - radius) / 0.012, np.hypot(x + radius / 3, y + radius / 3) / 0.01
        image = image + (235 - image) * np.clip(0.5 * (np.exp(-ring**2) + np.exp(-glint**2)), 0, 1)[:, :, None]
    return image


def _lens(image: Array, patient: Rng, size: int) -> Array:
    """Darken towards the corners; some lenses leave them black."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    radius = np.hypot(x, y)[:, :, None]
    shaded = image * (1 - patient.uniform(0.1, 0.55) * radius**2 * 2)
    if patient.uniform() < 0.25:
        shaded = shaded * (0.06 + 0.94 * inside(radius - patient.uniform(0.52, 0.62), 0.03))
    return np.asarray(shaded)
