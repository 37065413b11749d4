"""The ablation: the full method first, then each part switched in turn, with the same sample and training seeds.

A variant runs the pipeline up to `segment`. Validation data decides; test data isn't touched. A finished variant is kept in
`.work/ablate/done/` under a name made from its settings, the code and the data: started again, an ablation goes on.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from meddiff import finished
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
from meddiff.experiments.ablation.parts import FULL, Part, choose_parts
from meddiff.experiments.ablation.variants import run_variant
from meddiff.experiments.run import Outcome, pipeline_key, read_outcome
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
_OUTCOME = "outcome.json"

# Runs one variant: its name, overrides, environment variables, and the folder for its pictures.
_RunVariant = Callable[[str, Overrides, Mapping[str, str], Path], Outcome]


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


def ablate(layout: Layout, params: Params, names: Sequence[str] = (), run: _RunVariant | None = None) -> Ablation:
    """Run the full method and each part switched in turn, and write `reports/ablation/`; interrupted, the same command goes on.

    A variant that fails is a row with its error, and the others go on.

    Args:
        names: of `parts.PARTS`, whose references run too; none for `params.ablate.parts`, and all if that is empty.
        run: None for `variants.run_variant`.

    Raises:
        MeddiffError: a name isn't known, the full method fails, or MLflow doesn't answer.
    """
    parts = choose_parts(names or params.ablate.parts)
    idle = [part.name for part in parts if part.idle(params)]
    with tracking.recorded_action(layout, params, "ablate", f"ablate {params.prepare.dataset}") as record:
        variants = _Variants(layout, params, record, run or (lambda *given: run_variant(layout, params.ablate.shown, *given)))
        rows = list(variants.rows([part for part in parts if part.name not in idle]))
        result = _report(layout, params, rows, idle)
        record.file(layout.ablation)
        record.metrics({"variants": float(len(rows)), "failed": float(len(result.failed))})
        record.error = f"these variants failed: {', '.join(result.failed)}" if result.failed else ""
    return result


class _Variants:
    """Runs variants one after the other, keeps what they gave, and records them."""

    def __init__(self, layout: Layout, params: Params, record: tracking.Run, run: _RunVariant) -> None:
        self.layout, self.params, self.record, self.run = layout, params, record, run
        self.work, self.done = layout.work / "ablate", dict[str, VariantRow]()

    def rows(self, parts: Sequence[Part]) -> Iterator[VariantRow]:
        with bar("ablate") as report:
            for number, part in enumerate((FULL, *parts)):
                report(number, len(parts) + 1, {})
                self.done[part.name] = self._row(part)
                yield self.done[part.name]
            report(len(parts) + 1, len(parts) + 1, {})
        dice = _dice(self.done[FULL.name])
        for arm, part in _BESIDE.items():
            if arm in dice:
                yield compare(part, f"the arm `{arm}` of `full`", dice[arm], dice.get(TREATED, {}))

    def _row(self, part: Part) -> VariantRow:
        changed = (part.beside.off if part.beside else {}) | part.off
        changes = ", ".join(f"{key} {value} (was {was})" for key, value in changed.items()
                            if (was := setting(self.params, key)) != value)
        arms = [TREATED, *_BESIDE] if part == FULL else [TREATED]
        seeds = list(self.params.ablate.seeds or self.params.segment.seeds)
        overrides = part.overrides | {"segment": part.overrides.get("segment", {}) | {"arms": arms, "seeds": seeds}}
        tags = {"meddiff.part": part.shows, "meddiff.changes": changes}
        try:
            whole = parse_params(merged(self.params, overrides), f"ablate {part.name}")
            with tracking.recorded_run(self.layout, whole, part.name, f"{self.record.id}-{part.name}", self.record, tags) as run:
                folder = self._finish(part, overrides, run.env)
                outcome = read_outcome(json.loads((folder / _OUTCOME).read_text()))
                reference = self.done.get(part.reference, self.done.get(FULL.name))
                base = _dice(reference) if reference else outcome.dice
                row = compare(part, changes, outcome.dice.get(TREATED, {}), base.get(TREATED, {}), outcome, folder)
                self._note(run, row, outcome)
        except MeddiffError as e:
            if part == FULL:
                raise
            return VariantRow(part, changes, math.nan, difference({}, {}), error=" ".join(str(e).split()))
        return row

    def _finish(self, part: Part, overrides: Overrides, env: Mapping[str, str]) -> Path:
        """The variant's folder, run if it isn't kept: `outcome.json` beside its pictures."""
        def make(fresh: Path) -> None:
            (fresh / _OUTCOME).write_text(json.dumps(asdict(self.run(part.name, overrides, env, fresh))))

        key = finished.key(pipeline_key(self.layout, self.params, overrides, "segment"), self.params.ablate.shown)
        folder = finished.finish(self.work / "done" / part.name / key, make)
        finished.forget(folder.parent, [folder])
        return folder

    def _note(self, run: tracking.Run, row: VariantRow, outcome: Outcome) -> None:
        numbers = {"validation_dice": row.dice, "difference": row.difference.mean, "difference_lower": row.difference.lower,
                   "difference_upper": row.difference.upper, "acceptance": outcome.acceptance, "seconds": outcome.seconds}
        numbers |= {name.removeprefix("sets."): outcome.numbers[name] for name in main_numbers(outcome.numbers)}
        run.metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        picture = self.work / "row.png"
        sheet([row]).save(picture)
        run.file(picture)


def _dice(row: VariantRow) -> Mapping[str, Mapping[int, float]]:
    return row.outcome.dice if row.outcome else {}


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
