"""Trials of settings: the pipeline in a work tree of its own, what it gave and cost, and which one a search proposes."""

import csv
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.params import GenerateParams
from meddiff.params.arms import TREATED
from meddiff.params.overrides import Overrides
from meddiff.services import versioning


@dataclass(frozen=True)
class TrialOutcome:
    """What a trial's pipeline gave.

    Attributes:
        dice: mean validation Dice of each training seed, 0 to 1; empty if nothing was accepted.
        samples, accepted: generated samples and those that passed the filter.
        generated: samples made anew in this trial; 0 where the cache had them.
        seconds: wall time of this trial.
    """

    dice: tuple[float, ...]
    samples: int
    accepted: int
    generated: int
    seconds: float


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
    outcome: TrialOutcome

    def shown(self, name: str) -> str:
        """A setting's value as text."""
        value = self.settings[name]
        return value if isinstance(value, str) else f"{value:g}"


@dataclass(frozen=True)
class Chain:
    """What a run of the pipeline up to `segment` did.

    Attributes:
        ran: stages whose command ran; the others came from DVC's cache.
        samples, accepted: generated samples and those that passed the filter.
    """

    ran: tuple[str, ...]
    samples: int
    accepted: int


def pipeline_trial(layout: Layout, overrides: Overrides, env: Mapping[str, str]) -> TrialOutcome:
    """Run the pipeline up to `filter`, and to `segment` if pairs were accepted, in a work tree that stays only when interrupted.

    Raises:
        MeddiffError: a stage failed.
    """
    begun = time.monotonic()
    name = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:12]
    with own_tree(layout, trees(layout) / name, overrides) as tree:
        done = run_chain(tree, env)
        scores = validation_dice(tree.segmenters / "validation.csv") if done.accepted else ()
    return TrialOutcome(scores, done.samples, done.accepted, done.samples if "generate" in done.ran else 0,
                        time.monotonic() - begun)


@contextmanager
def own_tree(layout: Layout, dest: Path, overrides: Overrides) -> Iterator[Layout]:
    """A work tree at `dest` with changed settings; it goes when the block ends or fails, and stays when interrupted."""
    tree = Layout(versioning.work_tree(layout.root, dest, overrides))
    try:
        yield tree
    except MeddiffError:
        shutil.rmtree(tree.root)
        raise
    shutil.rmtree(tree.root)


def run_chain(tree: Layout, env: Mapping[str, str]) -> Chain:
    """Reproduce `filter`, and `segment` if pairs were accepted.

    Raises:
        MeddiffError: a stage failed.
    """
    ran = versioning.reproduce(tree.root, "filter", env, False, lambda line: None).ran
    verdicts = read_records(tree.synthetic, tree.filtered).decisions["verdict"]
    accepted = int((verdicts == "accepted").sum())
    if accepted:
        ran += versioning.reproduce(tree.root, "segment", env, False, lambda line: None).ran
    return Chain(ran, len(verdicts), accepted)


def validation_dice(table: Path) -> tuple[float, ...]:
    """Mean validation Dice of each seed of the synthetic arm, in the order of seeds.

    Raises:
        MeddiffError: the table is missing, or the arm isn't in it.
    """
    scores = arm_dice(table).get(TREATED)
    if not scores:
        raise MeddiffError(table, f"the arm `{TREATED}` must be in the table", "Run `dvc repro segment`")
    return tuple(scores[seed] for seed in sorted(scores))


def arm_dice(table: Path) -> dict[str, dict[int, float]]:
    """Arm -> seed -> mean validation Dice, from `validation.csv`.

    Raises:
        MeddiffError: the table is missing, or lacks a column.
    """
    scores: dict[str, dict[int, float]] = {}
    try:
        with table.open(newline="") as lines:
            for row in csv.DictReader(lines):
                scores.setdefault(row["arm"], {})[int(row["seed"])] = float(row["dice"])
    except (OSError, KeyError, ValueError) as e:
        raise MeddiffError(table, f"a table of arm, seed and dice must be there ({e!r})", "Run `dvc repro segment`") from e
    return scores


def trial_row(number: int, settings: dict[str, float | str], outcome: TrialOutcome, params: GenerateParams) -> TrialRow:
    """Sum a trial up; the cost counts each sample's denoising steps, twice with guidance, for each accepted pair."""
    passes = 1 if settings["generate.guidance_scale"] == 1 else 2  # guidance runs the network with and without the prompt
    runs = params.steps * params.strength * passes * outcome.samples
    cost = runs / outcome.accepted if outcome.accepted else math.inf
    dice = statistics.fmean(outcome.dice) if outcome.dice else math.nan
    error = statistics.stdev(outcome.dice) / math.sqrt(len(outcome.dice)) if len(outcome.dice) > 1 else 0.0
    return TrialRow(number, settings, dice, error, cost, outcome)


def propose(rows: Sequence[TrialRow]) -> TrialRow:
    """The cheapest of the trials within one standard error of the best mean Dice.

    Ours: with few seeds a smaller difference is noise, and then the share of samples that is thrown away decides.
    """
    top = max(rows, key=lambda row: row.dice)
    return min((row for row in rows if row.dice >= top.dice - top.error), key=lambda row: (row.cost, -row.dice, row.number))


def trees(layout: Layout) -> Path:
    """Folder of the trials' work trees."""
    return layout.work / "tune/trees"


def pending_execution(layout: Layout, action: str) -> str:
    """Name of the action's execution that isn't finished yet, so that its run in MLflow goes on; else a new one."""
    path = _execution_file(layout, action)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{action}-{uuid4().hex}")
    return path.read_text()


def forget_execution(layout: Layout, action: str) -> None:
    """Let the action's next start be a new execution."""
    _execution_file(layout, action).unlink(missing_ok=True)


def _execution_file(layout: Layout, action: str) -> Path:
    return layout.work / action / "execution"
