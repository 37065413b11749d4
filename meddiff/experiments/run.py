"""The pipeline with changed settings, in a work tree of its own over the project's DVC cache: what it gave, and what it cost.

What the changes leave as it was comes from the cache, so that runs which differ in the filter alone share one generation.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meddiff import finished
from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout
from meddiff.outputs.reviews import REVIEWS
from meddiff.outputs.samples import read_records
from meddiff.outputs.tables import VALIDATION
from meddiff.params import Params
from meddiff.params.arms import TREATED
from meddiff.params.file import write_params
from meddiff.params.overrides import Overrides, merged
from meddiff.services import versioning


@dataclass(frozen=True)
class Outcome:
    """What a run gave, by validation data, and what it cost.

    Attributes:
        dice: arm -> training seed -> mean validation Dice, 0 to 1; empty if nothing was accepted.
        samples, accepted: generated samples and those that passed the filter.
        numbers: what `filtered/fidelity.json` says, `group.name` -> number.
        ran: stages whose command ran; the others came from DVC's cache.
        seconds: wall time, that of interrupted attempts included.
        peak_memory_mb: greatest resident memory of the process that had most.
    """

    dice: dict[str, dict[int, float]]
    samples: int
    accepted: int
    numbers: dict[str, float]
    ran: tuple[str, ...]
    seconds: float
    peak_memory_mb: float

    @property
    def acceptance(self) -> float:
        return self.accepted / self.samples if self.samples else math.nan

    @property
    def generated(self) -> int:
        """Samples made anew; 0 where the cache had them."""
        return self.samples if "generate" in self.ran else 0


def read_outcome(values: Mapping[str, Any]) -> Outcome:
    """An outcome from `dataclasses.asdict`, which may have been through JSON."""
    return TypeAdapter(Outcome).validate_python(values)


class TreeRun:
    """One run of the pipeline in its work tree.

    Attributes:
        tree: the paths below the tree.
    """

    def __init__(self, tree: Layout, env: Mapping[str, str], meters: Mapping[str, Callable[[], float]]) -> None:
        self.tree, self._env, self._ran, self._memory = tree, env, list[str](), 0.0
        self._meters = {"seconds": time.monotonic, **meters}
        self._begun = {name: count() for name, count in self._meters.items()}
        self._spent = json.loads(self._costs.read_text()) if self._costs.is_file() else {}

    def up_to(self, stage: str) -> None:
        """Reproduce a stage and those it builds on.

        Raises:
            MeddiffError: a stage failed.
        """
        done = versioning.reproduce(self.tree.root, stage, self._env, False, lambda line: None)
        self._ran += done.ran
        self._memory = max(self._memory, done.peak_memory_mb)

    def change(self, overrides: Overrides) -> None:
        """Change settings of the tree; what is reproduced from now on has them."""
        write_params(self.tree.params, overrides)

    def validate(self) -> Outcome:
        """Go up to `filter`, and on to `segment` if pairs were accepted: all that may be chosen by.

        Raises:
            MeddiffError: a stage failed, or the segmenters lack the arm `synthetic`.
        """
        self.up_to("filter")
        if self._counts[1]:
            self.up_to("segment")
        outcome = self.outcome()
        if outcome.accepted and TREATED not in outcome.dice:
            raise MeddiffError(self.tree.segmenters, f"the arm `{TREATED}` must be among them", "Add it to segment.arms")
        return outcome

    def outcome(self) -> Outcome:
        """What the stages have left, and the cost so far."""
        samples, accepted = self._counts
        dice = arm_dice(self.tree.segmenters) if accepted else {}
        numbers = fidelity_numbers(self.tree.filtered / "fidelity.json")
        return Outcome(dice, samples, accepted, numbers, tuple(self._ran), self.spent("seconds"), self._memory)

    def spent(self, meter: str) -> float:
        """What a meter has counted in this run and, before it, in the tree."""
        return float(self._spent.get(meter, 0.0) + self._meters[meter]() - self._begun[meter])

    def outlive(self, folder: str, place: Path) -> None:
        """Let the tree's `.work/FOLDER` be `place`, which stays when the tree goes."""
        here = self.tree.work / folder
        for path in (place, here.parent):
            path.mkdir(parents=True, exist_ok=True)
        if not here.exists():
            here.symlink_to(place.resolve(), target_is_directory=True)

    def interrupt(self) -> None:
        """Note the cost for the run that goes on in the tree."""
        self._costs.parent.mkdir(parents=True, exist_ok=True)
        self._costs.write_text(json.dumps({name: self.spent(name) for name in self._meters}))

    @property
    def _costs(self) -> Path:
        return self.tree.work / "costs.json"

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Samples and accepted samples."""
        verdicts = read_records(self.tree.synthetic, self.tree.filtered).decisions["verdict"]
        return len(verdicts), int((verdicts == "accepted").sum())


@contextmanager
def tree_run(layout: Layout, action: str, name: str, overrides: Overrides, env: Mapping[str, str],
             meters: Mapping[str, Callable[[], float]] | None = None) -> Iterator[TreeRun]:
    """A work tree with changed settings; it goes when the block ends or fails, and stays when interrupted.

    Args:
        layout: the project.
        action: whose tree it is, such as `tune`.
        name: of the tree, the same for the same overrides: what was interrupted goes on there.
        overrides: what differs from `params.yaml`.
        env: environment variables for the stages.
        meters: name -> what counts up, beside `seconds`.
    """
    tree = Layout(versioning.work_tree(layout.root, layout.work / action / "trees" / name, overrides))
    REVIEWS.write(tree.root, [])  # people decided on this project's pairs: among variants they would favour its own settings
    run = TreeRun(tree, env, meters or {})
    try:
        yield run
    except MeddiffError:
        shutil.rmtree(run.tree.root)
        raise
    except BaseException:
        run.interrupt()
        raise
    shutil.rmtree(run.tree.root)


def pipeline_key(layout: Layout, params: Params, overrides: Overrides, last: str) -> str:
    """Name of what the pipeline gives up to the stage `last`: of settings, code, and the files of dataset and networks."""
    values, stages = merged(params, overrides), STAGES[:STAGES.index(last) + 1]
    # Settings that may name a file or folder; hub ids and words are text.
    named = [values["foundation"]["source"], values["segment"]["encoder"],
             values["filter"]["extractor"].rpartition(":")[2]]
    if values["prepare"]["dataset"] != "demo":
        named.append(values["prepare"]["path"])
    own = layout.root / finished.PACKAGE.name  # what a work tree runs, if the project has its code with it
    code = finished.code(*(f"stages.{stage}" for stage in stages), package=own if own.is_dir() else finished.PACKAGE)
    precision = values["compute"]["precision"]  # of the machine's settings the one that changes results
    return finished.key({stage: values[stage] for stage in stages}, precision, code, layout.root / "dvc.yaml",
                        *(layout.root / Path(name).expanduser() for name in named if name))


def arm_dice(segmenters: Path) -> dict[str, dict[int, float]]:
    """Arm -> seed -> mean validation Dice, from `validation.csv` in this folder.

    Raises:
        MeddiffError: the table is missing, lacks a column, or holds a segmenter without Dice.
    """
    scores: dict[str, dict[int, float]] = {}
    for arm, seed, dice in VALIDATION.read(segmenters, "arm", "seed", "dice").itertuples(index=False, name=None):
        if math.isnan(dice):
            raise MeddiffError(segmenters / VALIDATION.name, f"the arm {arm} must have a Dice with seed {seed}",
                               "Run `dvc repro segment`")
        scores.setdefault(arm, {})[seed] = dice
    return scores


def fidelity_numbers(path: Path) -> dict[str, float]:
    """All finite numbers of the filter's `fidelity.json`, `group.name` -> number; nothing where it isn't written.

    Raises:
        MeddiffError: the file doesn't decode.
    """
    try:
        return dict(_flat(json.loads(path.read_text()), "")) if path.is_file() else {}
    except ValueError as e:
        raise MeddiffError(path, f"the fidelity of the samples must decode ({e})", "Run `dvc repro filter`") from e


def _flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)
