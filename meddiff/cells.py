"""Cells of the benchmark: a dataset, a label budget, a seed and a recipe, each the whole pipeline in a work tree of its own."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from meddiff import versioning
from meddiff.cases import sha256
from meddiff.layout import Layout, replacing
from meddiff.params import BenchmarkDataset, Params
from meddiff.params_file import parse_params
from meddiff.parts import NO_FILTER
from meddiff.records import read_records
from meddiff.tracking.execution import peak_memory
from meddiff.trials import ARM, Overrides, merged, nested, own_tree
from meddiff.variants import fidelity_numbers

Recipe = Literal["method", "paper"]
ALL = 10**9  # annotated cases: more than any dataset has
SEEDED = ("prepare", "foundation", "backgrounds", "mask_model", "finetune", "generate", "filter")
CHAIN = (*SEEDED, "segment", "evaluate")
ROW = "cell.json"

# The paper's published recipe on the same foundation: the training and sampling of `params/paper.yaml`, one image at a time, its
# released code's exact mask, and nothing of what was never released: no filter, no corrosion. Masks and backgrounds are ours.
PAPER: dict[str, Any] = {
    "finetune.mode": "full", "finetune.steps": 500, "finetune.batch_size": 1, "finetune.accumulation": 2,
    "finetune.learning_rate": 3e-6, "finetune.weight_decay": 1e-2, "finetune.gradient_clip": 1.0, "finetune.ema_decay": 0.0,
    "finetune.inside_weight": 1.0, "finetune.outside_weight": 1.0, "finetune.min_snr": 0.0, "finetune.prompt_dropout": 0.0,
    "finetune.token": "", "finetune.precision": "float32",
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
    """

    dataset: BenchmarkDataset
    budget: int | Literal["all"]
    seed: int
    recipe: Recipe
    arms: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset.name}-{self.budget}-{self.recipe}-{self.seed}"

    @property
    def overrides(self) -> Overrides:
        """What differs from `params.yaml`."""
        chosen: Overrides = {section: {"seed": self.seed} for section in SEEDED}
        chosen["prepare"] |= {"dataset": self.dataset.dataset, "path": self.dataset.path,
                              "n_labelled": ALL if self.budget == "all" else self.budget}
        # An arm that finds nothing to add counts as no gain: left out, it would spare the method its failures.
        chosen["segment"] = {"arms": list(self.arms), "seeds": [self.seed], "empty_arms": "real"}
        for section, values in nested(self.dataset.settings | (PAPER if self.recipe == "paper" else {})).items():
            chosen[section] = chosen.get(section, {}) | values
        return chosen


def cells_of(params: Params) -> tuple[Cell, ...]:
    """All cells, a seed after the other, so that those which are finished first make a whole benchmark of fewer seeds.

    Raises:
        MeddiffError: a dataset's own settings break a rule.
    """
    found = tuple(_cells(params))
    for cell in found:
        parse_params(merged(params, cell.overrides), f"benchmark cell {cell.name}")
    return found


def _cells(params: Params) -> Iterator[Cell]:
    settings = params.benchmark
    budgets = dict.fromkeys((*settings.budgets, settings.budget))
    for seed in settings.seeds:
        for dataset in settings.datasets:
            for budget in budgets:
                further = settings.further if budget == settings.budget else ()
                yield Cell(dataset, budget, seed, "method", tuple(dict.fromkeys((*settings.arms, *further))))
        if settings.paper:  # last, so that processes beside each other seldom make what it shares with the method twice
            yield from (Cell(dataset, settings.budget, seed, "paper", (ARM,)) for dataset in settings.datasets)


def key_of(layout: Layout, params: Params, cell: Cell) -> str:
    """Name under which a finished cell is kept: of its settings, the code of the stages and the dataset's files."""
    values = merged(params, cell.overrides)
    chain = [values[section] for section in (*CHAIN, "compute")]
    digest = hashlib.sha256(json.dumps(chain, sort_keys=True, default=str).encode())
    for path in _code(layout.root):
        digest.update(path.read_bytes())
    if cell.dataset.dataset != "demo":
        folder = layout.root / cell.dataset.path
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                content = _content(path, path.stat().st_size, path.stat().st_mtime_ns)
                digest.update(f"{path.relative_to(folder)} {content}".encode())
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

    Args:
        layout: the project.
        cell: what to run.
        env: environment variables for the stages.
        out: folder to make: `per_case.csv`, `pictures/`, `cell.json`.

    Raises:
        MeddiffError: a stage failed.
    """
    begun = time.monotonic()
    with own_tree(layout, layout.work / "benchmark/trees" / cell.name, cell.overrides) as tree, replacing(out) as fresh:
        done = versioning.reproduce(tree.root, "evaluate", env, False, lambda line: None)
        shutil.copy(tree.report / "per_case.csv", fresh / "per_case.csv")
        shutil.copytree(tree.report / "pictures", fresh / "pictures")
        verdicts = read_records(tree.synthetic, tree.filtered).decisions["verdict"]
        labelled = int(pd.read_csv(tree.cases("train") / "cases.csv")["labelled"].sum())
        row = {"dataset": cell.dataset.name, "budget": labelled if cell.budget == "all" else cell.budget, "seed": cell.seed,
               "recipe": cell.recipe, "labelled": labelled, "samples": len(verdicts),
               "accepted": int((verdicts == "accepted").sum()), "seconds": time.monotonic() - begun, "stages_run": len(done.ran),
               "peak_memory_mb": peak_memory(children=True),
               **fidelity_numbers(tree.filtered / "fidelity.json")}
        (fresh / ROW).write_text(json.dumps(row, indent=1))


def read_cell(folder: Path, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row of `cells.csv`, and the scores under the benchmark's names: the paper's recipe is the arm `paper`."""
    row: dict[str, Any] = json.loads((folder / ROW).read_text())
    table = pd.read_csv(folder / "per_case.csv", dtype={"case": str, "group": str}, keep_default_na=False, na_values=[""])
    if cell.recipe == "paper":
        table["arm"] = "paper"
    table.insert(0, "dataset", row["dataset"])
    table.insert(1, "budget", row["budget"])
    return row, table
