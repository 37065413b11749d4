"""What an evaluation tells beside its page: the test images in words, the result in lines."""

from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path

from meddiff.cases import DEEP, Case
from meddiff.evaluation.advice import advice_sentence, worth_command
from meddiff.evaluation.page import decision_warning, further, headline, patient_warning, verdict
from meddiff.evaluation.summary import Summary


def closing_lines(summary: Summary, page: Path) -> list[str]:
    """What the stage tells at its end: Dice of each arm, the gains, warnings, which arm to use, and where the report lies."""
    lines = []
    for arm, scores in summary.arms.items():
        dice = scores["dice"]
        lines.append(f"Dice, {arm} arm: {dice.mean:.3f} ({dice.confidence:.0%} interval {dice.lower:.3f} to {dice.upper:.3f}; "
                     f"{dice.cases} test cases, {dice.seeds} seeds)")
    arm, gain = headline(summary)
    worth = f"How many more annotated images that is worth: {worth_command(summary.n_real)}"
    return [*lines, verdict(gain, arm), *further(summary), *patient_warning(summary), *decision_warning(summary),
            *([advice_sentence(summary.advice), worth] if summary.advice else []), f"Report: {page}"]


def describe_images(cases: Sequence[Case], modes: Collection[str]) -> str:
    """The images in words: size, and what was done to bring them to square RGB of 8 bits.

    Args:
        modes: Pillow's pixel formats of the raw images.
    """
    side = len(cases[0].image)
    words = [f"{side} × {side} pixels"]
    if any(case.frame and (case.frame.height, case.frame.width) != (side, side) for case in cases):
        words.append("padded to squares (what is predicted on the bars doesn't count)")
    if all((case.image == case.image[:, :, :1]).all() for case in cases):
        words.append("gray in three equal channels")
    return ", ".join([*words, *(["brought from more than 8 bits to 8"] if set(modes) & set(DEEP) else [])])


def describe_look(looks: int, about: Sequence[str] = ()) -> str:
    """The day, how often these test cases have been looked at, this time included (0: not known), and what else is known."""
    told = date.today().isoformat()
    if looks:
        told += f", look {looks} at these test cases" + (" (of several looks the best is too good)" if looks > 1 else "")
    return " · ".join([told, *about])
