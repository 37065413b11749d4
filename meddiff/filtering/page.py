"""The quality page: one HTML file without references, with every batch's checks and samples of both verdicts."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from meddiff.cases import CLASS_COLOURS, Case, Pixels
from meddiff.params import FilterParams

SHOWN = 12
TILE = 192  # least side of a shown picture [pixels]
Colour = tuple[int, int, int]
MASK, CORRODED = (255, 196, 0), (64, 224, 255)
COLOURS = {"accepted": "#0b7285", "implausible": "#b45309", "copy": "#be123c", "agreement": "#7c3aed", "contrast": "#64748b",
           "duplicate": "#a16207", "quarantined": "#111827"}
STYLE = """
:root{--ink:#1f2933;--soft:#52606d;--line:#e4e7eb;--accent:#0b7285;--warm:#b91c1c;--page:#f5f7fa}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:28px;line-height:1.25;margin:0 0 4px}h2{font-size:19px;margin:0 0 12px}p{margin:0 0 12px}
.soft,figcaption{color:var(--soft);font-size:14px}
section{background:#fff;border:1px solid var(--line);border-radius:12px;padding:24px 28px;margin:20px 0 0}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:14px 0 10px}.bar div{min-width:2px}
.key{display:inline-block;margin-right:18px;white-space:nowrap}
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:14px}tr:last-child td{border-bottom:0}
.good{color:var(--accent);font-weight:600}.bad{color:var(--warm);font-weight:600}
details{border-top:1px solid var(--line);padding:10px 0}summary{cursor:pointer}details table{margin:8px 0 0;font-size:14px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:20px}svg{width:100%;height:auto;display:block}
.wide{grid-column:span 2}.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(145px,1fr));gap:16px}
figure{margin:0}figure img{width:100%;display:block;border-radius:6px;background:#000}
figcaption{line-height:1.4;margin-top:6px}
figcaption b{color:var(--ink);display:block}.tag{border-radius:4px;color:#fff;padding:0 7px;font-size:13px}
@media print{section{break-inside:avoid}}
"""


class Finding(Protocol):
    """What one expectation found, in words; see `checks.Finding`."""

    @property
    def rule(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def observed(self) -> str: ...


class Verdict(Protocol):
    """Whether a batch may be used; see `checks.BatchVerdict`."""

    @property
    def batch(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def failures(self) -> tuple[str, ...]: ...
    @property
    def findings(self) -> Sequence[Finding]: ...


@dataclass(frozen=True, eq=False)
class Tile:
    """One shown sample.

    Attributes:
        id: sample's row in the decisions.
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` uint8 of 0 to K, as generated.
        corroded: the same after corrosion; None unless accepted.
        nearest: the annotated case that it copies; None unless rejected as a copy.
    """

    id: str
    image: Pixels
    mask: Pixels
    corroded: Pixels | None = None
    nearest: Case | None = None


def choose(decisions: pd.DataFrame) -> list[str]:
    """Ids of at most `SHOWN` accepted samples, evenly spread, and as many others, taken in turns from each reason."""
    accepted = decisions.loc[decisions["verdict"] == "accepted", "id"].to_numpy()
    spread = np.unique(np.linspace(0, len(accepted) - 1, min(SHOWN, len(accepted))).round().astype(int))
    others = decisions[decisions["verdict"] != "accepted"]
    turn = others.groupby("reason").cumcount()
    return [*accepted[spread], *others.assign(turn=turn).sort_values(["turn", "reason", "id"])["id"].head(SHOWN).sort_values()]


def render(verdicts: Sequence[Verdict], decisions: pd.DataFrame, params: FilterParams, tiles: Sequence[Tile], docs: str,
           classes: Sequence[str] = ("lesion",)) -> str:
    """Compose the page.

    Args:
        verdicts: of every batch.
        decisions: one row a sample: id, batch, similarity, nearest, agreement, contrast, verdict, reason.
        params: the bounds that were applied.
        tiles: the samples that are shown.
        docs: relative link to Great Expectations' own pages.
        classes: names of the classes of lesions; with several, outlines have the colours of their classes.

    Returns:
        A complete HTML document that loads nothing from elsewhere.
    """
    passed = sum(verdict.passed for verdict in verdicts)
    accepted = int((decisions["verdict"] == "accepted").sum())
    rows = {row["id"]: row for row in decisions.to_dict("records")}
    link = (f'<p class="soft">Great Expectations\' own pages say the same: <a href="{html.escape(docs)}">Data Docs</a> '
            "(their styles need a network).</p>")
    sections = [_section("Decisions", _shares(decisions)), _section("Scores", _charts(decisions, params)),
                _section(f"Batches: {passed} of {len(verdicts)} passed", "".join(_batch(v, decisions) for v in verdicts) + link)]
    legend = "".join(_key(f"rgb{_shade(MASK, label, len(classes))}", f"outline of the mask that guided the painting{name}")
                     for label, name in enumerate(_names(classes), start=1))
    corroded = "".join(_key(f"rgb{_shade(CORRODED, label, len(classes))}", f"after corrosion, as it is used{name}")
                       for label, name in enumerate(_names(classes), start=1))
    for title, wanted in (("Accepted samples", True), ("Rejected and quarantined samples", False)):
        shown = "".join(_figure(tile, rows[tile.id], len(classes)) for tile in tiles
                        if (rows[tile.id]["verdict"] == "accepted") == wanted)
        keys = f'<p class="soft">{legend}{corroded if wanted else ""}</p>'
        sections.append(_section(title, f'{keys}<div class="tiles">{shown}</div>' if shown else "<p>None.</p>"))
    return ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Quality of the synthetic samples</title><style>{STYLE}</style><main>"
            f"<h1>{accepted} of {len(decisions)} synthetic samples accepted</h1>"
            f'<p class="soft">in {len(verdicts)} batches. Samples are judged one by one; a batch that fails a check is '
            f"quarantined whole.</p>{''.join(sections)}</main></html>\n")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _key(colour: str, text: str) -> str:
    return f'<span class="key"><i style="background:{colour}"></i>{text}</span>'


def _kind(row: Mapping[str, Any]) -> str:
    """`accepted`, `quarantined` or the rule that rejected the sample."""
    return str(row["reason"] if row["verdict"] == "rejected" else row["verdict"])


def _shares(decisions: pd.DataFrame) -> str:
    kinds = decisions["reason"].where(decisions["verdict"] == "rejected", decisions["verdict"])
    counts = kinds.value_counts().reindex(list(COLOURS), fill_value=0)
    shares = counts / max(1, len(decisions))
    parts = "".join(f'<div style="background:{COLOURS[kind]};width:{share:.2%}"></div>'
                    for kind, share in shares.items() if share)
    keys = "".join(_key(COLOURS[kind], f"{kind} <b>{counts[kind]}</b> ({share:.1%})") for kind, share in shares.items())
    return f'<div class="bar">{parts}</div><p>{keys}</p>'


def _charts(decisions: pd.DataFrame, params: FilterParams) -> str:
    reach = max(4 * params.min_contrast, float(decisions["contrast"].max()), 1.0)
    charts = (("similarity", "Similarity to the nearest real lesion; 0 is unlike any, 1 a copy", 1.0,
               (params.similarity_low, params.similarity_high)),
              ("agreement", "Agreement of the mask with the independent segmenter (Dice)", 1.0, (params.agreement,)),
              ("contrast", "Contrast across the mask's border (gray levels)", reach, (params.min_contrast,)))
    return f'<div class="charts">{"".join(_histogram(decisions, *chart) for chart in charts)}</div>'


def _histogram(decisions: pd.DataFrame, score: str, title: str, top: float, bounds: Sequence[float]) -> str:
    """Counts of accepted samples below, of all others above, with dashed lines at the bounds."""
    width, height, bins = 280, 110, 28
    accepted, step = decisions["verdict"] == "accepted", width / bins
    below, above = (np.histogram(decisions.loc[part, score].dropna(), bins, (0, top))[0] for part in (accepted, ~accepted))
    unit = height / max(1, int((below + above).max()))

    def bars(start: NDArray[np.int_], counts: NDArray[np.int_], colour: str) -> str:
        return "".join(f'<rect x="{i * step:.1f}" y="{height - (a + n) * unit:.1f}" width="{step - 1:.1f}" '
                       f'height="{n * unit:.1f}" fill="{colour}"/>'
                       for i, (a, n) in enumerate(zip(start, counts, strict=True)) if n)

    lines = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="#b91c1c" stroke-dasharray="4 3"/>'
                    for x in (min(bound / top, 1) * width for bound in bounds))
    return (f'<figure><svg viewBox="-2 -2 {width + 4} {height + 20}" role="img" aria-label="{html.escape(title)}">'
            f'{bars(np.zeros_like(below), below, COLOURS["accepted"])}{bars(below, above, "#cbd2d9")}{lines}'
            f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="#9aa5b1"/><g font-size="11" fill="#52606d">'
            f'<text x="0" y="{height + 14}">0</text>'
            f'<text x="{width}" y="{height + 14}" text-anchor="end">{top:.3g}</text></g></svg>'
            f"<figcaption>{html.escape(title)}. Accepted in colour, others gray, bound at "
            f"{' and '.join(f'{bound:g}' for bound in bounds)}.</figcaption></figure>")


def _batch(verdict: Verdict, decisions: pd.DataFrame) -> str:
    mine = decisions[decisions["batch"] == verdict.batch]
    used = int((mine["verdict"] == "accepted").sum())
    state = _state(verdict.passed, "passed" if verdict.passed else f"quarantined: {', '.join(verdict.failures)}")
    findings = sorted(verdict.findings, key=lambda found: found.passed)
    rows = "".join(f"<tr><td>{_state(found.passed, '✓' if found.passed else '✗')}</td><td>{html.escape(found.rule)}</td>"
                   f"<td>{html.escape(found.observed)}</td></tr>" for found in findings)
    return (f"<details{'' if verdict.passed else ' open'}><summary><b>{html.escape(verdict.batch)}</b> · "
            f"{used} of {len(mine)} accepted · {state}</summary>"
            f"<table><tr><th></th><th>Expectation</th><th>Observed</th></tr>{rows}</table></details>")


def _state(good: bool, text: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{html.escape(text)}</span>'


def _figure(tile: Tile, row: Mapping[str, Any], classes: int) -> str:
    kind, wide = _kind(row), tile.nearest is not None
    lines = [f"nearest: {row['nearest']}" + (" (right)" if wide else ""), f"similarity {row['similarity']:.3f}",
             f"agreement {row['agreement']:.2f}", f"contrast {row['contrast']:.1f}"]
    if kind == "quarantined":
        lines.insert(0, str(row["reason"]))
    picture = base64.b64encode(_picture(tile, classes)).decode()
    return (f'<figure class="{"wide" if wide else "one"}"><img alt="{html.escape(tile.id)}" '
            f'src="data:image/png;base64,{picture}"><figcaption><b>{html.escape(tile.id)}</b>'
            f'<span class="tag" style="background:{COLOURS[kind]}">{kind}</span><br>{"<br>".join(map(html.escape, lines))}'
            "</figcaption></figure>")


def _picture(tile: Tile, classes: int) -> bytes:
    """PNG of the image with the outlines of its masks, and of the real case beside it."""
    picture = _outlined(tile.image, ((tile.mask, MASK), (tile.corroded, CORRODED)), classes)
    if tile.nearest is not None:
        gap = np.full_like(picture[:, :4], 255)
        picture = np.concatenate([picture, gap, _outlined(tile.nearest.image, ((tile.nearest.mask, MASK),), classes)], axis=1)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _names(classes: Sequence[str]) -> list[str]:
    return [f": {html.escape(name)}" if len(classes) > 1 else "" for name in classes]


def _shade(colour: Colour, label: int, classes: int) -> Colour:
    """The colour of an outline: with several classes that of the class, and lighter after corrosion."""
    if classes == 1:
        return colour
    red, green, blue = CLASS_COLOURS[label - 1]
    return (red, green, blue) if colour == MASK else ((red + 255) // 2, (green + 255) // 2, (blue + 255) // 2)


def _outlined(image: Pixels, masks: Sequence[tuple[Pixels | None, Colour]], classes: int) -> Pixels:
    scale = -(-TILE // len(image))
    side = (image.shape[1] * scale, image.shape[0] * scale)
    picture = np.array(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR), dtype=np.uint8)
    for mask, colour in masks:
        if mask is not None:
            large = np.array(Image.fromarray(mask).resize(side, Image.Resampling.NEAREST))
            for label in range(1, classes + 1):
                inside = large > 0 if classes == 1 else large == label
                picture[inside & ~ndimage.binary_erosion(inside)] = _shade(colour, label, classes)
    return picture
