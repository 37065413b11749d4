"""The quality page: every batch's checks and samples of both verdicts; its markup is in `quality.html.j2`."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from meddiff.cases import CLASS_COLOURS, Case, Pixels, outlined, png_bytes
from meddiff.filtering.alike import nearest_alike
from meddiff.filtering.features import Extractor
from meddiff.filtering.reviewing import PERSON
from meddiff.pages import Picture, render
from meddiff.params import FilterParams

if TYPE_CHECKING:
    from meddiff.filtering.checks import BatchVerdict

_SHOWN = 12
_TILE = 192  # least side of a shown picture [pixels]
_Colour = tuple[int, int, int]
MASK, CORRODED = (255, 196, 0), (64, 224, 255)
_KINDS = {"accepted": "#0b7285", "implausible": "#b45309", "copy": "#be123c", "agreement": "#7c3aed", "contrast": "#64748b",
          "duplicate": "#a16207", "quarantined": "#111827", PERSON: "#be185d"}
_OTHERS, _BOUND, _SOFT = "#cbd2d9", "#b91c1c", "#52606d"  # of the charts


@dataclass(frozen=True, eq=False)
class Tile:
    """One shown sample.

    Attributes:
        id: sample's row in the decisions.
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` uint8 of 0 to K, as generated.
        corroded: the same after corrosion; None unless accepted.
        nearest: the annotated case that it copies, else the nearest one of its kind; None without any.
    """

    id: str
    image: Pixels
    mask: Pixels
    corroded: Pixels | None = None
    nearest: Case | None = None


def choose(decisions: pd.DataFrame) -> list[str]:
    """Ids of at most `_SHOWN` accepted samples, evenly spread, and as many others, taken in turns from each reason."""
    accepted = decisions.loc[decisions["verdict"] == "accepted", "id"].to_numpy()
    spread = np.unique(np.linspace(0, len(accepted) - 1, min(_SHOWN, len(accepted))).round().astype(int))
    others = decisions[decisions["verdict"] != "accepted"]
    turn = others.groupby("reason").cumcount()
    return [*accepted[spread], *others.assign(turn=turn).sort_values(["turn", "reason", "id"])["id"].head(_SHOWN).sort_values()]


def make_tiles(decisions: pd.DataFrame, cases: Sequence[Case], read: Callable[[str, str], tuple[Pixels, Pixels]],
               read_corroded: Callable[[str], Pixels], extractor: Extractor) -> list[Tile]:
    """The samples that are shown, of those that `choose` picks.

    Args:
        decisions: see `quality_page`.
        cases: annotated, of which samples may be copies.
        read: batch and id of a sample -> its image and mask.
        read_corroded: id of an accepted sample -> its corroded mask.
        extractor: by which the nearest case of each sample's kind is found, see `alike`.
    """
    real, rows = {case.id: case for case in cases}, decisions.set_index("id").loc[choose(decisions)]
    pairs = [read(row.batch, row.Index) for row in rows.itertuples()]
    return [Tile(str(row.Index), *pair, read_corroded(row.Index) if row.verdict == "accepted" else None,
                 real[row.nearest] if row.reason == "copy" else alike)
            for row, pair, alike in zip(rows.itertuples(), pairs, nearest_alike(pairs, cases, extractor), strict=True)]


def quality_page(verdicts: Sequence["BatchVerdict"], decisions: pd.DataFrame, params: FilterParams, tiles: Sequence[Tile],
                 docs: str, classes: Sequence[str] = ("lesion",), reviewed: Sequence[str] = (), made: Sequence[str] = ()) -> str:
    """Compose the page.

    Args:
        verdicts: of every batch.
        decisions: one row a sample: id, batch, similarity, nearest, agreement, contrast, verdict, reason.
        params: the bounds that were applied.
        tiles: the samples that are shown.
        docs: relative link to Great Expectations' own pages.
        classes: names of the classes of lesions; with several, outlines have the colours of their classes.
        reviewed: what became of the decisions of people, a line each.
        made: what made the samples: commit, run and model version.

    Returns:
        A complete HTML document that loads nothing from elsewhere.
    """
    accepted, rows = decisions["verdict"] == "accepted", {row["id"]: row for row in decisions.to_dict("records")}
    batches = [(verdict, int(accepted[own].sum()), int(own.sum())) for verdict in verdicts
               for own in [decisions["batch"] == verdict.batch]]
    masks = _key(MASK, "outline of the mask that guided the painting", classes)
    corroded = _key(CORRODED, "after corrosion, as it is used", classes)
    shown = {used: [_shown(tile, rows[tile.id], len(classes)) for tile in tiles
                    if (rows[tile.id]["verdict"] == "accepted") == used] for used in (True, False)}
    return render("filtering/quality.html.j2", accepted=int(accepted.sum()), samples=len(decisions), batches=batches,
                  passed=sum(verdict.passed for verdict in verdicts), docs=docs, shares=_shares(decisions), reviewed=reviewed,
                  made=" · ".join(made),
                  charts=_charts(decisions, params),
                  groups=[("Accepted samples", shown[True], masks + corroded),
                          ("Rejected and quarantined samples", shown[False], masks)])


def _shares(decisions: pd.DataFrame) -> list[tuple[str, str, int, str]]:
    """Number and share of the samples of each kind, in its colour."""
    kinds = decisions["reason"].where(decisions["verdict"] == "rejected", decisions["verdict"])
    counts = kinds.value_counts()
    return [(kind, colour, n, f"{n / max(1, len(decisions)):.1%}") for kind, colour in _KINDS.items()
            for n in [int(counts.get(kind, 0))] if n or kind != PERSON]


def _charts(decisions: pd.DataFrame, params: FilterParams) -> list[Picture]:
    """Histograms of the scores, with their bounds."""
    reach = max(4 * params.min_contrast, float(decisions["contrast"].max()), 1.0)
    charts = (("similarity", "Similarity to the nearest real lesion; 0 is unlike any", 1.0, params.similarity_low),
              ("agreement", "Agreement of the mask with the independent segmenter (Dice)", 1.0, params.agreement),
              ("contrast", "Contrast across the mask's border (gray levels)", reach, params.min_contrast))
    return [Picture(score, _histogram(decisions, score, top, bound),
                    f"{title}. Accepted in colour, others gray, bound at {bound:g}.")
            for score, title, top, bound in charts]


def _histogram(decisions: pd.DataFrame, score: str, top: float, bound: float) -> bytes:
    """PNG of the counts of accepted samples below, of all others above, with a dashed line at the bound."""
    accepted = decisions["verdict"] == "accepted"
    figure = Figure(figsize=(3.4, 1.7), dpi=200, layout="constrained")
    axes = figure.subplots()
    axes.hist([decisions.loc[part, score].dropna() for part in (accepted, ~accepted)], bins=28, range=(0, top), stacked=True,
              rwidth=0.9, color=[_KINDS["accepted"], _OTHERS])
    axes.axvline(min(bound, top), color=_BOUND, linestyle="--", linewidth=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=_SOFT, labelsize=8, left=False)
    axes.locator_params("y", nbins=3, integer=True)
    axes.set(xlim=(0, top), ylim=(0, max(1, axes.get_ylim()[1])))
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _shown(tile: Tile, row: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """What the page tells of a sample; its kind is `accepted`, `quarantined` or the rule that rejected it."""
    kind, wide = str(row["reason"] if row["verdict"] == "rejected" else row["verdict"]), tile.nearest is not None
    by_hand = ["kept by a person"] if kind == "accepted" and row["reason"] == PERSON else []
    alike = tile.nearest.id if tile.nearest else row["nearest"]
    near = f"nearest: {alike}" if alike == row["nearest"] else f"nearest of its kind: {alike}, of all: {row['nearest']}"
    lines = [near + (" (right)" if wide else ""), f"similarity {row['similarity']:.3f}",
             f"agreement {row['agreement']:.2f}", f"contrast {row['contrast']:.1f}"]
    return {"picture": Picture(tile.id, tile_picture(tile, classes), tile.id), "kind": kind, "colour": _KINDS[kind], "wide": wide,
            "lines": [str(row["reason"]), *lines] if kind == "quarantined" else [*by_hand, *lines]}


def _key(colour: _Colour, words: str, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Colours of outlines, and what they mean."""
    return [(f"rgb{_shade(colour, label, len(classes))}", f"{words}: {name}" if len(classes) > 1 else words)
            for label, name in enumerate(classes, start=1)]


def tile_picture(tile: Tile, classes: int) -> bytes:
    """PNG of the image with the outlines of its masks, and of the real case beside it."""
    picture = _with_masks(tile.image, ((tile.mask, MASK), (tile.corroded, CORRODED)), classes)
    if tile.nearest is not None:
        gap = np.full_like(picture[:, :4], 255)
        picture = np.concatenate([picture, gap, _with_masks(tile.nearest.image, ((tile.nearest.mask, MASK),), classes)], axis=1)
    return png_bytes(Image.fromarray(picture))


def _shade(colour: _Colour, label: int, classes: int) -> _Colour:
    """The colour of an outline: with several classes that of the class, and lighter after corrosion."""
    if classes == 1:
        return colour
    red, green, blue = CLASS_COLOURS[label - 1]
    return (red, green, blue) if colour == MASK else ((red + 255) // 2, (green + 255) // 2, (blue + 255) // 2)


def _with_masks(image: Pixels, masks: Sequence[tuple[Pixels | None, _Colour]], classes: int) -> Pixels:
    scale = -(-_TILE // len(image))
    side = (image.shape[1] * scale, image.shape[0] * scale)
    picture = np.array(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR), dtype=np.uint8)
    large = [(np.array(Image.fromarray(mask).resize(side, Image.Resampling.NEAREST)), colour)
             for mask, colour in masks if mask is not None]
    return outlined(picture, [(mask > 0 if classes == 1 else mask == label, _shade(colour, label, classes))
                              for mask, colour in large for label in range(1, classes + 1)])
