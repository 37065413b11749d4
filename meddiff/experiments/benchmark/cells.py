"""Cells of the benchmark: a dataset, a label budget, a seed and a recipe, each the whole pipeline in a work tree of its own."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from meddiff import finished
from meddiff.errors import MeddiffError
from meddiff.experiments.benchmark.energy import metered
from meddiff.experiments.recipes import PAPER
from meddiff.experiments.run import pipeline_key, tree_run
from meddiff.layout import STAGES, Layout
from meddiff.outputs.tables import ARM_PAIRS, CASE_SCORES, CASES, DROPPED, VALIDATION
from meddiff.params import BenchmarkDataset, Params
from meddiff.params.arms import PUBLISHED, TREATED
from meddiff.params.file import load_params, parse_params
from meddiff.params.overrides import Overrides, merged, nested
from meddiff.services import versioning

_Recipe = Literal["method", "paper"]
_ALL = 10**9  # annotated cases: more than any dataset has
_SETTABLE = (*STAGES, "compute")  # sections of settings on which a cell depends
_ROW = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One run of the pipeline, evaluated on the dataset's test part.

    Attributes:
        dataset: with the settings of its own.
        budget: annotated training cases, or `all`.
        seed: of every random choice, that of the annotated cases included.
        recipe: whose settings: this project's `method`, or the `paper`'s.
        arms: of the comparison.
        samples: to make; None for `generate.n`.
    """

    dataset: BenchmarkDataset
    budget: int | Literal["all"]
    seed: int
    recipe: _Recipe
    arms: tuple[str, ...]
    samples: int | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset.name}-{self.budget}-{self.recipe}-{self.seed}"

    @property
    def own(self) -> Overrides:
        """What makes it this cell: no dataset's settings may change it."""
        chosen: Overrides = {"prepare": {"dataset": self.dataset.dataset, "path": self.dataset.path, "seed": self.seed,
                                         "n_labelled": _ALL if self.budget == "all" else self.budget}}
        if self.samples:
            chosen["generate"] = {"n": self.samples}
        # An arm that finds nothing to add counts as no gain: left out, it would spare the method its failures.
        return chosen | {"segment": {"arms": list(self.arms), "seeds": [self.seed], "empty_arms": "real"}}

    @property
    def overrides(self) -> Overrides:
        """What differs from `params.yaml`."""
        chosen = self.own
        for section, values in nested(self.dataset.settings | (PAPER if self.recipe == "paper" else {})).items():
            chosen[section] = chosen.get(section, {}) | values
        return chosen


def cells_of(params: Params) -> tuple[Cell, ...]:
    """All cells, a seed after the other, so that those which are finished first make a whole benchmark of fewer seeds.

    Raises:
        MeddiffError: a dataset's own settings break a rule, or change what a cell is.
    """
    found = tuple(_cells(params))
    for cell in found:
        _check(cell, params)
        parse_params(merged(params, cell.overrides), f"benchmark cell {cell.name}")
    return found


def _cells(params: Params) -> Iterator[Cell]:
    settings = params.benchmark
    budgets = dict.fromkeys((*settings.budgets, settings.budget))
    samples = {budget: _samples(params, budget) for budget in budgets}
    for seed in settings.seeds:
        for dataset in settings.datasets:
            for budget in budgets:
                further = settings.further if budget == settings.budget else ()
                yield Cell(dataset, budget, seed, "method", tuple(dict.fromkeys((*settings.arms, *further))), samples[budget])
        if settings.paper:  # last, so that processes beside each other seldom make what it shares with the method twice
            yield from (Cell(dataset, settings.budget, seed, "paper", (TREATED,), samples[settings.budget])
                        for dataset in settings.datasets)


def _check(cell: Cell, params: Params) -> None:
    for key in cell.dataset.settings:
        section, _, name = key.partition(".")
        if section not in _SETTABLE or name not in getattr(params, section).settable():
            rule, remedy = f"a stage has no setting `{key}`", "Name one as `section.name`, such as `segment.steps`"
        elif name in cell.own.get(section, {}):
            rule, remedy = f"the benchmark itself sets `{key}`", "Leave it out here; see `benchmark.budgets`, `seeds` and `arms`"
        else:
            continue
        raise MeddiffError(f"benchmark.datasets, settings of {cell.dataset.name}", rule, remedy)


def _samples(params: Params, budget: int | Literal["all"]) -> int | None:
    """How many cases `all` has isn't known before `prepare`: it gets at least as many samples as the largest budget."""
    per_case = params.benchmark.samples_per_case
    if per_case is None:
        return None
    if budget != "all":
        return math.ceil(per_case * budget)
    largest = max(number for number in (*params.benchmark.budgets, params.benchmark.budget) if number != "all")
    return max(params.generate.n, math.ceil(per_case * largest))


def key_of(layout: Layout, params: Params, cell: Cell) -> str:
    """Name under which a finished cell is kept: of all that its numbers depend on, the machine's settings included."""
    machine = merged(params, cell.overrides)["compute"] | {"cluster": ""}  # results are equal wherever units are done
    return finished.key(pipeline_key(layout, params, cell.overrides, "evaluate"), machine)


def run_cell(layout: Layout, cell: Cell, env: Mapping[str, str], out: Path) -> None:
    """Run the pipeline up to the test data, and put what it found into `out`.

    Finished segmenters stay beside the trees, under names made from what they were trained on: a cell that has failed, or that
    gets a further arm, trains only what it lacks.

    Args:
        layout: the project.
        cell: what to run.
        env: environment variables for the stages.
        out: an empty folder, for `per_case.csv`, `arms.csv` (arm, n_real, n_synthetic, n_wanted), `pictures/`, `cell.json`.

    Raises:
        MeddiffError: a stage failed, or the dataset has fewer annotated training cases than the budget.
    """
    with metered() as joules, tree_run(layout, "benchmark", cell.name, cell.overrides, env, {"joules": joules}) as run:
        tree = run.tree
        run.outlive("segment", layout.work / "benchmark/segmenters" / cell.name)
        run.up_to("prepare")
        labelled = _annotated(tree, "train")
        if cell.budget != "all" and labelled < cell.budget:
            raise MeddiffError(f"benchmark cell {cell.name}",
                               f"a budget of {cell.budget} needs as many annotated training cases, there are {labelled}",
                               "Lower `benchmark.budgets` and `benchmark.budget`, or take `all`")
        run.up_to("evaluate")
        outcome = run.outcome()
        shutil.copy(tree.report / CASE_SCORES.name, out / CASE_SCORES.name)
        shutil.copytree(tree.report / "pictures", out / "pictures")
        ARM_PAIRS.write(out, VALIDATION.read(tree.segmenters, *ARM_PAIRS.columns))
        row = {"dataset": cell.dataset.name, "budget": cell.budget, "seed": cell.seed, "recipe": cell.recipe,
               "labelled": labelled, "validation": _annotated(tree, "val"), "samples": outcome.samples,
               "accepted": outcome.accepted, "seconds": outcome.seconds, "joules": run.spent("joules"),
               "stages_run": len(outcome.ran), "peak_memory_mb": outcome.peak_memory_mb,
               "commit": versioning.git_commit(layout.root), "device": _device(load_params(tree.params).compute.device),
               "dropped": _dropped(tree), **outcome.numbers}
        (out / _ROW).write_text(json.dumps(row, indent=1))


def _annotated(tree: Layout, part: Literal["train", "val"]) -> int:
    folder = tree.cases("train") if part == "train" else tree.cases("val")
    return int(CASES.read(folder, "labelled")["labelled"].sum())


def _dropped(tree: Layout) -> dict[str, str]:
    """Arm -> why it was left out."""
    return {row.arm: row.reason.replace(f"{tree.root}/", "") for row in DROPPED.rows(tree.segmenters)}


def _device(setting: str) -> str:
    """What the networks ran on, in words."""
    import torch

    return torch.cuda.get_device_name() if setting != "cpu" and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, eq=False)
class CellResult:
    """What a cell found, under the benchmark's names: the paper's recipe is the arm `paper`.

    Attributes:
        row: of `cells.csv`.
        dropped: arm -> why it was left out.
        scores: `per_case.csv` with the columns dataset and budget.
        arms: one row an arm: dataset, budget, seed, arm, n_real, n_synthetic (pairs used), n_wanted (pairs asked for).
    """

    row: dict[str, Any]
    dropped: dict[str, str]
    scores: pd.DataFrame
    arms: pd.DataFrame


def read_cell(folder: Path, cell: Cell) -> CellResult:
    """Read what `run_cell` wrote."""
    row: dict[str, Any] = json.loads((folder / _ROW).read_text())
    dropped = row.pop("dropped")
    scores, arms = CASE_SCORES.read(folder), ARM_PAIRS.read(folder)
    arms.insert(0, "seed", row["seed"])
    for table in (scores, arms):
        if cell.recipe == "paper":
            table["arm"] = PUBLISHED
        table.insert(0, "dataset", row["dataset"])
        table.insert(1, "budget", row["budget"])
    return CellResult(row | {"dropped": " ".join(dropped)}, dropped, scores, arms)
