"""A patient whose data must not be used any more: what descends from it, and what is done about that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from meddiff.delivery.releases import quarantine
from meddiff.errors import MeddiffError, some
from meddiff.layout import STAGES, Layout
from meddiff.lineage.knowledge import gather_knowledge
from meddiff.lineage.trace import LEARNED, Product, products
from meddiff.outputs.sources import Source, list_sources
from meddiff.outputs.withdrawals import Withdrawal, patient_hash, read_withdrawals, write_withdrawals
from meddiff.pages import counted
from meddiff.params import Params
from meddiff.services.catalog import DeliveryRecord, painted_into, person_of, record_action
from meddiff.services.storage import open_store
from meddiff.services.tracking import VersionRecord, withdraw_version


@dataclass(frozen=True)
class WithdrawalPlan:
    """What a withdrawal concerns.

    Attributes:
        patient: salted hash.
        images: of the patient, in any dataset that is known.
        present: whether the project's `data/` holds any.
        known: the withdrawal that is there already.
        generators: hashes of those that learned from the patient.
        painted: pairs that lie on images of the patient.
        versions: registered models that learned from it.
        measured: models that were only measured on it.
        deliveries: releases and exports that hold pairs of these generators.
        products: all of that, as `meddiff lineage` tells it.
    """

    patient: str
    images: tuple[Source, ...]
    present: bool
    known: Withdrawal | None
    generators: tuple[str, ...]
    painted: int
    versions: tuple[VersionRecord, ...]
    measured: tuple[str, ...]
    deliveries: tuple[DeliveryRecord, ...]
    products: tuple[Product, ...]


def plan_withdrawal(layout: Layout, params: Params, patient: str) -> WithdrawalPlan:
    """Find all that descends from a patient; changes nothing.

    Args:
        patient: its name as the dataset has it, that of its group where nobody knows it, or its hash.

    Raises:
        MeddiffError: there is no such patient, or a service doesn't answer.
    """
    knowledge, hash = gather_knowledge(layout, params), patient_hash(layout, patient)
    every = {source.patient for sources in knowledge.history.cases.values() for source in sources}
    hash = patient if patient in every else hash
    if hash not in every:
        raise MeddiffError(f"patient {patient}", "no dataset that this project knows has such a patient",
                           "Give the name as in the column patient, else group, of data/*/cases.csv, or the hash that "
                           "`meddiff lineage CASE` shows")
    images = {source.id: source for sources in knowledge.history.cases.values() for source in sources if source.patient == hash}
    made, generators = dict[tuple[str, str, bool], Product](), set[str]()
    for execution in knowledge.history.executions:
        parts = {source.part for source in knowledge.sources(execution) if source.patient == hash}
        made |= {(each.kind, each.id, each.learned): each for each in products(knowledge, [execution], parts) if parts}
        generators |= knowledge.generators([execution]) if parts & set(LEARNED) else set()
    concerned = {each.id for each in made.values() if each.learned}
    versions = tuple(version for version in knowledge.versions if f"models:/{version.id}" in concerned)
    measured = tuple(each.id for each in made.values() if each.kind == "segmenter" and each.id not in concerned)
    sent = tuple(each for each in knowledge.history.deliveries if generators & set(each.generators))
    return WithdrawalPlan(hash, tuple(images.values()), any(source.patient == hash for source in list_sources(layout)),
                next((entry for entry in read_withdrawals(layout) if entry.patient == hash), None), tuple(sorted(generators)),
                len(painted_into(layout, params, hash)), versions, measured, sent, tuple(made.values()))


def plan_lines(plan: WithdrawalPlan) -> list[str]:
    """What is concerned and what will be done, for the user."""
    parts = ", ".join(f"{sum(image.part == part for image in plan.images)} {part}"
                      for part in dict.fromkeys(image.part for image in plan.images))
    ids = some([image.id for image in plan.images])
    lines = [f"patient {plan.patient}: {counted(len(plan.images), 'image')} ({parts}): {ids}"]
    if plan.known:
        lines.append(f"withdrawn already on {plan.known.at[:10]} ({plan.known.reason}); what came later is added")
    pairs = [each for each in plan.products if each.kind == "pairs"]
    lines += [f"quarantined: pairs of generator {each.id}: {each.words}" for each in pairs]
    if plan.painted:
        lines.append(f"{counted(plan.painted, 'pair')} of these on images of the patient")
    lines += [f"blocked: models:/{each.id}" + (f", no longer {' nor '.join(each.aliases)}" if each.aliases else "")
              for each in plan.versions]
    lines += [f"measured on the patient, not taught by it: {id}; its numbers hold a withdrawn case" for id in plan.measured]
    lines += [f"published already: {each.kind} {each.name} at {each.place}, {each.at:%Y-%m-%d}, {counted(each.pairs, 'pair')}: "
              + ("marked as withdrawn; who fetched it must be told" if each.kind == "release" else "delete it there")
              for each in plan.deliveries]
    if plan.present:
        lines.append(f"to be made again without the patient: {', '.join(STAGES)} (`meddiff repro`, or --retrain)")
    lines.append("nothing is deleted: older data, pairs and models stay in DVC's cache, MLflow and .work/ until you remove them")
    return lines


def act(layout: Layout, params: Params, plan: WithdrawalPlan, reason: str) -> tuple[list[str], list[MeddiffError]]:
    """Withdraw the patient: the file first, so that what fails later leaves the rest safe; the same command goes on.

    Returns:
        What was done, one line each, and the releases that couldn't be marked.

    Raises:
        MeddiffError: the catalogue, which logs the action first, or the tracking server fails.
    """
    at = plan.known.at if plan.known else datetime.now(UTC).isoformat(timespec="seconds")
    reason = plan.known.reason if plan.known else reason
    raw = {plan.patient, *(patient_hash(layout, text) for image in plan.images for text in (image.id, image.file) if text),
           *(plan.known.raw if plan.known else ())}
    generators = {*plan.generators, *(plan.known.generators if plan.known else ())}
    entry = Withdrawal(plan.patient, tuple(sorted(raw)), tuple(sorted(generators)), reason, at, person_of(params))
    record_action(layout, params, "withdrew", f"patient {plan.patient}", reason)
    write_withdrawals(layout, [*(each for each in read_withdrawals(layout) if each.patient != plan.patient), entry])
    lines = [f"{layout.withdrawals.name} names patient {plan.patient}: commit it"]
    why = f"patient {plan.patient}, {at[:10]}: {reason}"
    for version in plan.versions:
        withdraw_version(layout, params, version, why)
        gone = f", aliases taken away: {', '.join(version.aliases)}" if version.aliases else ""
        lines.append(f"models:/{version.id} is withdrawn{gone}")
    marked, faults = _mark(plan.deliveries, why)
    return lines + marked, faults


def _mark(deliveries: Sequence[DeliveryRecord], why: str) -> tuple[list[str], list[MeddiffError]]:
    lines, faults = list[str](), list[MeddiffError]()
    for sent in deliveries:
        if sent.kind != "release":
            lines.append(f"export {sent.name} in {sent.place} isn't ours to change: delete it")
            continue
        try:
            quarantine(open_store(sent.place), sent.name, why)
            lines.append(f"release {sent.name} at {sent.place} is marked as withdrawn")
        except MeddiffError as e:
            rule = f"it must be marked as withdrawn ({e.where}: {e.rule})"
            faults.append(MeddiffError(f"release {sent.name} at {sent.place}", rule, f"{e.remedy}, then run the command again"))
    return lines, faults
