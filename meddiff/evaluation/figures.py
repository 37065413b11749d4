"""The pictures of the report, drawn with matplotlib's object interface."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from meddiff.cases import CLASS_COLOURS, Case, Pixels
from meddiff.evaluation.arms import look_of
from meddiff.evaluation.bootstrap import Interval
from meddiff.pages import signed
from meddiff.params.arms import BASELINE, TREATED

_TRUTH, _PREDICTION = "#35d07f", "#ff4d4d"          # outlines on images: green as in the brief of radiology viewers, red
_BETTER, _WORSE, _INK, _PALE = "#0b7285", "#e8590c", "#1f2933", "#9aa5b1"  # blue-green and orange differ for the colour-blind
OUTLINES = (("reference", _TRUTH), ("prediction", _PREDICTION))      # the key to a sheet of cases
_Outline = tuple[NDArray[np.bool_], str, str]    # what is inside, colour, line style
_STYLE = {BASELINE: look_of(BASELINE).colour, TREATED: _BETTER}  # the two arms that the gain is of


@dataclass(frozen=True, eq=False)
class Pair:
    """A synthetic pair with what it was painted into.

    Attributes:
        case: image and final mask.
        background: `[H, W, 3]` uint8 image that was painted into.
        intended: `[H, W]` the mask that guided the painting, before corrosion.
    """

    case: Case
    background: Pixels
    intended: Pixels


@dataclass(frozen=True, eq=False)
class Shown:
    """A test case with one prediction of each arm.

    Attributes:
        case: image and reference mask.
        predictions: arm -> `[H, W]` of 0 to K.
        dice: arm -> Dice of that prediction (mean over its classes), NaN where undefined.
    """

    case: Case
    predictions: dict[str, NDArray[Any]]
    dice: dict[str, float]


def contact_sheet(pairs: Sequence[Pair], classes: int = 1) -> Figure:
    """Background with the intended mask, the painted image, and the same with the mask it is used with; a column a pair.

    Outlines have the colours of their classes where there are several.
    """
    labels = ("background\n+ invented mask", "synthetic image", "with the mask\nused in training")
    figure, axes = _tiles(3, len(pairs), labels)
    for column, pair in zip(axes.T, pairs, strict=True):
        _image(column[0], pair.background, _outlines(pair.intended, _TRUTH, classes))
        _image(column[1], pair.case.image, [])
        _image(column[2], pair.case.image, _outlines(_mask(pair.case), _TRUTH, classes))
    return figure


def case_sheet(cases: Sequence[Shown], classes: int = 1) -> Figure:
    """Reference outline in green and prediction in red, a row an arm and a column a case.

    With several classes the outlines have the colours of their classes, and those of the prediction are dashed.
    """
    arms = list(cases[0].predictions)
    figure, axes = _tiles(len(arms), len(cases), tuple(f"{arm}\narm" for arm in arms), title=0.24)
    for column, shown in zip(axes.T, cases, strict=True):
        for panel, arm in zip(column, arms, strict=True):
            _image(panel, shown.case.image, [*_outlines(_mask(shown.case), _TRUTH, classes),
                                             *_outlines(shown.predictions[arm], _PREDICTION, classes, "dashed")])
            title = f"Dice {shown.dice[arm]:.2f}" if np.isfinite(shown.dice[arm]) else "no lesion"
            panel.set_title(title, fontsize=10, color=_INK, pad=3)
    return figure


def gain_plot(differences: NDArray[np.float64], gain: Interval) -> Figure:
    """Difference of each test case, sorted, with the mean and its interval.

    Args:
        differences: `[C]` mean over seeds of the paired Dice difference; NaN entries are left out.
        gain: see `summary.Summary`.
    """
    figure, axes = _plot(8.6, 2.9)
    points = np.sort(differences[np.isfinite(differences)]) * 100
    axes.bar(np.arange(len(points)), points, width=0.9, color=[_BETTER if p > 0 else _WORSE for p in points])
    label = f"{gain.confidence:.0%} interval of the mean"
    axes.axhspan(gain.lower * 100, gain.upper * 100, color=_INK, alpha=0.15, lw=0, label=label)
    axes.axhline(gain.mean * 100, color=_INK, lw=1.5, label=f"mean {signed(gain.mean * 100, 1)}")
    axes.axhline(0, color=_PALE, lw=0.8)
    better, worse = int((points > 0).sum()), int((points < 0).sum())
    axes.set(xlabel=f"test cases, sorted: {better} better, {worse} worse with synthetic data", ylabel="Dice difference [points]",
             xticks=[], xlim=(-0.8, max(1, len(points)) - 0.2))
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return figure


def arms_plot(means: dict[str, NDArray[np.float64]], intervals: dict[str, Interval]) -> Figure:
    """Mean Dice of each arm with its interval, and of each seed.

    Args:
        means: arm -> `[S]` mean Dice of each seed.
        intervals: arm -> interval of the mean Dice.
    """
    figure, axes = _plot(8.6, 0.75 + 0.55 * len(intervals))
    for row, (arm, interval) in enumerate(intervals.items()):
        color, seeds = _STYLE.get(arm, _INK), means[arm]
        axes.plot([interval.lower, interval.upper], [row, row], color=color, lw=6, alpha=0.25, solid_capstyle="round")
        axes.plot(seeds, np.full(len(seeds), row), "|", color=color, ms=13, mew=1.6, label=None if row else "one seed each")
        axes.plot(interval.mean, row, "o", color=color, ms=9, label=None if row else "mean")
    axes.set(yticks=range(len(intervals)), yticklabels=list(intervals), ylim=(len(intervals) - 0.5, -0.5))
    axes.set_xlabel("Dice on the test cases")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure


def loss_plot(losses: NDArray[np.float64]) -> Figure:
    """Training loss of the generator by step, with its running mean."""
    figure, axes = _plot(8.6, 2.4)
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 20)
    axes.plot(steps, losses, color=_PALE, lw=0.6, label="each step")
    smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
    axes.plot(steps[window - 1:], smooth, color=_BETTER, lw=2, label=f"mean of {window} steps")
    axes.set(xlabel="fine-tuning step", ylabel="loss", ylim=(0, float(np.quantile(losses, 0.99)) * 1.1 or 1.0))
    axes.legend(frameon=False, fontsize=9)
    return figure


def _mask(case: Case) -> Pixels:
    return np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask


def _tiles(rows: int, columns: int, labels: Sequence[str], title: float = 0.0) -> tuple[Figure, NDArray[Any]]:
    side = min(1.35, 9.2 / max(columns, 1))
    figure = Figure(figsize=(1.5 + columns * side, rows * (side + title)), dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(1.5 / (1.5 + columns * side), 0.01, 1, 1 - title / (rows * (side + title)) if title else 0.99,
                           0.04, 0.04 + title / side)
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10, color=_INK)
    return figure, axes


def _outlines(mask: NDArray[Any], color: str, classes: int, style: str = "solid") -> list[_Outline]:
    """One outline in `color`, or with several classes one of each class in the class's colour and in `style`."""
    if classes == 1:
        return [(mask > 0, color, "solid")]
    return [(mask == label, "#{:02x}{:02x}{:02x}".format(*CLASS_COLOURS[label - 1]), style) for label in range(1, classes + 1)]


def _image(axes: Axes, image: Pixels, outlines: Sequence[_Outline]) -> None:
    axes.imshow(image, interpolation="bicubic")
    for inside, color, style in outlines:
        if inside.any() and not inside.all():
            axes.contour(inside.astype(np.float64), [0.5], colors=[color], linewidths=1.3, linestyles=style)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _plot(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    return figure, axes
