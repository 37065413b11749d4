"""The report in words and tables, for readers of images; its markup is in `report.html.j2`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meddiff.cases import CLASS_COLOURS
from meddiff.evaluation.advice import advice_sentence
from meddiff.evaluation.arms import arm_name, look_of, main_arms
from meddiff.evaluation.bootstrap import LEAST_SEEDS, Interval
from meddiff.evaluation.figures import OUTLINES
from meddiff.evaluation.summary import Summary
from meddiff.pages import Entry, Picture, Table, counted, points, render
from meddiff.params.arms import COMBINED, TREATED, arm_of

NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 [px]", "nsd": "NSD"}
_SILENT = 0.1  # share of the lesion-free images; where nothing is found in so few, what is found says nothing
# The filter's reasons, in words.
REASONS = {
    "implausible": "unlike the real lesions",
    "copy": "copy of a real lesion",
    "agreement": "a segmenter finds the lesion elsewhere",
    "contrast": "no edge to be seen at the mask's border",
    "duplicate": "repeats another sample",
    "person": "removed by a person",
}


def headline(summary: Summary) -> tuple[str, Interval | None]:
    """The arm whose gain the page opens with, and this gain: `combined`, which uses all that there is, where it was trained."""
    return (COMBINED, summary.gains[COMBINED]) if COMBINED in summary.gains else (TREATED, summary.gain)


def verdict(gain: Interval | None, arm: str = TREATED) -> str:
    """The result of an arm in one sentence; a gain is claimed only where the whole interval is above zero, of seeds enough."""
    if gain is None or math.isnan(gain.mean):
        return f"No gain measured: that needs both the real and the {arm} arm, and test cases with lesions."
    numbers, pairs = _in_words(gain), look_of(arm).pairs
    if gain.seeds < LEAST_SEEDS:
        return f"No verdict, which needs {LEAST_SEEDS} training seeds (here {gain.seeds}): {pairs} changed the Dice by {numbers}."
    if gain.decided:
        return f"{pairs.capitalize()} {'raised' if gain.lower > 0 else 'lowered'} the Dice: {numbers}."
    return f"No gain shown by {pairs}: {numbers}, and the interval includes zero."


def further(summary: Summary) -> list[str]:
    """The paired gain over real images of each arm but the headline's, then the synthetic arm's difference from each, one
    sentence each; undefined ones are left out.
    """
    gains = [f"“{arm_name(arm)}” against real images only: {_in_words(gain)}." for arm, gain in summary.gains.items()
             if arm != headline(summary)[0] and not math.isnan(gain.mean)]
    return gains + [f"Synthetic arm against “{arm_name(arm)}”: {_in_words(effect)}." for arm, effect in summary.effects.items()
                    if not math.isnan(effect.mean)]


def _in_words(gain: Interval) -> str:
    return f"{points(gain.mean)} Dice points ({gain.confidence:.0%} interval {points(gain.lower)} to {points(gain.upper)})"


def report_page(
    summary: Summary, pictures: Sequence[Picture], title: str, made: str, tolerance: float, phantoms: bool = False,
    fidelity: Mapping[str, Any] | None = None,
) -> str:
    """Compose the page.

    Args:
        summary: every number that is shown.
        pictures: named `dice`, `gain`, `cases`, `pairs` or `loss`; those left out are left out of the page.
        title: what was evaluated, such as the dataset's name and image size.
        made: date, or whatever tells this evaluation from others.
        tolerance: tolerance of the normalised surface distance [pixels].
        phantoms: whether meddiff drew the images, which the page then says.
        fidelity: `filtering.fidelity.Fidelity.as_json`, for what the accepted pairs give away of the training cases.

    Returns:
        A complete HTML document without references to other files or hosts.
    """
    arm, gain = headline(summary)
    tone = "" if gain is None or not gain.decided else "better" if gain.lower > 0 else "worse"
    colours = [(name, f"rgb{colour}") for name, colour in zip(summary.by_class, CLASS_COLOURS, strict=False)]
    return render("evaluation/report.html.j2", title=title, made=made, phantoms=phantoms, verdict=verdict(gain, arm), tone=tone,
                  cards=_cards(summary), advice=advice_sentence(summary.advice) if summary.advice else "",
                  warnings=decision_warning(summary), further=further(summary), **report_tables(summary, tolerance),
                  done=_done(summary),
                  caveats=[*caveats(summary), *membership_words(fidelity or {})],
                  pictures={picture.name: picture for picture in pictures},
                  outlines={"cases": colours or OUTLINES, "pairs": colours})


def report_tables(summary: Summary, tolerance: float) -> dict[str, Table]:
    """The tables of the page, by their names there."""
    return {"arms": _arms(summary, tolerance), "classes": _classes(summary), "sizes": _sizes(summary),
            "detection": _detection(summary), "quality": _quality(summary)}


def caveats(summary: Summary) -> list[str]:
    """What limits the result, one sentence each, from its own numbers."""
    (_, gain), found = headline(summary), patient_warning(summary)
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
    return [*found, "One dataset and one split: other scanners, hospitals and kinds of lesion aren't covered.",
            "The interval covers the choice of test cases and training seeds, not that of the annotated cases or the generator.",
            "With synthetic images each batch holds fewer real ones; all arms had the same number of steps."]


def membership_words(fidelity: Mapping[str, Any]) -> list[str]:
    """Whether the accepted pairs tell training lesions from held-back ones, in a sentence; nothing where it wasn't measured."""
    found = fidelity.get("membership")
    if not found:
        return []
    share, lower, upper = (f"{found[name]:.0%}" for name in ("auc", "lower", "upper"))
    told = "they give away who was trained on" if found["lower"] > 0.5 else "more than chance isn't shown, which is no proof"
    return ["Who was trained on, guessed from the accepted pairs alone: of a training lesion and a held-back one it is the right "
            f"one in {share} of the cases (95% interval {lower} to {upper}; 50% is chance): {told}."]


def patient_warning(summary: Summary) -> list[str]:
    """A warning where images have no known patient; nothing where all have."""
    if not summary.unknown_patients:
        return []
    return [f"Warning: the patients of {counted(summary.unknown_patients, 'image')} aren't known. Images of one patient may lie "
            "on both sides of the test; then the scores are too good and the intervals too narrow."]


def decision_warning(summary: Summary) -> list[str]:
    """A warning where an arm finds a lesion in nearly all lesion-free test images, or where there are none to tell by."""
    known = {arm: found.specificity for arm, found in summary.detection.items() if found.specificity.cases}
    if summary.detection and not known:
        return ["No test image is lesion-free: whether the networks find lesions in healthy images, too, can't be told."]
    loud = {arm: share for arm, share in known.items() if share.mean <= _SILENT}
    if not loud:
        return []
    text = ", ".join(f"{arm} {1 - of.mean:.0%} ({1 - of.upper:.0%} to {1 - of.lower:.0%})" for arm, of in loud.items())
    return [f"Warning: a lesion is found in nearly all of the {next(iter(loud.values())).cases} lesion-free test images: {text}. "
            "That something is found there says nothing of whether there is a lesion."]


def _cards(summary: Summary) -> list[tuple[str, str]]:
    """The main numbers, each with its meaning."""
    (arm, gain), quality = headline(summary), summary.quality
    means = {name: summary.arms[name]["dice"].mean for name in main_arms(list(summary.arms))}
    cards = [("–" if math.isnan(mean) else f"{mean:.3f}", f"Dice, {arm_name(name)}") for name, mean in means.items()]
    if gain and not math.isnan(gain.mean):
        bounds = f"{points(gain.lower)} to {points(gain.upper)}"
        cards.append((points(gain.mean), f"points of gain, {arm_name(arm)}, {gain.confidence:.0%} interval {bounds}"))
    return [*cards, (f"{quality.accepted} of {quality.generated}", "synthetic pairs accepted")]


def _arms(summary: Summary, tolerance: float) -> Table:
    rows = [[arm_name(arm), *(_entry(interval, name) for name, interval in scores.items())]
            for arm, scores in summary.arms.items()]
    first, names = next(iter(summary.arms.values()))["dice"], list(next(iter(summary.arms.values())))
    note = (f"Means over {first.cases} test cases with a lesion and {first.seeds} training seeds, with their "
            f"{first.confidence:.0%} intervals. "
            "Dice, IoU: overlap, 1 is perfect. HD95: distance within which 95% of both outlines lie of each other, 0 is perfect. "
            f"NSD: share of the outlines within {tolerance:g} pixels of each other, 1 is perfect.")
    return Table(["trained on", *(NAMES.get(name, name) for name in names)], rows, note=note)


def _sizes(summary: Summary) -> Table:
    return _dice_table(summary, "lesion", summary.by_size, "A third of the test lesions each, by area.")


def _classes(summary: Summary) -> Table:
    note = ("Cases that hold the class, or in which an arm falsely found it, which counts as 0. All other numbers of this page "
            "take the mean over the classes of each case.")
    return _dice_table(summary, "class", summary.by_class, note)


def _detection(summary: Summary) -> Table:
    rows = list[list[Entry]]()
    for arm, found in summary.detection.items():
        hit = [f"{found.lesions_found:.0%}", f"of {found.lesions}"] if found.lesions else "–"
        extra = f"{found.false_positives:.2f}" if found.lesions else "–"
        rows.append([arm_name(arm), _share(found.specificity), _share(found.sensitivity), _entry(found.decision, "points"), hit,
                     extra])
    note = ("Specificity: lesion-free images in which nothing is found. Sensitivity: images with a lesion in which something is. "
            "With segment.decision_cost a segmenter finds nothing where its prediction misses bounds chosen on validation "
            "cases; what that changes in the Dice of the images with a lesion stands beside. A lesion is a connected region. It "
            "is found where a predicted region overlaps it with an IoU of at least 0.1; a predicted region that meets none so is "
            "a false find, however small. Lesion-free images count here alone.")
    return Table(["trained on", "specificity", "sensitivity", "Dice by this decision [points]", "lesions found",
                  "false finds in an image with lesions"], rows, note=note)


def _share(share: Interval) -> Entry:
    if not share.cases:
        return "–"
    return f"{share.mean:.0%}", f"{share.lower:.0%} to {share.upper:.0%}, {share.cases} images"


def _dice_table(summary: Summary, what: str, parts: Mapping[str, Mapping[str, Interval]], note: str) -> Table:
    shown = main_arms(list(summary.arms))
    arms = [*shown, *(["gain"] if summary.gain else [])]
    rows = [[(part, f"{next(iter(scores.values())).cases} cases"),
             *(_entry(scores[arm], "points" if arm == "gain" else "dice") for arm in arms)] for part, scores in parts.items()]
    heads = [*(f"Dice, {arm_name(arm)}" for arm in shown), *([f"gain, {arm_name(TREATED)} [points]"] if summary.gain else [])]
    return Table([what, *heads], rows, note=note)


def _entry(interval: Interval, name: str) -> Entry:
    if math.isnan(interval.mean):
        return "–"
    show = points if name == "points" else (lambda value: f"{value:.1f}") if name == "hd95" else (lambda value: f"{value:.3f}")
    return show(interval.mean), f"{show(interval.lower)} to {show(interval.upper)}"


def _seeds(summary: Summary) -> int:
    return next(iter(summary.arms.values()))["dice"].seeds


def _done(summary: Summary) -> list[str]:
    drew = f"; the synthetic arm also drew from {summary.n_synthetic} accepted pairs" if TREATED in summary.arms else ""
    stronger = any(arm_of(arm).augmentation == "strong" for arm in summary.arms)
    return [
        f"{summary.n_real} annotated training images{drew}.",
        f"Each arm: {counted(_seeds(summary), 'training seed')}, {summary.steps} optimizer steps, the same batch size, initial "
        f"weights and classic augmentation{' (in one arm of a strength chosen on validation cases)' if stronger else ''}.",
        "The best weights on the validation cases were kept. The test cases were opened for this page alone.",
        f"Intervals: bootstrap over {'images' if summary.unknown_patients else 'patients'} and seeds of the paired difference of "
        "each case."]


def _quality(summary: Summary) -> Table:
    quality = summary.quality
    share = f" ({quality.acceptance:.0%})" if quality.generated else ""
    kept = [["of these kept by people although a rule is against them", str(quality.kept)]] if quality.kept else []
    left = [[f"left out: {REASONS.get(why, why)}", str(n)] for why, n in quality.reasons.items()]
    note = f"{quality.generated} samples in {quality.batches} batches; batches that failed their check: {quality.quarantined}."
    return Table(["samples", "number"], [["accepted", f"{quality.accepted}{share}"], *kept, *left], note=note)
