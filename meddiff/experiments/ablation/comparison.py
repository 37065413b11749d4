"""Variants of the method side by side: paired differences over seeds, the tables, and the contact sheet."""

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from meddiff.cases import read_image
from meddiff.experiments.ablation.parts import FULL, Part
from meddiff.experiments.ablation.variants import TILE_GAP, read_verdicts
from meddiff.experiments.run import Outcome
from meddiff.pages import markdown_table

_CONFIDENCE = 0.95
_MAIN = re.compile(r"\b(generated|accepted)\.(kid\.lesion\.mean|support\.lesion\.(density|coverage)|copies\.share|seam)$")
_LABEL, _LINE, _LEAST = 150, 18, 96  # of the sheet [pixels]; a picture is shown at least _LEAST high
_INK, _PAGE, _ACCEPTED, _REJECTED = "#1f2933", "#ffffff", "#0b7285", "#b91c1c"


@dataclass(frozen=True)
class Difference:
    """Mean paired difference over training seeds with its t-interval.

    Attributes:
        mean: NaN without a common seed.
        lower, upper: bounds; NaN with fewer than two seeds, which tell nothing of their scatter.
        seeds: seeds that both have.
    """

    mean: float
    lower: float
    upper: float
    seeds: int

    @property
    def none(self) -> bool:
        """Whether not one seed differs: the part changed no pair that the segmenters saw."""
        return self.mean == 0 and (self.seeds == 1 or self.lower == self.upper == 0)


@dataclass(frozen=True)
class VariantRow:
    """One line of the table.

    Attributes:
        changes: settings that differ from `full`, in words.
        dice: mean validation Dice over seeds; NaN if nothing was accepted.
        difference: from `part.reference`; zeros without meaning for `full` itself.
        outcome: None if the variant failed, and for a further arm of `full`.
        error: why it failed, else empty.
        tiles: folder of the pictures `SEED.png`, see `variants`.
    """

    part: Part
    changes: str
    dice: float
    difference: Difference
    outcome: Outcome | None = None
    error: str = ""
    tiles: Path | None = None


def compare(part: Part, changes: str, scores: Mapping[int, float], full: Mapping[int, float],
            outcome: Outcome | None = None, tiles: Path | None = None) -> VariantRow:
    """A row from the Dice of each seed in the variant and in its reference."""
    finite = [dice for dice in scores.values() if math.isfinite(dice)]
    mean = statistics.fmean(finite) if finite else math.nan
    return VariantRow(part, changes, mean, difference(scores, full), outcome, "", tiles)


def difference(scores: Mapping[int, float], full: Mapping[int, float]) -> Difference:
    """Mean of `scores - full` over the seeds of both, with d̄ ± t(S−1, 97.5 %) · s / √S.

    Student's interval of paired differences: a seed fixes the initial weights, the order of cases and their augmentation in
    both variants. It covers the luck of training the segmenters, not that of the generator or of the validation cases.

    Args:
        scores, full: seed -> mean validation Dice; entries that aren't finite are left out.
    """
    both = [scores[seed] - full[seed] for seed in sorted(scores.keys() & full.keys())]
    deltas = [delta for delta in both if math.isfinite(delta)]
    if not deltas:
        return Difference(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(deltas)
    if len(deltas) == 1:
        return Difference(mean, math.nan, math.nan, 1)
    from scipy.stats import t

    half = float(t.ppf((1 + _CONFIDENCE) / 2, len(deltas) - 1)) * statistics.stdev(deltas) / math.sqrt(len(deltas))
    return Difference(mean, mean - half, mean + half, len(deltas))


def caveat(seeds: int, variants: int) -> str:
    """What the intervals of a table can and cannot tell."""
    if seeds < 2:
        return "One training seed: no interval, and a difference may be luck alone. Add seeds before believing any."
    few = " Two seeds give it 12.7 standard errors on each side: it decides next to nothing." if seeds == 2 else ""
    misses = variants * (1 - _CONFIDENCE)
    chance = f" Of {variants} such intervals, {misses:.1g} miss the truth by chance alone." if variants > 1 else ""
    return (f"{_CONFIDENCE:.0%} t-interval of the paired difference over {seeds} training seeds: the luck of training segmenters "
            f"on one set of samples, measured on validation cases.{few}{chance}")


def table_csv(rows: Sequence[VariantRow]) -> str:
    """All that is known of each variant, one line each; the numbers of fidelity behind the others."""
    numbers = _numbers(rows)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["variant", "shows", "changes", "seeds", "dice", "difference", "lower", "upper", "samples", "accepted",
                     "acceptance", "seconds", "ran", "error", *numbers])
    for row in rows:
        d, o = row.difference, row.outcome
        counts = [o.samples, o.accepted, o.acceptance, round(o.seconds, 1), " ".join(o.ran)] if o else [""] * 5
        found = [o.numbers.get(name, "") if o else "" for name in numbers]
        writer.writerow([row.part.name, row.part.shows, row.changes, d.seeds, row.dice, d.mean, d.lower, d.upper, *counts,
                         row.error, *found])
    return stream.getvalue()


def table_markdown(rows: Sequence[VariantRow], title: str, notes: Sequence[str]) -> str:
    """A page: the table of Dice, acceptance and cost, what to think of it, and the table of fidelity."""
    heads = ["variant", "what it shows", "validation Dice", "difference [points]", "accepted", "seconds"]
    cells = [row_words(row) if not row.error else (*row_words(row)[:2], f"failed: {row.error}", "", "", "") for row in rows]
    lines = [f"# {title}", "", markdown_table(heads, cells), "", *(f"- {note}" for note in notes)]
    if names := main_numbers(_numbers(rows)):
        outcomes = {row.part.name: row.outcome for row in rows}
        fidelity = []
        for row in rows:
            if row.outcome:
                reference = outcomes.get(row.part.reference, rows[0].outcome)
                found, base = row.outcome.numbers, reference.numbers if reference and row.part != FULL else {}
                shown = (f"{found[name]:.4g}" + (f" ({found[name] - base[name]:+.2g})" if name in base else "")
                         if name in found else "–" for name in names)
                fidelity.append([row.part.name, *shown])
        lines += ["", "## Fidelity of the samples, and the difference as above", "",
                  markdown_table(["variant", *(name.removeprefix("sets.") for name in names)], fidelity)]
    return "\n".join(lines) + "\n"


def row_words(row: VariantRow) -> tuple[str, str, str, str, str, str]:
    """Name, meaning, Dice, difference in points with its interval, acceptance and seconds as words."""
    d, o = row.difference, row.outcome
    spread = f" ({d.lower * 100:+.1f} to {d.upper * 100:+.1f})" if math.isfinite(d.lower) else ""
    gap = "the same pairs" if d.none else f"{d.mean * 100:+.1f}{spread}" if math.isfinite(d.mean) else "–"
    gap = "–" if row.part == FULL else gap
    accepted = f"{o.accepted} of {o.samples}" if o else "–"
    return (row.part.name, row.part.shows, f"{row.dice:.4f}" if math.isfinite(row.dice) else "–", gap, accepted,
            f"{o.seconds:.0f}" if o else "–")


def _numbers(rows: Sequence[VariantRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows if row.outcome for name in row.outcome.numbers))


def main_numbers(names: Iterable[str]) -> list[str]:
    """Those of the numbers in `fidelity.json` that sum a variant up: of the lesions, before and after the filter."""
    return [name for name in names if _MAIN.search(name)]


def sheet(rows: Sequence[VariantRow]) -> Image.Image:
    """The same seeds of every variant, a row a variant and a column a seed, with the filter's verdict below each."""
    pictured = [(row.part.name, row.tiles, read_verdicts(row.tiles)) for row in rows if row.tiles]
    seeds = sorted({seed for _, _, verdicts in pictured for seed in verdicts})
    tiles = {(i, seed): read_image(folder / f"{seed}.png") for i, (_, folder, verdicts) in enumerate(pictured)
             for seed in verdicts}
    height, width = next(iter(tiles.values())).shape[:2] if tiles else (_LEAST, _LEAST)
    scale = -(-_LEAST // height)
    across, down = width * scale + 4 * TILE_GAP, height * scale + _LINE + TILE_GAP
    page = Image.new("RGB", (_LABEL + across * len(seeds), _LINE + down * len(pictured)), _PAGE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for column, seed in enumerate(seeds):
        draw.text((_LABEL + across * column, 2), f"seed {seed}: background, mask, painted", _INK, font)
    for i, (name, _, verdicts) in enumerate(pictured):
        top = _LINE + down * i
        draw.text((4, top + 4), name, _INK, font)
        for column, seed in enumerate(seeds):
            if seed in verdicts:
                picture, verdict = Image.fromarray(tiles[i, seed]), verdicts[seed]
                place = (_LABEL + across * column, top)
                page.paste(picture.resize((width * scale, height * scale), Image.Resampling.NEAREST), place)
                colour = _ACCEPTED if verdict == "accepted" else _REJECTED
                draw.text((place[0], top + height * scale + 1), verdict[:44], colour, font)
    return page
