"""The report: one HTML page that holds its pictures and needs no network, written for readers of images."""

import html
import math
from collections.abc import Mapping, Sequence

from meddiff.cases import CLASS_COLOURS
from meddiff.evaluation.arms import arm_name, main_arms
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.summary import Summary
from meddiff.page import Picture, counted, document, figure, listed, points, section, table
from meddiff.params.arms import TREATED, arm_of

NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 [px]", "nsd": "NSD"}
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


def verdict(gain: Interval | None) -> str:
    """The result in one sentence; a gain is claimed only where the whole interval is above zero."""
    if gain is None or math.isnan(gain.mean):
        return "No gain measured: that needs both the real and the synthetic arm, and test cases with lesions."
    numbers = _in_words(gain)
    if gain.lower > 0:
        return f"Synthetic images raised the Dice: {numbers}."
    if gain.upper < 0:
        return f"Synthetic images lowered the Dice: {numbers}."
    return f"No gain shown: {numbers}, and the interval includes zero."


def further(summary: Summary) -> list[str]:
    """The paired gain of each further arm over real images, then the synthetic arm's difference from each, one sentence each;
    undefined ones are left out.
    """
    gains = [f"“{arm_name(arm)}” against real images only: {_in_words(gain)}." for arm, gain in summary.gains.items()
             if arm != TREATED and not math.isnan(gain.mean)]
    return gains + [f"Synthetic arm against “{arm_name(arm)}”: {_in_words(effect)}." for arm, effect in summary.effects.items()
                    if not math.isnan(effect.mean)]


def _in_words(gain: Interval) -> str:
    return f"{points(gain.mean)} Dice points ({gain.confidence:.0%} interval {points(gain.lower)} to {points(gain.upper)})"


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
    return document(f"{title}: what synthetic images gained", f"""<h1>Do the synthetic images help the segmentation?</h1>
<p class="kicker">{html.escape(title)} · {html.escape(made)}</p>
{_verdict(summary)}
{section("Scores on the test cases", _arms(summary, tolerance) + shown.get("dice", "") + shown.get("gain", ""))}
{section("By class", _classes(summary))}
{section("By lesion size", _sizes(summary))}
{section("Detection", _detection(summary))}
{section("Test cases, from best to worst", shown.get("cases", ""))}
{section("Synthetic pairs that were accepted", shown.get("pairs", ""))}
<div class="two"><section><h2>What was done</h2>{_done(summary)}</section>
<section><h2>Quality of the synthetic data</h2>{_quality(summary)}</section></div>
<section><h2>How far to trust this</h2>{listed(caveats(summary))}</section>
{section("Fine-tuning of the generator", shown.get("loss", ""))}
{section("Privacy", PRIVACY)}""")


def caveats(summary: Summary) -> list[str]:
    """What limits the result, one sentence each, from its own numbers."""
    gain, found = summary.gain, []
    if gain and gain.cases < 100:
        found.append(f"{gain.cases} test cases: differences of about one point need 100 to 200 to be told from chance.")
    if (seeds := gain.seeds if gain else _seeds(summary)) < 5:
        found.append(f"{counted(seeds, 'training seed')}: the luck of training is hardly known, and intervals may be too narrow.")
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
    if summary.detection and not any(one.specificity.cases for one in summary.detection.values()):
        found.append("No test image is lesion-free: what the networks find in healthy images isn't known.")
    return [*found, "One dataset and one split: other scanners, hospitals and kinds of lesion aren't covered.",
            "The interval covers the choice of test cases and training seeds, not that of the annotated cases or the generator.",
            "With synthetic images each batch holds fewer real ones; all arms had the same number of steps."]


def _verdict(summary: Summary) -> str:
    gain, quality = summary.gain, summary.quality
    tone = "" if gain is None or not gain.decided else " better" if gain.lower > 0 else " worse"
    means = {arm: summary.arms[arm]["dice"].mean for arm in main_arms(list(summary.arms))}
    cards = [("–" if math.isnan(mean) else f"{mean:.3f}", f"Dice, {arm_name(arm)}") for arm, mean in means.items()]
    if gain and not math.isnan(gain.mean):
        bounds = f"{points(gain.lower)} to {points(gain.upper)}"
        cards.append((points(gain.mean), f"points of gain, {gain.confidence:.0%} interval {bounds}"))
    cards.append((f"{quality.accepted} of {quality.generated}", "synthetic pairs accepted"))
    tiles = "".join(f'<div class="card"><b>{value}</b><span>{html.escape(label)}</span></div>' for value, label in cards)
    return f'<section class="verdict{tone}"><h2>{html.escape(verdict(gain))}</h2><div class="cards">{tiles}</div></section>'


def _arms(summary: Summary, tolerance: float) -> str:
    rows = [[arm_name(arm), *(_cell(scores[name], name) for name in NAMES)] for arm, scores in summary.arms.items()]
    first = next(iter(summary.arms.values()))["dice"]
    note = (f"Means over {first.cases} test cases with a lesion and {first.seeds} training seeds, with their "
            f"{first.confidence:.0%} intervals. "
            "Dice, IoU: overlap, 1 is perfect. HD95: distance within which 95% of both outlines lie of each other, 0 is perfect. "
            f"NSD: share of the outlines within {tolerance:g} pixels of each other, 1 is perfect.")
    scores = table(["trained on", *NAMES.values()], rows) + f'<p class="note">{note}</p>'
    return scores + (listed(lines) if (lines := further(summary)) else "")


def _sizes(summary: Summary) -> str:
    table = _dice_table(summary, "lesion", summary.by_size)
    return table + '<p class="note">A third of the test lesions each, by area.</p>' if table else ""


def _detection(summary: Summary) -> str:
    rows = []
    for arm, found in summary.detection.items():
        silent, false, hit, extra = found.specificity, "–", "–", "–"
        if silent.cases:
            false = (f"{1 - silent.mean:.0%}<small>{1 - silent.upper:.0%} to {1 - silent.lower:.0%}, "
                     f"{silent.cases} images</small>")
        if found.lesions:
            hit, extra = f"{found.sensitivity:.0%}<small>of {found.lesions}</small>", f"{found.false_positives:.2f}"
        rows.append([arm_name(arm), false, hit, extra])
    note = ("A lesion is a connected region. It is found where a predicted region overlaps it with an IoU of at least 0.1; a "
            "predicted region that meets none so is a false find, however small. Lesion-free images count here alone.")
    heads = ["trained on", "falsely found in lesion-free images", "lesions found", "false finds in an image with lesions"]
    return table(heads, rows) + f'<p class="note">{note}</p>' if rows else ""


def _classes(summary: Summary) -> str:
    table = _dice_table(summary, "class", summary.by_class)
    note = ("Cases that hold the class, or in which an arm falsely found it, which counts as 0. All other numbers of this page "
            "take the mean over the classes of each case.")
    return f'{table}<p class="note">{note}</p>' if table else ""


def _dice_table(summary: Summary, what: str, parts: Mapping[str, Mapping[str, Interval]]) -> str:
    shown = main_arms(list(summary.arms))
    arms = [*shown, *(["gain"] if summary.gain else [])]
    rows = [[f"{html.escape(part)} <small>{next(iter(scores.values())).cases} cases</small>",
             *(_cell(scores[arm], "points" if arm == "gain" else "dice") for arm in arms)] for part, scores in parts.items()]
    heads = [*(f"Dice, {arm_name(arm)}" for arm in shown), *(["gain [points]"] if summary.gain else [])]
    return table([what, *heads], rows) if rows else ""


def _cell(interval: Interval, name: str) -> str:
    if math.isnan(interval.mean):
        return "–"
    show = points if name == "points" else (lambda value: f"{value:.1f}") if name == "hd95" else (lambda value: f"{value:.3f}")
    return f"{show(interval.mean)}<small>{show(interval.lower)} to {show(interval.upper)}</small>"


def _seeds(summary: Summary) -> int:
    return next(iter(summary.arms.values()))["dice"].seeds


def _done(summary: Summary) -> str:
    drew = f"; the synthetic arm also drew from {summary.n_synthetic} accepted pairs" if TREATED in summary.arms else ""
    stronger = any(arm_of(arm).augmentation == "strong" for arm in summary.arms)
    return listed([
        f"{summary.n_real} annotated training images{drew}.",
        f"Each arm: {counted(_seeds(summary), 'training seed')}, {summary.steps} optimizer steps, the same batch size, initial "
        f"weights and classic augmentation{' (stronger in one arm, which says so)' if stronger else ''}.",
        "The best weights on the validation cases were kept. The test cases were opened for this page alone.",
        "Intervals: bootstrap over patients and seeds of the paired difference of each case.",
        f"Training of all segmenters took {summary.seconds / 60:.1f} minutes."])


def _quality(summary: Summary) -> str:
    quality = summary.quality
    share = f" ({quality.acceptance:.0%})" if quality.generated else ""
    left = [[html.escape(f"left out: {REASONS.get(why, why)}"), str(n)] for why, n in quality.reasons.items()]
    rows = [["accepted", f"{quality.accepted}{share}"], *left]
    note = f"{quality.generated} samples in {quality.batches} batches; batches that failed their check: {quality.quarantined}."
    return table(["samples", "number"], rows) + f'<p class="note">{note}</p>'


def _figure(picture: Picture, classes: Sequence[str]) -> str:
    key = '<i class="truth"></i>reference<i class="prediction"></i>prediction' if picture.name == "cases" else ""
    if classes and picture.name in ("cases", "pairs"):
        key = " reference solid, prediction dashed;" if picture.name == "cases" else ""
        key += "".join(f'<i class="truth" style="border-color:rgb{colour}"></i>{html.escape(name)}'
                       for name, colour in zip(classes, CLASS_COLOURS, strict=False))
    return figure(picture, key)
