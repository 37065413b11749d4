"""The card of the delivered segmenters: what they are, and their test figures as they are."""

import math
from collections.abc import Sequence

from meddiff.evaluation.arms import arm_name
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.page import NAMES, caveats
from meddiff.evaluation.summary import Summary
from meddiff.pages import render


def segmenter_card(delivered: Summary, summary: Summary, seeds: Sequence[int], classes: Sequence[str], size: int, fit: str,
                   validation_dice: float, decided: bool, phantoms: bool) -> str:
    """Compose the card, in Markdown.

    Args:
        delivered: of all seeds of the arm together, which is its only arm.
        summary: of every arm, seed by seed.
        seeds: of the training.
        classes: their names.
        size: side of the square that the networks see [pixels].
        fit: how an image is made square.
        validation_dice: mean over the seeds, NaN where it isn't known.
        decided: whether networks have bounds for the whole image, see `segmentation.decision`.
        phantoms: whether meddiff drew the images.
    """
    ((arm, together),), single = delivered.arms.items(), summary.arms
    scores = [[label, _figure(together[name], name), _figure(single[arm][name], name)] for name, label in NAMES.items()]
    sizes = [f"{part} lesions ({own[arm].cases} cases): Dice {_figure(own[arm], 'dice')}"
             for part, own in delivered.by_size.items()]
    silent = delivered.detection[arm].specificity
    if silent.cases:
        interval = f"{silent.lower:.0%} to {silent.upper:.0%}"
        sizes.append(f"lesion-free images ({silent.cases}): nothing found in {silent.mean:.0%} ({interval})")
    return render("evaluation/segmenter_card.md.j2", words=arm_name(arm), arm=arm, seeds=seeds, classes=classes, size=size,
                  fit=fit, validation="" if math.isnan(validation_dice) else f"{validation_dice:.3f}", real=delivered.n_real,
                  synthetic=delivered.n_synthetic, steps=delivered.steps, cases=together["dice"].cases,
                  confidence=f"{together['dice'].confidence:.0%}", scores=scores, sizes=sizes, caveats=caveats(summary),
                  decided=decided, phantoms=phantoms)


def _figure(interval: Interval, name: str) -> str:
    if math.isnan(interval.mean):
        return "–"
    digits = 1 if name == "hd95" else 3
    return f"{interval.mean:.{digits}f} ({interval.lower:.{digits}f} to {interval.upper:.{digits}f})"
