"""The gate from a registered generator to the champion, with its reasons."""

import math
from dataclasses import dataclass

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import LEAST_SEEDS
from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.params import Params, PromoteParams
from meddiff.services.catalog import record_promotion
from meddiff.services.tracking import Evidence, Registry
from meddiff.services.versioning import locked

_CHAMPION, _PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Decision:
    """What the gate says of a version.

    Attributes:
        passed: whether every rule holds.
        reasons: one line a rule, with its number and bound.
        version: number in the registry.
    """

    passed: bool
    reasons: tuple[str, ...]
    version: str


def judge(found: Evidence, gate: PromoteParams) -> Decision:
    """Hold a version's evidence against the gate; a number that is missing or NaN fails its rule."""
    if not found.run:
        return Decision(False, ("no complete pipeline execution has evaluated this version: run `dvc repro`, or name an "
                                "evaluated one by --version",), found.version)
    rules = (("gain_lower", "at least", gate.min_gain_lower), ("acceptance", "at least", gate.min_acceptance),
             ("copies", "at most", gate.max_copies), ("memorised_p", "at least", gate.memorised_alpha),
             ("gain_seeds", "at least", LEAST_SEEDS))
    reasons, passed = [], True
    for name, relation, bound in rules:
        value = found.metrics.get(name, math.nan)
        holds = value >= bound if relation == "at least" else value <= bound  # false for NaN
        passed &= holds
        shown = "is missing" if math.isnan(value) else f"is {value:.4g}"
        why = _memorised(found) if name == "memorised_p" else ""
        reasons.append(f"{'ok' if holds else 'FAILED'}: {name} {shown}, must be {relation} {bound:g}{why}")
    return Decision(passed, (*reasons, f"evidence: run {found.run_name} ({found.run})"), found.version)


def _memorised(found: Evidence) -> str:
    """What the p-value is of; nothing where it wasn't measured."""
    share, expected = (found.metrics.get(name, math.nan) for name in ("memorised", "memorised_expected"))
    return "" if math.isnan(share) else (f" ({share:.1%} of the accepted lesions lie nearer to a training lesion than every "
                                         f"held-back real one, {expected:.1%} is expected of real lesions)")


def promote(layout: Layout, params: Params, version: str | None = None) -> Decision:
    """Make a version the champion when the gate holds; either way its reasons go into the version's tags and the catalogue.

    Args:
        layout: the project.
        params: the settings; `params.promote` is the gate.
        version: number in the registry, None for the newest.

    Raises:
        MeddiffError: no such version, or a service doesn't answer.
    """
    registry = Registry(layout, params)
    found = registry.evidence(version)
    decision = judge(found, params.promote)
    verdict = "passed" if decision.passed else "refused"
    registry.annotate(decision.version, {"gate": verdict, "gate.reasons": "\n".join(decision.reasons)})
    record_promotion(layout, params, registry.name, decision.version, decision.passed, decision.reasons,
                     _generator(layout, found))
    champion = registry.alias(_CHAMPION)
    if decision.passed and champion != decision.version:
        if champion:
            registry.set_alias(_PREVIOUS, champion)
        registry.set_alias(_CHAMPION, decision.version)
    return decision


def _generator(layout: Layout, found: Evidence) -> str:
    """The model's hash as the samples carry it, if the samples that lie in the project are those of the evidence; else empty."""
    path = str(layout.synthetic.relative_to(layout.root))
    here = locked(layout.root).get("generate", {}).get(path)
    if here is None or here != found.outs.get(path):
        return ""
    return str(read_records(layout.synthetic, layout.filtered).samples["generator"].iloc[0])


def rollback(layout: Layout, params: Params) -> Decision:
    """Make the champion before this one the champion again.

    Raises:
        MeddiffError: there is none, or a service doesn't answer.
    """
    registry = Registry(layout, params)
    champion, previous = registry.alias(_CHAMPION), registry.alias(_PREVIOUS)
    if previous is None:
        raise MeddiffError(registry.name, "a rollback needs an earlier champion", "Promote a version by its number")
    registry.set_alias(_CHAMPION, previous)
    registry.set_alias(_PREVIOUS, None)
    reason = f"champion again after a rollback from version {champion}"
    registry.annotate(previous, {"gate.rollback": reason})
    if champion:
        registry.annotate(champion, {"gate.rollback": f"replaced by version {previous} in a rollback"})
    record_promotion(layout, params, registry.name, previous, True, (reason,))
    return Decision(True, (reason,), previous)
