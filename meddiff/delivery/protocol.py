"""Which execution is the evidence for a registered version: one that keeps to the protocol, and always the same one."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meddiff.errors import MeddiffError
from meddiff.params import PromoteParams
from meddiff.services.tracking import GENERATOR, Evidence, ModelKind, Registry, count_looks, hash_summary, list_evidence

_RUN, _SUMMARY, _DATA, _LOOKS = "evidence.run", "evidence.summary", "evidence.data", "evidence.looks"  # tags of a version
_SHOWN = 3  # runs that are no evidence


@dataclass(frozen=True)
class Chosen:
    """The evidence for a version.

    Attributes:
        evidence: without a run where there is none.
        faults: why it can't be trusted, a rule each; they refuse the version.
        notes: what else is to be known, a line each: other runs and why they don't count, looks at the test cases.
        pin: tags that hold the evidence fast at its version; empty without evidence.
        looks: executions that evaluated on the same test cases; 0 where that isn't known.
    """

    evidence: Evidence
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pin: Mapping[str, str] | None = None
    looks: int = 0


def shortfalls(run: Evidence, gate: PromoteParams, kind: ModelKind) -> list[str]:
    """What of the protocol a run doesn't keep to, one rule each."""
    settings = run.settings
    bounds = {"evaluate.confidence": gate.confidence, "evaluate.resamples": gate.min_resamples, "segment.steps": gate.min_steps}
    values = {name: float(settings.get(name, math.nan)) for name in bounds}
    bounds["number of segment.seeds"] = gate.min_seeds
    values["number of segment.seeds"] = len(json.loads(settings.get("segment.seeds", "[]")))
    broken = [f"{name} is {values[name]:g}, must be at least {bound:g}" for name, bound in bounds.items()
              if not values[name] >= bound]  # true for NaN
    if kind == GENERATOR:
        broken += [f"segment.arms lacks {arm}" for arm in gate.arms if f"dice_{arm}" not in run.metrics]
    if settings.get("filter.keep_copies") == "True" or float(settings.get("filter.similarity_high", 0)) >= 1:
        broken.append("filter.keep_copies let copies through uncounted")
    return broken


def choose_evidence(registry: Registry, number: str, gate: PromoteParams, asked: str = "") -> Chosen:
    """The run that was judged before, else the newest that keeps to the protocol.

    Args:
        registry: of the model.
        number: the version.
        gate: the protocol.
        asked: beginning of the id of the run to judge by, in the place of the one that was judged before.

    Raises:
        MeddiffError: `asked` names no such run, or one that doesn't keep to the protocol; the run judged before is gone.
    """
    runs, tags = list_evidence(registry, number), registry.tags(number)
    short = {run.run: shortfalls(run, gate, registry.kind) for run in runs}
    pinned = tags.get(_RUN, "")
    chosen = _choose(runs, short, pinned, asked)
    notes = [f"no evidence: run {run.run_name} ({run.run}): {'; '.join(short[run.run])}" for run in runs
             if short[run.run] and run is not chosen][:_SHOWN]
    if chosen is None:
        return Chosen(Evidence(number), notes=tuple(notes))
    later = [run for run in runs[:runs.index(chosen)] if not short[run.run]]
    notes += [f"not judged by: the later run {run.run_name} ({run.run}); the evidence is pinned, `--evidence {run.run[:8]}` "
              "changes that" for run in later[:_SHOWN]]
    if pinned and chosen.run != pinned:
        notes.append(f"the evidence was run {pinned} until now")
    summary = hash_summary(registry, chosen.run)
    faults = [f"evidence: {rule}" for rule in short[chosen.run]]
    if chosen.run == pinned and tags.get(_SUMMARY, summary) != summary:
        faults.append("evidence: summary.json isn't the one that was judged before")
    looks = count_looks(registry.server, chosen.test) if chosen.test else 0
    own = count_looks(registry.server, chosen.test, registry, number) if chosen.test else 0
    notes.append(f"looks at these test cases: {looks}, {own} of them with this version" if looks else
                 "looks at these test cases: not known")
    data = ", ".join(f"{path} {digest}" for path, digest in sorted(chosen.outs.items()) if path.startswith("data/"))
    pin = {_RUN: chosen.run, _SUMMARY: summary, _DATA: f"test cases {chosen.test or 'unknown'}, {data}".strip(", "),
           _LOOKS: str(looks) if looks else "unknown"}
    return Chosen(chosen, tuple(faults), tuple(notes), pin, looks)


def _choose(runs: Sequence[Evidence], short: Mapping[str, Sequence[str]], pinned: str, asked: str) -> Evidence | None:
    if asked:
        named = [run for run in runs if run.run.startswith(asked)]
        if len(named) != 1:
            raise MeddiffError(f"--evidence {asked}", "it must name one complete run of this version, there are "
                               f"{', '.join(run.run for run in runs) or 'none'}", "Choose one of them")
        if short[named[0].run]:
            raise MeddiffError(f"--evidence {asked}", f"the run must keep to the protocol ({'; '.join(short[named[0].run])})",
                               "Evaluate the version with such settings, or change `promote.*`")
        return named[0]
    if pinned:
        judged = next((run for run in runs if run.run == pinned), None)
        if judged is None:
            raise MeddiffError(f"run {pinned}", "the run that the version was judged by must still be there",
                               "Restore it in MLflow, or name another by --evidence")
        return judged
    return next((run for run in runs if not short[run.run]), None)
