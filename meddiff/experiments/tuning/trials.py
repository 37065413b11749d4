"""Trials of settings: what is searched, one trial, and which one is proposed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from meddiff import finished
from meddiff.errors import MeddiffError
from meddiff.experiments.run import Outcome, tree_run
from meddiff.layout import Layout
from meddiff.params import GenerateParams, Params
from meddiff.params.arms import TREATED
from meddiff.params.file import parse_params
from meddiff.params.overrides import Overrides, merged


@dataclass(frozen=True)
class Axis:
    """A setting that is searched, on a grid: values that come again are found in the cache, and stay readable."""

    section: str
    name: str
    step: float
    low: float = 0.0
    high: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    def current(self, params: Params) -> float | str:
        value: float | str = getattr(getattr(params, self.section), self.name)
        return value if isinstance(value, str) else float(value)

    def nearest(self, value: float | str) -> float:
        """The grid's value next to this one; the least for a word such as `auto`, which isn't searched but may be current."""
        if isinstance(value, str):
            return self.low
        return min(self.high, max(self.low, self.low + round((value - self.low) / self.step) * self.step))


AXES = (Axis("generate", "guidance_scale", 0.5), Axis("filter", "similarity_low", 0.01), Axis("filter", "similarity_high", 0.005),
        Axis("filter", "corrosion_radius", 0.5))


def axes_of(layout: Layout, params: Params) -> list[Axis]:
    """The grid within the ranges of `tune`.

    Raises:
        MeddiffError: a range is turned round or goes beyond what the setting allows, or the filter's bounds could cross.
    """
    axes = []
    for axis in AXES:
        low, high = getattr(params.tune, axis.name)
        where = f"{layout.params}: tune.{axis.name}"
        if low > high:
            raise MeddiffError(where, f"a range goes from the lesser to the greater value, not from {low} to {high}",
                               "Turn it round")
        for value in (low, high):
            parse_params(merged(params, {axis.section: {axis.name: value}}), where)
        axes.append(replace(axis, low=low, high=low + math.floor((high - low) / axis.step + 1e-6) * axis.step))
    if axes[1].high >= axes[2].low:
        raise MeddiffError(f"{layout.params}: tune.similarity_low",
                           f"its range must end below that of similarity_high, which begins at {axes[2].low}", "Lower its end")
    return axes


def run_trial(layout: Layout, overrides: Overrides, env: Mapping[str, str]) -> Outcome:
    """Run the pipeline up to `segment`.

    Raises:
        MeddiffError: a stage failed.
    """
    with tree_run(layout, "tune", finished.key(overrides), overrides, env) as run:
        return run.validate()


@dataclass(frozen=True)
class TrialRow:
    """One finished trial.

    Attributes:
        settings: `section.name` -> value, a word only where the project's own setting is one, such as `auto`.
        dice: mean over seeds, NaN if nothing was accepted; `error` is its standard error, 0 with one seed.
        cost: runs of the denoising network for each accepted pair, which depends neither on the machine nor on the cache.
    """

    number: int
    settings: dict[str, float | str]
    dice: float
    error: float
    cost: float
    outcome: Outcome

    def shown(self, name: str) -> str:
        """A setting's value as text."""
        value = self.settings[name]
        return value if isinstance(value, str) else f"{value:g}"


def trial_row(number: int, settings: dict[str, float | str], outcome: Outcome, params: GenerateParams) -> TrialRow:
    """Sum a trial up; the cost counts each sample's denoising steps, twice with guidance, for each accepted pair."""
    passes = 1 if settings["generate.guidance_scale"] == 1 else 2  # guidance runs the network with and without the prompt
    runs = params.steps * params.strength * passes * outcome.samples
    cost = runs / outcome.accepted if outcome.accepted else math.inf
    scores = list(outcome.dice.get(TREATED, {}).values())
    dice = statistics.fmean(scores) if scores else math.nan
    error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return TrialRow(number, settings, dice, error, cost, outcome)


def propose(rows: Sequence[TrialRow]) -> TrialRow:
    """The cheapest of the trials within one standard error of the best mean Dice.

    Ours: with few seeds a smaller difference is noise, and then the share of samples that is thrown away decides.
    """
    top = max(rows, key=lambda row: row.dice)
    return min((row for row in rows if row.dice >= top.dice - top.error), key=lambda row: (row.cost, -row.dice, row.number))
