"""The ablation: the full method first, then each part switched in turn, with the same sample and training seeds.

A variant runs the pipeline up to `segment` in a work tree of its own over the project's DVC cache, so what it leaves as it was
comes from there. Validation data decides; test data isn't touched. A finished variant is kept in `.work/ablate/` under the
`dvc.lock` of the full method, which names all code, settings and data: started again, an ablation goes on.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from meddiff.errors import MeddiffError
from meddiff.experiments.ablation.comparison import (
    VariantRow,
    caveat,
    compare,
    difference,
    main_numbers,
    sheet,
    table_csv,
    table_markdown,
)
from meddiff.experiments.ablation.parts import FULL, Part, chosen
from meddiff.experiments.ablation.variants import VariantOutcome, pipeline_variant
from meddiff.experiments.run import forget_execution, pending_execution
from meddiff.layout import Layout, replacing
from meddiff.params import Params
from meddiff.params.arms import BASELINE, TREATED
from meddiff.params.file import parse_params
from meddiff.params.overrides import Overrides, merged, setting
from meddiff.progress import bar
from meddiff.services import tracking

# Further arms of the full method's run, which show what no setting switches off.
_BESIDE = {"unfiltered": Part("chance-filter", "as many pairs drawn by chance from all samples, with the masks as painted", {}),
           BASELINE: Part("real-only", "no synthetic pairs at all", {})}
OUTCOME = "outcome.json"

# Runs one variant: its name, overrides, environment variables, and the folder for its pictures.
RunVariant = Callable[[str, Overrides, Mapping[str, str], Path], VariantOutcome]


@dataclass(frozen=True)
class Ablation:
    """What an ablation found.

    Attributes:
        rows: `full`, the parts in the order of `parts.PARTS`, and the arms of `full` where pairs were accepted.
        notes: what to think of the numbers, and which parts were as their variant already.
        page: the Markdown table; `table.csv` and `sheet.png` lie beside it.
    """

    rows: tuple[VariantRow, ...]
    notes: tuple[str, ...]
    page: Path

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the variants that failed."""
        return tuple(row.part.name for row in self.rows if row.error)


def ablate(layout: Layout, params: Params, names: Sequence[str] = (), run_variant: RunVariant | None = None) -> Ablation:
    """Run the full method and each part switched in turn, and write `reports/ablation/`; interrupted, the same command goes on.

    A variant that fails is a row with its error, and the others go on.

    Args:
        names: of `parts.PARTS`, whose references run too; none for `params.ablate.parts`, and all if that is empty.
        run_variant: None for `pipeline_variant`.

    Raises:
        MeddiffError: a name isn't known, the full method fails, or MLflow doesn't answer.
    """
    parts = chosen(names or params.ablate.parts)
    idle = [part.name for part in parts if part.idle(params)]
    todo = [part for part in parts if part.name not in idle]
    whole = tracking.execution_run(layout, params, pending_execution(layout, "ablate"))
    whole.tags({"mlflow.runName": f"ablate {params.prepare.dataset}"})
    whole.status("RUNNING")
    work = _Variants(layout, params, whole, run_variant or (lambda *given: pipeline_variant(layout, params.ablate.shown, *given)))
    try:
        rows = list(work.run(todo))
        result = _report(layout, params, rows, idle)
        whole.file(layout.ablation)
        whole.metrics({"variants": float(len(rows)), "failed": float(len(result.failed))})
    except BaseException as e:
        whole.status("FAILED" if isinstance(e, Exception) else "KILLED")
        raise
    whole.status("FAILED" if result.failed else "FINISHED")
    if not result.failed:
        forget_execution(layout, "ablate")
    return result


class _Variants:
    """Runs variants one after the other, keeps what they gave, and records them."""

    def __init__(self, layout: Layout, params: Params, run: tracking.Run, run_variant: RunVariant) -> None:
        self.layout, self.params, self.run_of_all, self.run_variant = layout, params, run, run_variant
        self.work = layout.work / "ablate"
        self.full: VariantRow | None = None
        self.rows: dict[str, VariantRow] = {}

    def run(self, parts: Sequence[Part]) -> Iterator[VariantRow]:
        with bar("ablate") as report:
            for done, part in enumerate((FULL, *parts)):
                report(done, len(parts) + 1, {})
                row = self.one(part)
                if self.full is None:
                    self.full = row
                self.rows[part.name] = row
                yield row
            report(len(parts) + 1, len(parts) + 1, {})
        dice = self.full.outcome.dice if self.full and self.full.outcome else {}
        for arm, part in _BESIDE.items():
            if arm in dice:
                yield compare(part, f"the arm `{arm}` of `full`", dice[arm], dice.get(TREATED, {}))

    def one(self, part: Part) -> VariantRow:
        """Run a variant, or take what is kept of it."""
        changed = (part.beside.off if part.beside else {}) | part.off
        changes = ", ".join(f"{key} {value} (was {was})" for key, value in changed.items()
                            if (was := setting(self.params, key)) != value)
        arms = [TREATED, *_BESIDE] if part == FULL else [TREATED]
        seeds = list(self.params.ablate.seeds or self.params.segment.seeds)
        overrides = part.overrides | {"segment": part.overrides.get("segment", {}) | {"arms": arms, "seeds": seeds}}
        execution = f"{self.run_of_all.id}-{part.name}"
        run = None
        try:
            whole = parse_params(merged(self.params, overrides), f"ablate {part.name}")
            run = tracking.execution_run(self.layout, whole, execution, self.run_of_all.id)
            run.tags({"mlflow.runName": part.name, "meddiff.part": part.shows, "meddiff.changes": changes})
            env = {"MEDDIFF_EXECUTION": execution, "MEDDIFF_PARENT_RUN": self.run_of_all.id}
            outcome, tiles = self._outcome(part, overrides, env)
        except BaseException as e:
            if run:
                run.tags({"meddiff.error": " ".join(str(e).split())})
                run.status("FAILED" if isinstance(e, Exception) else "KILLED")
            if part == FULL or not isinstance(e, MeddiffError):
                raise
            nothing = difference({}, {})
            return VariantRow(part, changes, math.nan, nothing, error=" ".join(str(e).split()))
        reference = self.rows.get(part.reference, self.full)
        base = (reference.outcome.dice if reference.outcome else {}) if reference else outcome.dice
        row = compare(part, changes, outcome.dice.get(TREATED, {}), base.get(TREATED, {}), outcome, tiles)
        self._record(run, row, outcome)
        return row

    def _outcome(self, part: Part, overrides: Overrides, env: Mapping[str, str]) -> tuple[VariantOutcome, Path]:
        name = f"{part.name}-{hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:12]}"
        state = self.full.outcome.state if self.full and self.full.outcome else ""
        if kept := _read(self.work / "done" / state / name) if state else None:
            return kept, self.work / "done" / state / name
        with replacing(self.work / "fresh") as fresh:
            outcome = self.run_variant(part.name, overrides, env, fresh)
            (fresh / OUTCOME).write_text(json.dumps(asdict(outcome)))
        if not state:  # the full method, which is reproduced each time: DVC knows what has changed
            state = outcome.state
            for other in (self.work / "done").glob("*"):
                if other.name != state:
                    shutil.rmtree(other)
        folder = self.work / "done" / state / name
        if not outcome.ran and (kept := _read(folder)):  # all from the cache: the seconds of the first time count
            shutil.rmtree(self.work / "fresh")
            return kept, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        (self.work / "fresh").rename(folder)
        return outcome, folder

    def _record(self, run: tracking.Run, row: VariantRow, outcome: VariantOutcome) -> None:
        numbers = {"validation_dice": row.dice, "difference": row.difference.mean, "difference_lower": row.difference.lower,
                   "difference_upper": row.difference.upper, "acceptance": outcome.acceptance, "seconds": outcome.seconds}
        numbers |= {name.removeprefix("sets."): outcome.numbers[name] for name in main_numbers(outcome.numbers)}
        run.metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        picture = self.work / "row.png"
        sheet([row]).save(picture)
        run.file(picture)
        run.untag("meddiff.error")
        run.status("FINISHED")


def _report(layout: Layout, params: Params, rows: Sequence[VariantRow], idle: Sequence[str]) -> Ablation:
    seeds = max(row.difference.seeds for row in rows)
    notes = [caveat(seeds, sum(math.isfinite(row.difference.lower) and not row.difference.none for row in rows[1:])),
             "Seconds are those of the stages that a variant ran itself; what it leaves as in `full` came from DVC's cache."]
    for name in dict.fromkeys(row.part.reference for row in rows if row.part.beside and row.part.reference not in idle):
        which = ", ".join(row.part.name for row in rows if row.part.reference == name)
        notes.append(f"Compared with `{name}`, whose change they have too, for else they may change nothing: {which}.")
    if idle:
        notes.append(f"So, or without use, in params.yaml already: {', '.join(idle)}.")
    title = f"Ablation: {params.prepare.dataset}, {params.prepare.n_labelled} labelled cases, {params.prepare.size} pixels"
    with replacing(layout.ablation) as folder:
        (folder / "table.csv").write_text(table_csv(rows))
        (folder / "table.md").write_text(table_markdown(rows, title, notes))
        sheet(rows).save(folder / "sheet.png")
    return Ablation(tuple(rows), tuple(notes), layout.ablation / "table.md")


def _read(folder: Path) -> VariantOutcome | None:
    path = folder / OUTCOME
    return TypeAdapter(VariantOutcome).validate_python(json.loads(path.read_text())) if path.is_file() else None
