"""The benchmark: every dataset, label budget and seed through the whole pipeline, one table with intervals, one page.

Started again it goes on: a finished cell is kept in `.work/benchmark/done/` under a name made from its settings, the code of the
stages and the dataset's files. Cells are units of work for `compute.cluster`; one that another process holds is waited for.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from meddiff import finished
from meddiff.cluster import share_out
from meddiff.errors import MeddiffError
from meddiff.experiments.benchmark import significance
from meddiff.experiments.benchmark.cards import dataset_card, model_card
from meddiff.experiments.benchmark.cells import Cell, CellResult, cells_of, key_of, read_cell, run_cell
from meddiff.experiments.benchmark.figures import figures
from meddiff.experiments.benchmark.page import benchmark_page
from meddiff.experiments.benchmark.tables import Tables, measured
from meddiff.layout import Layout, replacing
from meddiff.pages import Picture
from meddiff.params import Params
from meddiff.params.arms import BASELINE, TREATED
from meddiff.params.file import parse_params
from meddiff.params.overrides import merged, nested
from meddiff.progress import bar
from meddiff.services import tracking

_ACTION = "benchmark"
_HELD = "another process holds it"
# Runs one cell: the cell, environment variables, an empty folder.
_RunCell = Callable[[Cell, Mapping[str, str], Path], None]


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found.

    Attributes:
        gains: those of Dice, see `significance.gains`.
        missing: cells that failed or are not finished, with the reason.
        page: `benchmark.html`; tables, pictures and cards lie beside it.
    """

    gains: pd.DataFrame
    missing: tuple[str, ...]
    page: Path


def benchmark(layout: Layout, params: Params, run: _RunCell | None = None) -> Benchmark:
    """Run the cells that aren't finished, and write `reports/benchmark/`; interrupted, the same command goes on.

    A cell that fails is named on the page, and the others go on.

    Args:
        run: None for `cells.run_cell`; with another the cells run here, one after the other.

    Raises:
        MeddiffError: a setting of a dataset breaks a rule, no cell is finished, or MLflow or the cluster doesn't answer.
    """
    cells = cells_of(params)
    name = f"benchmark {', '.join(dataset.name for dataset in params.benchmark.datasets)}"
    compute = params.compute if run is None else params.compute.model_copy(update={"cluster": ""})
    with tracking.recorded_action(layout, params, _ACTION, name) as record, bar(_ACTION) as show:
        here, errors = _Cells(layout, params, record, run or partial(run_cell, layout)), dict[str, str]()

        def receive(done: tuple[str, str]) -> None:
            errors.update([done])
            show(len(errors), len(cells), {})

        show(0, len(cells), {})
        share_out(cells, partial(_Cells.begin, layout, params), _Cells.work, receive, compute, here)
        # What other processes held is waited for; what failed there fails here with its reason, or is mended.
        replace(here, wait=True).work([cell for cell in cells if errors[cell.name] == _HELD], receive)
        result = report(layout, params, errors)
        record.file(layout.benchmark)
        record.metrics(_headlines(result))
        record.error = f"{len(result.missing)} cells are missing: {result.missing[0]}" if result.missing else ""
    return result


def lines_of(result: Benchmark) -> list[str]:
    """The gains as lines of text, what is missing, and where the page lies."""
    points = [f"{row.dataset:>12} {row.budget:>6} {row.arm:>16} against {row.against:<10} {row.mean * 100:+5.1f} "
              f"({row.lower * 100:+.1f} to {row.upper * 100:+.1f})  p {row.p_holm:.3f}" for row in result.gains.itertuples()]
    head = f"{'dataset':>12} {'budget':>6} {'arm':>16} Dice points (interval), p after Holm's correction over datasets"
    return [head, *points, *(f"missing: {line}" for line in result.missing), f"page: {result.page}"]


@dataclass(frozen=True)
class _Cells:
    """What a process needs to run cells.

    Attributes:
        record: the benchmark's run.
        wait: for a cell that another process holds, until that is done with it; without, it is left out.
    """

    layout: Layout
    params: Params
    record: tracking.Run
    run: _RunCell
    wait: bool = False

    @classmethod
    def begin(cls, layout: Layout, params: Params) -> "_Cells":
        """In a process that helps the one which began the benchmark."""
        record = tracking.execution_run(layout, params, tracking.pending_execution(layout, _ACTION))
        return cls(layout, params, record, partial(run_cell, layout))

    def work(self, cells: Sequence[Cell], receive: Callable[[tuple[str, str]], None]) -> None:
        """Run every cell that isn't finished; `receive` gets the name of each, and why it failed or nothing."""
        for cell in cells:
            lock = FileLock(self.layout.work / "benchmark/locks" / f"{cell.name}.lock", mode=0o666)
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            try:
                folder, error = _folder(self.layout, self.params, cell), ""
                with _held(lock, cell, self.wait):
                    if not folder.is_dir():
                        self._finish(cell, folder)
            except Timeout:
                error = _HELD
            except Exception as e:  # a full disk or a fault of ours must not keep the other cells from running
                words = " ".join(str(e).split())
                error = words if isinstance(e, MeddiffError) else f"{type(e).__name__}: {words}"
            receive((cell.name, error))

    def _finish(self, cell: Cell, folder: Path) -> None:
        whole, tags = parse_params(merged(self.params, cell.overrides), cell.name), {"meddiff.recipe": cell.recipe}
        execution = f"{self.record.id}-{cell.name}"
        with tracking.recorded_run(self.layout, whole, cell.name, execution, self.record, tags) as own:
            finished.finish(folder, partial(self.run, cell, own.env))
        finished.forget(folder.parent, [folder])


def report(layout: Layout, params: Params, errors: Mapping[str, str]) -> Benchmark:
    """Write `reports/benchmark/` from the cells that are finished.

    Args:
        errors: name -> error of cells that failed.

    Raises:
        MeddiffError: none is finished.
    """
    found, pictures, missing, dropped = list[CellResult](), list[Picture](), [], []
    for cell in cells_of(params):
        folder = _folder(layout, params, cell)
        if not folder.is_dir():
            missing.append(f"{cell.name}: {errors.get(cell.name) or 'not finished'}")
            continue
        found.append(one := read_cell(folder, cell))
        dropped += [f"{cell.name}, {arm}: {reason}" for arm, reason in one.dropped.items()]
        if cell.budget == params.benchmark.budget and cell.recipe == "method":
            pictures += _pictures(folder / "pictures", cell, {picture.name for picture in pictures})
    if not found:
        raise MeddiffError("benchmark", f"one cell at least must be finished ({missing[0]})", "Mend what it names")
    tables = _tables(found, params)
    facts = _facts(layout, params, tables.cells)
    dice = tables.gains[tables.gains["metric"] == "dice"]
    shown = [*figures(tables.scores, dice, facts), *pictures]
    with replacing(layout.benchmark) as fresh:
        for name, frame in vars(tables).items():
            frame.to_csv(fresh / f"{name}.csv", index=False)
        (fresh / "pictures").mkdir()
        for picture in shown:
            (fresh / "pictures" / f"{picture.name}.png").write_bytes(picture.png)
        (fresh / "facts.json").write_text(json.dumps(facts | {"missing": missing, "dropped": dropped}, indent=1) + "\n")
        (fresh / "benchmark.html").write_text(benchmark_page(tables, shown, facts, missing, dropped))
        (fresh / "model_card.md").write_text(model_card(facts, dice, tables.cells))
        (fresh / "dataset_card.md").write_text(dataset_card(facts, dice, tables.cells))
    return Benchmark(dice, tuple(missing), layout.benchmark / "benchmark.html")


def _tables(found: Sequence[CellResult], params: Params) -> Tables:
    per_case = pd.concat([one.scores for one in found], ignore_index=True)
    return Tables(significance.scores(per_case, params.evaluate), significance.gains(per_case, params.evaluate),
                  pd.DataFrame([one.row for one in found]), pd.concat([one.arms for one in found], ignore_index=True),
                  significance.detection(per_case, params.evaluate), significance.by_size(per_case, params.evaluate), per_case)


def _held(lock: FileLock, cell: Cell, wait: bool) -> AbstractContextManager[object]:
    """The cell's lock; held by another process it is waited for, which is told, or refused with `Timeout`."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        print(f"{_ACTION}: another process holds {cell.name}; waiting until it is done", file=sys.stderr)
        return lock.acquire()


def _folder(layout: Layout, params: Params, cell: Cell) -> Path:
    return layout.work / "benchmark/done" / cell.name / key_of(layout, params, cell)


def _pictures(folder: Path, cell: Cell, there: Iterable[str]) -> list[Picture]:
    captions = {"cases": "Evenly spaced from the best to the worst test case by mean Dice; one seed.",
                "pairs": "Drawn at random from the accepted pairs, not picked by eye."}
    found = [(f"{cell.dataset.name}-{kind}", folder / f"{kind}.png", caption) for kind, caption in captions.items()]
    return [Picture(name, path.read_bytes(), f"{cell.dataset.name}. {caption}") for name, path, caption in found
            if path.is_file() and name not in there]


def _facts(layout: Layout, params: Params, cells: pd.DataFrame) -> dict[str, Any]:
    settings, seeds = params.benchmark, set(cells.loc[cells["recipe"] == "method", "seed"]) or set(cells["seed"])
    own = [merged(params, nested(dataset.settings)) for dataset in settings.datasets]

    def resolved(section: str, name: str) -> str:
        """The setting that the datasets share, or those of each."""
        values = [str(each[section][name]) for each in own]
        told = [f"{value} ({dataset.name})" for value, dataset in zip(values, settings.datasets, strict=True)]
        return values[0] if len(set(values)) == 1 else ", ".join(told)

    return {"size": resolved("prepare", "size"), "arms": list(dict.fromkeys((*settings.arms, *settings.further))),
            "budgets": list(settings.budgets), "budget": settings.budget, "steps": resolved("segment", "steps"),
            "network": resolved("segment", "network"), "datasets": [d.name for d in settings.datasets],
            "device": ", ".join(dict.fromkeys(cells["device"])), "threads": params.compute.threads,
            "extractor": resolved("filter", "extractor"), "tolerance": resolved("evaluate", "tolerance"),
            "made": date.today().isoformat(), "command": "meddiff benchmark", "foundation": resolved("foundation", "source"),
            "seen": all(_known(layout, each["foundation"]["source"]) for each in own),
            "commit": ", ".join(commit for commit in dict.fromkeys(cells["commit"]) if commit), "seeds": sorted(map(int, seeds)),
            "paper": bool((cells["recipe"] == "paper").any()), "confidence": params.evaluate.confidence,
            "validation": sorted(set(map(int, cells["validation"]))), "energy": measured(cells)}


def _known(layout: Layout, source: str) -> bool:
    """Whether it is known what images a foundation was trained on."""
    return source in ("embedded", "scratch") or (layout.root / Path(source).expanduser() / "training.json").is_file()


def _headlines(result: Benchmark) -> dict[str, float]:
    """Gains over real images, named as those of a single evaluation: the arm is left out for `synthetic`."""
    over_real = result.gains[result.gains["against"] == BASELINE]
    values = {f"gain_{row.dataset}_{row.budget}" + ("" if row.arm == TREATED else f"_{row.arm}"): float(row.mean)
              for row in over_real.itertuples()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
