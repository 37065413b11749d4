"""The gates from a registered generator or segmenter to the champion, with their reasons."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from meddiff.delivery.protocol import Chosen, choose_evidence
from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import LEAST_SEEDS, Interval, gain_interval
from meddiff.evaluation.summary import bootstrap_of, mean_over_classes, score_matrix, with_lesion
from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.outputs.tables import ENSEMBLE_SCORES
from meddiff.pages import points
from meddiff.params import Params, PromoteParams
from meddiff.services.catalog import record_action, record_promotion
from meddiff.services.tracking import GENERATOR, Evidence, ModelKind, Registry
from meddiff.services.versioning import locked

_CHAMPION, _PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Decision:
    """What the gate says of a version.

    Attributes:
        passed: whether every rule holds.
        reasons: one line a rule, with its number and bound.
        version: number in the registry.
        evidence: id of the run that it was judged by; empty where there is none.
        looks: executions that have evaluated on its test cases; 0 where that isn't known.
    """

    passed: bool
    reasons: tuple[str, ...]
    version: str
    evidence: str = ""
    looks: int = 0

    def verdict(self, name: str) -> str:
        """In a line, for the model of this name."""
        return f"{name} version {self.version} is {'the champion' if self.passed else 'refused'}"


def judge(chosen: Chosen, gate: PromoteParams) -> Decision:
    """Hold a generator's evidence against its gate; a number that is missing or NaN fails its rule."""
    return _judge(chosen, (("gain_lower", "at least", gate.min_gain_lower), ("acceptance", "at least", gate.min_acceptance),
                           ("copies", "at most", gate.max_copies), ("memorised_p", "at least", gate.memorised_alpha),
                           ("gain_seeds", "at least", max(LEAST_SEEDS, gate.min_seeds))),
                  {"memorised_p": _memorised(chosen.evidence)})


def judge_segmenter(chosen: Chosen, gate: PromoteParams, over: Interval | str) -> Decision:
    """The same of a segmenter.

    Args:
        over: its gain of Dice over the champion on the same test cases, or why there is none; then it isn't asked for.
    """
    rules = [("segmenter_dice", "at least", gate.segmenter_min_dice), ("leaks", "at most", 0.0)]
    words = {"leaks": " (test cases that were used in training; `evaluate` looks for them)"}
    if isinstance(over, str):
        decision = _judge(chosen, rules, words)
        return replace(decision, reasons=(*decision.reasons, f"gain over the champion: {over}"))
    rules.append(("gain_over_champion", "at least", gate.segmenter_min_gain_lower))
    words["gain_over_champion"] = (f" (lower bound of {points(over.mean)} points, {over.confidence:.0%} interval "
                                   f"{points(over.lower)} to {points(over.upper)}, {over.cases} cases)")
    found = chosen.evidence
    return _judge(replace(chosen, evidence=replace(found, metrics={**found.metrics, "gain_over_champion": over.lower})), rules,
                  words)


def _judge(chosen: Chosen, rules: Sequence[tuple[str, str, float]], words: Mapping[str, str]) -> Decision:
    found = chosen.evidence
    if not found.run:
        return Decision(False, ("no complete pipeline execution that keeps to the protocol (promote.*) has evaluated this "
                                "version: run `dvc repro` with such settings, or name an evaluated one by --version",
                                *chosen.notes), found.version)
    reasons, passed = [f"FAILED: {fault}" for fault in chosen.faults], not chosen.faults
    for name, relation, bound in rules:
        value = found.metrics.get(name, math.nan)
        holds = value >= bound if relation == "at least" else value <= bound  # false for NaN
        passed &= holds
        shown = "is missing" if math.isnan(value) else f"is {value:.4g}"
        reasons.append(f"{'ok' if holds else 'FAILED'}: {name} {shown}, must be {relation} {bound:g}{words.get(name, '')}")
    return Decision(passed, (*reasons, f"evidence: run {found.run_name} ({found.run})", *chosen.notes), found.version, found.run,
                    chosen.looks)


def _memorised(found: Evidence) -> str:
    """What the p-value is of; nothing where it wasn't measured."""
    share, expected = (found.metrics.get(name, math.nan) for name in ("memorised", "memorised_expected"))
    return "" if math.isnan(share) else (f" ({share:.1%} of the accepted lesions lie nearer to a training lesion than every "
                                         f"held-back real one, {expected:.1%} is expected of real lesions)")


def promote(layout: Layout, params: Params, version: str | None = None, kind: ModelKind = GENERATOR, evidence: str = "",
            person: str = "", reason: str = "") -> Decision:
    """Make a version the champion when its gate holds; either way its reasons go into the version's tags, the catalogue and the
    audit log, and the run that it was judged by stays its evidence.

    Args:
        layout: the project.
        params: the settings; `params.promote` holds protocol and gates.
        version: number in the registry, None for the newest.
        kind: of the model.
        evidence: beginning of the id of the run to judge by; empty for the one that it was judged by before, else the newest.
        person: who promotes; empty for `person_of` the settings.
        reason: why, in the person's words.

    Raises:
        MeddiffError: no such version, `evidence` can't be, or a service doesn't answer.
    """
    registry = Registry(layout, params, kind)
    number = registry.number(version)
    registry.refuse_withdrawn(number)
    chosen, champion = choose_evidence(registry, number, params.promote, evidence), registry.alias(_CHAMPION)
    decision = (judge(chosen, params.promote) if kind == GENERATOR else
                judge_segmenter(chosen, params.promote, _over(registry, champion, number, params)))
    record_promotion(layout, params, registry.name, number, decision.passed, decision.reasons,
                     _generator(layout, chosen.evidence) if kind == GENERATOR else "")
    row = record_action(layout, params, "promoted" if decision.passed else "refused", f"{registry.name} {number}",
                        "\n".join(filter(None, (reason.strip(), *decision.reasons))), champion or "",
                        (number if decision.passed else champion) or "", person)
    registry.annotate(number, {"gate": "passed" if decision.passed else "refused", "gate.reasons": "\n".join(decision.reasons),
                               "gate.person": row.person, **(chosen.pin or {})})
    if decision.passed and champion != number:
        if champion:
            registry.set_alias(_PREVIOUS, champion)
        registry.set_alias(_CHAMPION, number)
    return decision


def _over(registry: Registry, champion: str | None, version: str, params: Params) -> Interval | str:
    """What a segmenter gains over the champion, case by case; or why that isn't known."""
    if champion is None or champion == version:
        return "there is no other champion"
    if registry.tags(champion).get("test") != registry.tags(version).get("test"):
        return f"not known, the champion (version {champion}) was evaluated on other test cases"
    before, after = (registry.table(number, ENSEMBLE_SCORES.name) for number in (champion, version))
    if before is None or after is None:
        return f"not known, the test scores of version {champion if before is None else version} are no longer there"
    both = mean_over_classes(with_lesion(pd.concat([before.assign(arm="before"), after.assign(arm="after")])))
    fixed = {"confidence": params.promote.confidence, "resamples": max(params.promote.min_resamples, params.evaluate.resamples)}
    groups = bootstrap_of(both, params.evaluate.model_copy(update=fixed))
    return gain_interval(score_matrix(both, "before", "dice"), score_matrix(both, "after", "dice"), *groups)


def _generator(layout: Layout, found: Evidence) -> str:
    """The model's hash as the samples carry it, if the samples that lie in the project are those of the evidence; else empty."""
    path = str(layout.synthetic.relative_to(layout.root))
    here = locked(layout.root).get("generate", {}).get(path)
    if here is None or here != found.outs.get(path):
        return ""
    return str(read_records(layout.synthetic, layout.filtered).samples["generator"].iloc[0])


def rollback(layout: Layout, params: Params, kind: ModelKind = GENERATOR, person: str = "", reason: str = "") -> Decision:
    """Make the champion before this one the champion again; `person` and `reason` as in `promote`.

    Raises:
        MeddiffError: there is none, or a service doesn't answer.
    """
    registry = Registry(layout, params, kind)
    champion, previous = registry.alias(_CHAMPION), registry.alias(_PREVIOUS)
    if previous is None:
        raise MeddiffError(registry.name, "a rollback needs an earlier champion", "Promote a version by its number")
    line = f"champion again after a rollback from version {champion}"
    record_action(layout, params, "rolled back", f"{registry.name} {previous}", "\n".join(filter(None, (reason.strip(), line))),
                  champion or "", previous, person)
    registry.set_alias(_CHAMPION, previous)
    registry.set_alias(_PREVIOUS, None)
    registry.annotate(previous, {"gate.rollback": line})
    if champion:
        registry.annotate(champion, {"gate.rollback": f"replaced by version {previous} in a rollback"})
    record_promotion(layout, params, registry.name, previous, True, (line,))
    return Decision(True, (line,), previous)
