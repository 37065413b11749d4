"""The report: one HTML page that holds its pictures and needs no network, written for readers of images."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meddiff.bootstrap import Interval
from meddiff.cases import CLASS_COLOURS
from meddiff.summary import BASELINE, TREATED, Summary

NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 [px]", "nsd": "NSD"}
ARMS = {BASELINE: "real images only", TREATED: "real + synthetic images", "uncorroded": "the same without corrosion",
        "unfiltered": "real + as many unfiltered synthetic images"}
# The filter's rules, in words.
REASONS = {
    "implausible": "unlike the real lesions",
    "copy": "copy of a real lesion",
    "agreement": "a segmenter finds the lesion elsewhere",
    "contrast": "no edge to be seen at the mask's border",
    "duplicate": "repeats another sample",
}
PRIVACY = """<p>Synthetic images aren't anonymous. Their backgrounds are real images, and a generator can repeat parts of the
lesions it was trained on; the filter rejects near copies, which is no proof of privacy. Protect them, and this page, like
patient data.</p>"""
STYLE = """
:root{--ink:#1f2933;--soft:#52606d;--line:#e4e7eb;--accent:#0b7285;--warm:#b45309;--page:#f5f7fa}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink)}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:28px;line-height:1.25;margin:0 0 4px}h2{font-size:19px;margin:0 0 12px}p{margin:0 0 12px}
.kicker{color:var(--soft);margin:0 0 24px}
section{background:#fff;border:1px solid var(--line);border-radius:12px;padding:24px 28px;margin:0 0 20px}
.verdict{border-left:8px solid var(--soft)}
.verdict.better{border-left-color:var(--accent)}.verdict.worse{border-left-color:var(--warm)}
.verdict h2{font-size:24px;margin-bottom:6px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin-top:18px}
.card{background:var(--page);border-radius:10px;padding:12px 16px}.card b{display:block;font-size:26px;line-height:1.3}
.card span{color:var(--soft);font-size:14px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:8px 12px 8px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:14px}tr:last-child td{border-bottom:0}
td:last-child{white-space:nowrap}
td small{display:block;color:var(--soft);font-size:13px;white-space:nowrap}
figure{margin:18px 0 0}figure img{max-width:100%;height:auto;display:block}
figcaption,.note{color:var(--soft);font-size:14px;margin-top:8px}
ul{margin:0;padding-left:20px}li{margin:0 0 6px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:20px}.two section{margin:0}.two{margin-bottom:20px}
i.truth,i.prediction{display:inline-block;width:18px;border-top:3px solid #35d07f;vertical-align:middle;margin:0 4px 0 8px}
i.prediction{border-color:#ff4d4d}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: file stem, such as `gain`; the page puts each into its section by it.
        png: the encoded file.
        caption: one sentence under it.
    """

    name: str
    png: bytes
    caption: str


def verdict(gain: Interval | None) -> str:
    """The result in one sentence; a gain is claimed only where the whole interval is above zero."""
    if gain is None or math.isnan(gain.mean):
        return "No gain measured: that needs both the real and the synthetic arm, and test cases with lesions."
    numbers = f"{_points(gain.mean)} Dice points ({gain.confidence:.0%} interval {_points(gain.lower)} to {_points(gain.upper)})"
    if gain.lower > 0:
        return f"Synthetic images raised the Dice: {numbers}."
    if gain.upper < 0:
        return f"Synthetic images lowered the Dice: {numbers}."
    return f"No gain shown: {numbers}, and the interval includes zero."


def render(summary: Summary, pictures: Sequence[Picture], title: str, made: str, tolerance: float) -> str:
    """Compose the page.

    Args:
        summary: every number that is shown.
        pictures: named `dice`, `gain`, `cases`, `pairs` or `loss`; those left out are left out of the page.
        title: what was evaluated, such as the dataset's name and image size.
        made: date, or whatever tells this evaluation from others.
        tolerance: tolerance of the normalised surface distance [pixels].

    Returns:
        A complete HTML document without references to other files or hosts.
    """
    shown = {picture.name: _figure(picture, tuple(summary.by_class)) for picture in pictures}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{html.escape(title)}: what synthetic images gained</title><style>{STYLE}</style></head><body><main>
<h1>Do the synthetic images help the segmentation?</h1>
<p class="kicker">{html.escape(title)} · {html.escape(made)}</p>
{_verdict(summary)}
{_section("Scores on the test cases", _arms(summary, tolerance) + shown.get("dice", "") + shown.get("gain", ""))}
{_section("By class", _classes(summary))}
{_section("By lesion size", _sizes(summary))}
{_section("Test cases, from best to worst", shown.get("cases", ""))}
{_section("Synthetic pairs that were accepted", shown.get("pairs", ""))}
<div class="two"><section><h2>What was done</h2>{_done(summary)}</section>
<section><h2>Quality of the synthetic data</h2>{_quality(summary)}</section></div>
<section><h2>How far to trust this</h2>{_list(caveats(summary))}</section>
{_section("Fine-tuning of the generator", shown.get("loss", ""))}
{_section("Privacy", PRIVACY)}
</main></body></html>
"""


def caveats(summary: Summary) -> list[str]:
    """What limits the result, one sentence each, from its own numbers."""
    gain, found = summary.gain, []
    if gain and gain.cases < 100:
        found.append(f"{gain.cases} test cases: differences of about one point need 100 to 200 to be told from chance.")
    if gain and gain.seeds < 5:
        found.append(f"{gain.seeds} training seeds: the luck of training is known only roughly, the interval may be too narrow.")
    if summary.quality.copies:
        share = f"{summary.quality.copies} of {summary.quality.generated}"
        found.append(f"{share} samples were near copies of real lesions, and left out.")
    missed = {arm: counts["hd95"] - counts["dice"] for arm, counts in summary.excluded.items() if counts["hd95"] > counts["dice"]}
    if missed:
        text = ", ".join(f"{n} in the {arm} arm" for arm, n in missed.items())
        found.append(f"HD95 leaves out predictions without a surface to measure ({text}); Dice counts them as 0.")
    empty = max((counts["dice"] for counts in summary.excluded.values()), default=0)
    if empty and summary.by_class:
        found.append(f"{empty} times an arm rightly found none of a class that an image lacks: left out of the case's mean.")
    elif empty:
        found.append(f"{empty} predictions of an arm were rightly empty on images without lesion: they have no Dice.")
    return [*found, "One dataset and one split: other scanners, hospitals and kinds of lesion aren't covered.",
            "The interval covers the choice of test cases and training seeds, not that of the annotated cases or the generator.",
            "With synthetic images each batch holds fewer real ones; all arms had the same number of steps."]


def _points(value: float) -> str:
    return f"{value * 100:+.1f}".replace("-", "−")


def _verdict(summary: Summary) -> str:
    gain, quality = summary.gain, summary.quality
    tone = "" if gain is None or not gain.decided else " better" if gain.lower > 0 else " worse"
    means = {arm: scores["dice"].mean for arm, scores in summary.arms.items()}
    cards = [("–" if math.isnan(mean) else f"{mean:.3f}", f"Dice, {ARMS.get(arm, arm)}") for arm, mean in means.items()]
    if gain and not math.isnan(gain.mean):
        bounds = f"{_points(gain.lower)} to {_points(gain.upper)}"
        cards.append((_points(gain.mean), f"points of gain, {gain.confidence:.0%} interval {bounds}"))
    cards.append((f"{quality.accepted} of {quality.generated}", "synthetic pairs accepted"))
    tiles = "".join(f'<div class="card"><b>{value}</b><span>{html.escape(label)}</span></div>' for value, label in cards)
    return f'<section class="verdict{tone}"><h2>{html.escape(verdict(gain))}</h2><div class="cards">{tiles}</div></section>'


def _arms(summary: Summary, tolerance: float) -> str:
    rows = [[ARMS.get(arm, arm), *(_cell(scores[name], name) for name in NAMES)] for arm, scores in summary.arms.items()]
    first = next(iter(summary.arms.values()))["dice"]
    note = (f"Means over {first.cases} test cases and {first.seeds} training seeds, with their {first.confidence:.0%} intervals. "
            "Dice, IoU: overlap, 1 is perfect. HD95: distance within which 95% of both outlines lie of each other, 0 is perfect. "
            f"NSD: share of the outlines within {tolerance:g} pixels of each other, 1 is perfect.")
    for arm, effect in summary.effects.items():
        note += (f" Synthetic arm against “{html.escape(ARMS.get(arm, arm))}”: {_points(effect.mean)} Dice points "
                 f"({_points(effect.lower)} to {_points(effect.upper)}).")
    return _table(["trained on", *NAMES.values()], rows) + f'<p class="note">{note}</p>'


def _sizes(summary: Summary) -> str:
    table = _dice_table(summary, "lesion", summary.by_size)
    return table + '<p class="note">A third of the test lesions each, by area.</p>' if table else ""


def _classes(summary: Summary) -> str:
    table = _dice_table(summary, "class", summary.by_class)
    note = ("Cases that hold the class, or in which an arm falsely found it, which counts as 0. All other numbers of this page "
            "take the mean over the classes of each case.")
    return f'{table}<p class="note">{note}</p>' if table else ""


def _dice_table(summary: Summary, what: str, parts: Mapping[str, Mapping[str, Interval]]) -> str:
    arms = [*summary.arms, *(["gain"] if summary.gain else [])]
    rows = [[f"{html.escape(part)} <small>{next(iter(scores.values())).cases} cases</small>",
             *(_cell(scores[arm], "points" if arm == "gain" else "dice") for arm in arms)] for part, scores in parts.items()]
    heads = [*(f"Dice, {ARMS.get(arm, arm)}" for arm in summary.arms), *(["gain [points]"] if summary.gain else [])]
    return _table([what, *heads], rows) if rows else ""


def _cell(interval: Interval, name: str) -> str:
    if math.isnan(interval.mean):
        return "–"
    show = _points if name == "points" else (lambda value: f"{value:.1f}") if name == "hd95" else (lambda value: f"{value:.3f}")
    return f"{show(interval.mean)}<small>{show(interval.lower)} to {show(interval.upper)}</small>"


def _done(summary: Summary) -> str:
    dice = next(iter(summary.arms.values()))["dice"]
    return _list([
        f"{summary.n_real} annotated training images; the synthetic arm also drew from {summary.n_synthetic} accepted pairs.",
        f"Each arm: {dice.seeds} training seeds, {summary.steps} optimizer steps, the same batch size, initial weights and "
        "classic augmentation.",
        "The best weights on the validation cases were kept. The test cases were opened for this page alone.",
        "Intervals: bootstrap over patients and seeds of the paired difference of each case.",
        f"Training of all segmenters took {summary.seconds / 60:.1f} minutes."])


def _quality(summary: Summary) -> str:
    quality = summary.quality
    share = f" ({quality.acceptance:.0%})" if quality.generated else ""
    left = [[html.escape(f"left out: {REASONS.get(why, why)}"), str(n)] for why, n in quality.reasons.items()]
    rows = [["accepted", f"{quality.accepted}{share}"], *left]
    note = f"{quality.generated} samples in {quality.batches} batches; batches that failed their check: {quality.quarantined}."
    return _table(["samples", "number"], rows) + f'<p class="note">{note}</p>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _figure(picture: Picture, classes: Sequence[str]) -> str:
    data, caption = base64.b64encode(picture.png).decode(), html.escape(picture.caption)
    key = '<i class="truth"></i>reference<i class="prediction"></i>prediction' if picture.name == "cases" else ""
    if classes and picture.name in ("cases", "pairs"):
        key = " reference solid, prediction dashed;" if picture.name == "cases" else ""
        key += "".join(f'<i class="truth" style="border-color:rgb{colour}"></i>{html.escape(name)}'
                       for name, colour in zip(classes, CLASS_COLOURS, strict=False))
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}{key}</figcaption></figure>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""
