"""Cells of the benchmark: a dataset, a label budget, a seed and a recipe, each the whole pipeline in a work tree of its own."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from meddiff.cases import sha256
from meddiff.errors import MeddiffError
from meddiff.experiments.ablation.parts import NO_FILTER
from meddiff.experiments.ablation.variants import fidelity_numbers
from meddiff.experiments.benchmark.energy import metered
from meddiff.experiments.run import own_tree
from meddiff.layout import STAGES, Layout, replacing
from meddiff.outputs.samples import read_records
from meddiff.params import BenchmarkDataset, Params
from meddiff.params.arms import PUBLISHED, TREATED
from meddiff.params.file import load_params, parse_params
from meddiff.params.overrides import Overrides, merged, nested
from meddiff.services import versioning

Recipe = Literal["method", "paper"]
ALL = 10**9  # annotated cases: more than any dataset has
SETTABLE = (*STAGES, "compute")  # sections of settings on which a cell depends
ROW = "cell.json"

# The paper's published recipe on the same foundation: the training and sampling of `params/paper.yaml`, one image at a time, its
# released code's exact mask, and nothing of what was never released: no filter, no corrosion. Masks and backgrounds are ours, and
# the precision is that of all cells, so that their segmenters differ in the recipe alone.
PAPER: dict[str, Any] = {
    "finetune.mode": "full", "finetune.steps": 500, "finetune.batch_size": 1, "finetune.accumulation": 2,
    "finetune.learning_rate": 3e-6, "finetune.weight_decay": 1e-2, "finetune.gradient_clip": 1.0, "finetune.ema_decay": 0.0,
    "finetune.inside_weight": 1.0, "finetune.outside_weight": 1.0, "finetune.min_snr": 0.0, "finetune.prompt_dropout": 0.0,
    "finetune.token": "",
    "generate.batch_size": 1, "generate.steps": 50, "generate.scheduler": "ddim", "generate.guidance_scale": 7.5,
    "generate.strength": 1.0, "generate.site_share": 0.0, "generate.mask_widening": 0.0, "generate.adaptive": False,
    "generate.rim": 0, "generate.feather": False, "generate.texture": 0.0, "filter.corrosion_radius": 0.0, **NO_FILTER}


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
    recipe: Recipe
    arms: tuple[str, ...]
    samples: int | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset.name}-{self.budget}-{self.recipe}-{self.seed}"

    @property
    def own(self) -> Overrides:
        """What makes it this cell: no dataset's settings may change it."""
        chosen: Overrides = {"prepare": {"dataset": self.dataset.dataset, "path": self.dataset.path, "seed": self.seed,
                                         "n_labelled": ALL if self.budget == "all" else self.budget}}
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
        if section not in SETTABLE or name not in getattr(params, section).settable():
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
    """Name under which a finished cell is kept: of its settings, the stages' code, and the files of dataset and networks."""
    values = merged(params, cell.overrides)
    chain = [values[section] for section in SETTABLE]
    digest = hashlib.sha256(json.dumps(chain, sort_keys=True, default=str).encode())
    for path in _code(layout.root):
        digest.update(path.read_bytes())
    raw = [] if cell.dataset.dataset == "demo" else [cell.dataset.path]
    # Settings that may name a file or folder; hub ids and words are text.
    networks = [values["foundation"]["source"], values["segment"]["encoder_weights"],
                values["filter"]["extractor"].rpartition(":")[2]]
    for place in (layout.root / Path(name).expanduser() for name in (*raw, *filter(None, networks))):
        for path in [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file()):
            content = _content(path, path.stat().st_size, path.stat().st_mtime_ns)
            digest.update(f"{path.relative_to(place)} {content}".encode())
    return f"{cell.name}-{digest.hexdigest()[:12]}"


@cache
def _content(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file, read again only when size or time have changed: a copy of a dataset, with times of its own, is the same."""
    return sha256(path)


def _code(root: Path) -> list[Path]:
    """The files of code that `dvc.yaml` names, those in packages included."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    named = {root / dep for stage in stages.values() for dep in stage.get("deps", []) if isinstance(dep, str)}
    return sorted({file for path in named for file in (path.rglob("*.py") if path.is_dir() else [path])
                   if file.suffix == ".py" and file.is_file()})


def run_cell(layout: Layout, cell: Cell, env: Mapping[str, str], out: Path) -> None:
    """Run the pipeline in a work tree that stays only when interrupted, and put what it found into `out`.

    Finished segmenters stay beside the trees, under names made from what they were trained on: a cell that has failed, or that
    gets a further arm, trains only what it lacks.

    Args:
        layout: the project.
        cell: what to run.
        env: environment variables for the stages.
        out: folder to make: `per_case.csv`, `arms.csv` (arm, n_real, n_synthetic, n_wanted), `pictures/`, `cell.json`.

    Raises:
        MeddiffError: a stage failed, or the dataset has fewer annotated training cases than the budget.
    """
    work = layout.work / "benchmark"
    with own_tree(layout, work / "trees" / cell.name, cell.overrides) as tree, replacing(out) as fresh:
        with (metered() as energy, _kept(tree.work / "seconds", time.monotonic) as seconds,
              _kept(tree.work / "joules", energy) as joules):
            _link(tree.work / "segment", work / "segmenters" / cell.name)
            prepared = versioning.reproduce(tree.root, "prepare", env, False, lambda line: None)
            labelled = _annotated(tree, "train")
            if cell.budget != "all" and labelled < cell.budget:
                raise MeddiffError(f"benchmark cell {cell.name}",
                                   f"a budget of {cell.budget} needs as many annotated training cases, there are {labelled}",
                                   "Lower `benchmark.budgets` and `benchmark.budget`, or take `all`")
            done = versioning.reproduce(tree.root, "evaluate", env, False, lambda line: None)
        shutil.copy(tree.report / "per_case.csv", fresh / "per_case.csv")
        shutil.copytree(tree.report / "pictures", fresh / "pictures")
        trained = pd.read_csv(tree.segmenters / "validation.csv")
        trained[["arm", "n_real", "n_synthetic", "n_wanted"]].to_csv(fresh / "arms.csv", index=False)
        verdicts = read_records(tree.synthetic, tree.filtered).decisions["verdict"]
        row = {"dataset": cell.dataset.name, "budget": cell.budget, "seed": cell.seed, "recipe": cell.recipe,
               "labelled": labelled, "validation": _annotated(tree, "val"), "samples": len(verdicts),
               "accepted": int((verdicts == "accepted").sum()), "seconds": seconds(), "joules": joules(),
               "stages_run": len(prepared.ran) + len(done.ran),
               "peak_memory_mb": max(prepared.peak_memory_mb, done.peak_memory_mb), "commit": versioning.git_commit(layout.root),
               "device": _device(load_params(tree.params).compute.device), "dropped": _dropped(tree),
               **fidelity_numbers(tree.filtered / "fidelity.json")}
        (fresh / ROW).write_text(json.dumps(row, indent=1))


@contextmanager
def _kept(file: Path, count: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """What `count` counts in this block, and in those before it that were interrupted, which `file` keeps."""
    begun, before = count(), float(file.read_text()) if file.is_file() else 0.0

    def so_far() -> float:
        return before + count() - begun

    try:
        yield so_far
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{so_far():.1f}")


def _link(here: Path, kept: Path) -> None:
    """Let `here` be the folder `kept`, which outlives the tree."""
    kept.mkdir(parents=True, exist_ok=True)
    here.parent.mkdir(parents=True, exist_ok=True)
    if not here.exists():
        here.symlink_to(kept.resolve(), target_is_directory=True)


def _annotated(tree: Layout, part: Literal["train", "val"]) -> int:
    folder = tree.cases("train") if part == "train" else tree.cases("val")
    return int(pd.read_csv(folder / "cases.csv")["labelled"].sum())


def _dropped(tree: Layout) -> dict[str, str]:
    """Arm -> why it was left out."""
    table = pd.read_csv(tree.segmenters / "dropped.csv", dtype=str)
    return {arm: reason.replace(f"{tree.root}/", "") for arm, reason in zip(table["arm"], table["reason"], strict=True)}


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
    row: dict[str, Any] = json.loads((folder / ROW).read_text())
    dropped = row.pop("dropped")
    scores = pd.read_csv(folder / "per_case.csv", dtype={"case": str, "group": str}, keep_default_na=False, na_values=[""])
    arms = pd.read_csv(folder / "arms.csv")
    arms.insert(0, "seed", row["seed"])
    for table in (scores, arms):
        if cell.recipe == "paper":
            table["arm"] = PUBLISHED
        table.insert(0, "dataset", row["dataset"])
        table.insert(1, "budget", row["budget"])
    return CellResult(row | {"dropped": " ".join(dropped)}, dropped, scores, arms)
