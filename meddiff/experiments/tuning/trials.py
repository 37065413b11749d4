"""Trials of settings: one trial, what it gave and cost, and which one is proposed, with the reason."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from filelock import FileLock

from meddiff import finished
from meddiff.experiments.run import Outcome, tree_run
from meddiff.experiments.tuning.space import Value
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.arms import TREATED
from meddiff.params.overrides import Overrides, merged

Hopeless = Callable[[Outcome], bool]  # of a trial's first training seed: whether the others are spared
State = Literal["complete", "nothing accepted", "stopped"]
_BATCH = 8  # of the segmenters that find lesions and inspect


def run_trial(layout: Layout, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None = None) -> Outcome:
    """Run the pipeline up to `segment`; with `hopeless` the first training seed alone, and the others if that one isn't.

    Args:
        layout: the project.
        overrides: section -> name -> value; the training seeds are among them.
        env: environment variables for the stages.
        hopeless: asked after the first seed; the segmenters of this seed aren't trained again.

    Raises:
        MeddiffError: a stage failed.
    """
    name, seeds = finished.key(overrides), overrides["segment"]["seeds"]
    (locks := layout.work / "tune/locks").mkdir(parents=True, exist_ok=True)
    # A second worker with the same values waits, and finds all that it needs in the cache.
    with FileLock(locks / name), tree_run(layout, "tune", name, overrides, env) as run:
        if hopeless and len(seeds) > 1:
            run.up_to("filter")
            run.change({"segment": {"seeds": seeds[:1]}})
            first = run.validate()
            if not first.accepted or hopeless(first):
                return first
            run.change({"segment": {"seeds": seeds}})
        return run.validate()


@dataclass(frozen=True)
class TrialRow:
    """One finished trial.

    Attributes:
        settings: `section.name` -> value, as it ran.
        dice: mean over seeds, NaN if nothing was accepted; `error` is its standard error, 0 with one seed.
        cost: images that pass through networks up to the accepted pairs, in thousands; depends neither on machine nor on cache.
        state: `stopped` after its first seed; then `dice` is of that seed.
    """

    number: int
    settings: dict[str, Value]
    dice: float
    error: float
    cost: float
    outcome: Outcome
    state: State = "complete"

    def shown(self, name: str) -> str:
        """A setting's value as text."""
        value = self.settings[name]
        return value if isinstance(value, str) else f"{value:g}"


@dataclass(frozen=True)
class Proposal:
    """The trial whose settings are proposed, and why it and no other."""

    row: TrialRow
    reason: str


def trial_row(number: int, settings: dict[str, Value], outcome: Outcome, params: Params, state: State = "complete") -> TrialRow:
    """Sum a trial up; `params` are the settings that it ran with."""
    scores = list(outcome.dice.get(TREATED, {}).values())
    dice = statistics.fmean(scores) if scores else math.nan
    error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return TrialRow(number, settings, dice, error, network_passes(params, outcome.samples) / 1000, outcome,
                    state if outcome.accepted else "nothing accepted")


def network_passes(params: Params, samples: int) -> float:
    """Images that pass through networks from the foundation to the samples; one of a training step counts three times (ours: the
    way back costs twice the way there)."""
    foundation, finders, tuning, painting = params.foundation, params.backgrounds, params.finetune, params.generate
    trained = foundation.steps * foundation.batch_size + params.mask_model.steps * params.mask_model.batch_size
    trained += (finders.inspector_steps + 2 * finders.finder_rounds * finders.finder_steps) * _BATCH
    trained += tuning.steps * tuning.batch_size * tuning.accumulation
    passes = 1 if painting.guidance_scale == 1 else 2  # guidance runs the network with and without the prompt
    return 3 * trained + samples * painting.steps * painting.strength * passes


def with_settings(params: Params, overrides: Overrides) -> Params:
    """All settings, some of them changed."""
    return Params.model_validate(merged(params, overrides))


def pareto(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials that no other beats in Dice at no more cost, or in cost at no less Dice."""
    return [row for row in rows if not any(other.dice >= row.dice and other.cost <= row.cost and
                                           (other.dice > row.dice or other.cost < row.cost) for other in rows)]


def propose(rows: Sequence[TrialRow]) -> Proposal:
    """The cheapest of the trials within one standard error of the best mean Dice; among equally dear ones that of most pairs.

    Ours: with few seeds a smaller difference is noise, and then cost, and the share of samples that is thrown away, decide.
    """
    top = max(rows, key=lambda row: row.dice)
    near = [row for row in rows if row.dice >= top.dice - top.error]
    best = min(near, key=lambda row: (row.cost, -row.outcome.accepted, -row.dice, row.number))
    if best is top:
        return Proposal(top, "it has the best Dice" + (", and none within its standard error "
                        f"({top.error:.4f}) is cheaper" if len(near) > 1 else ""))
    less = (f"costs {best.cost:.1f} thousand passes, that one {top.cost:.1f}" if best.cost < top.cost else
            f"has {best.outcome.accepted} accepted pairs, that one {top.outcome.accepted}")
    return Proposal(best, f"its Dice is within one standard error ({top.error:.4f}) of the best, {top.dice:.4f} of trial "
                          f"{top.number}, which is noise, and it {less}")


def behind(first: Outcome, cost: float, rows: Sequence[TrialRow], least: int) -> bool:
    """Whether a trial's first training seed is below the median of this seed in the trials that cost no more, if `least` did."""
    (seed, dice), = first.dice[TREATED].items()
    others = [row.outcome.dice[TREATED][seed] for row in rows if row.cost <= cost and seed in row.outcome.dice.get(TREATED, {})]
    return len(others) >= least and dice < statistics.median(others)
