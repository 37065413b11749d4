"""From an id to the images that it descends from, and to all that descends from it."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meddiff.cases import sha256
from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout
from meddiff.lineage.knowledge import Knowledge, gather_knowledge
from meddiff.outputs.sources import Source
from meddiff.outputs.withdrawals import patient_hash, read_withdrawals
from meddiff.pages import counted
from meddiff.params import Params
from meddiff.services.catalog import FILES, ExecutionRecord, find_sample, painted_into
from meddiff.services.tracking import find_version, read_runs

LEARNED = ("train", "normal")         # parts that generators and pairs descend from
_JUDGED = (*LEARNED, "val")           # and segmenters
_PARTS = (*_JUDGED, "test")           # and numbers


@dataclass(frozen=True)
class Image:
    """An image of the dataset, and what has seen it in the executions concerned."""

    patient: str
    id: str
    part: str
    labelled: bool
    file: str
    seen_by: tuple[str, ...]


@dataclass(frozen=True)
class Execution:
    """One execution, as MLflow knows it: its run, code, and the settings that differ from the defaults."""

    id: str
    run: str
    name: str
    commit: str
    at: str
    settings: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """What descends from the images.

    Attributes:
        kind: pairs, generator, segmenter, run, release or export.
        id: by which `meddiff lineage` takes it.
        words: of it.
        learned: whether it learned from the images; else it was only measured on them.
    """

    kind: str
    id: str
    words: str
    learned: bool = True


@dataclass(frozen=True)
class Trace:
    """What an id is, what it descends from, and what descends from it.

    Attributes:
        kind: pair, release, export, generator, segmenter, run, patient, case or file.
        facts: what it is, in words.
    """

    id: str
    kind: str
    facts: dict[str, str]
    executions: tuple[Execution, ...]
    images: tuple[Image, ...]
    products: tuple[Product, ...]


def trace(layout: Layout, params: Params, id: str) -> Trace:
    """The lineage of an id.

    Args:
        id: of a pair, a release or export, a registered model, a run in MLflow, a patient (its group's name or hash), a case, or
            a raw file (its path or SHA-256).

    Raises:
        MeddiffError: there is nothing of this id, or a service doesn't answer.
    """
    known = gather_knowledge(layout, params)
    for find in (_model, _file, _delivery, _pair, _case, _run):
        if made := find(known, id):
            return made
    raise MeddiffError(id, "an id is that of a pair, a release or export, a model (models:/NAME/VERSION or NAME@ALIAS), a run in "
                       "MLflow, a patient, a case, or a raw file (path or SHA-256)",
                       "`meddiff lineage` without an id lists some of each")


def _model(known: Knowledge, id: str) -> Trace | None:
    version = find_version(list(known.versions), id)
    if version is None:
        return None
    executions, parts = known.users(version.id), LEARNED if version.kind == "generator" else _JUDGED
    facts = {"version": version.id, "aliases": ", ".join(version.aliases)} | {
        name: version.tags[name] for name in ("withdrawn", "gate", "arm", "dice") if name in version.tags}
    if not executions:
        facts["images"] = "not known: the execution that made it isn't in the catalogue"
    others = [each for each in products(known, executions, parts) if each.id != f"models:/{version.id}"]
    return _traced(known, id, version.kind, facts, executions, parts, others)


def _delivery(known: Knowledge, id: str) -> Trace | None:
    sent = next((each for each in known.history.deliveries if id in (each.name, f"{each.place}{each.name}", each.place)), None)
    if sent is None:
        return None
    executions = known.makers(sent.generators)
    facts = {"place": sent.place, "pairs": str(sent.pairs), "sent": f"{sent.at:%Y-%m-%d %H:%M} UTC",
             "generators": ", ".join(sent.generators)} | _withdrawn(known, sent.generators)
    return _traced(known, id, sent.kind, facts, executions, LEARNED, [each for each in products(known, executions, LEARNED)
                                                                      if each.kind not in ("release", "export")])


def _pair(known: Knowledge, id: str) -> Trace | None:
    record = find_sample(known.layout, known.params, id)
    if record is None:
        return None
    executions = known.makers([record.generator])
    patients = {source.id: source.patient for execution in executions for source in known.sources(execution)}
    model = record.model or next((each.generator for each in executions if each.generator), "")
    facts = {"verdict": record.verdict + (f": {record.reason}" if record.reason else ""),
             "generator": record.generator + (f", models:/{model}" if model else ""),
             "settings": f"seed {record.seed}, guidance {record.guidance_scale:g}, {record.steps} steps",
             "painted into": f"{record.background}, case {record.source} of patient {record.patient or 'unknown'}",
             "nearest": f"case {record.nearest} of patient {patients.get(record.nearest, 'unknown')}" if record.nearest else "",
             "files": ", ".join(filter(None, (record.pictures, record.corroded)))} | _withdrawn(known, [record.generator])
    own = [each for each in executions if each.id == record.execution and each.id != FILES] or executions
    made = [each for each in products(known, executions, LEARNED) if each.kind in ("release", "export", "segmenter")]
    used = record.verdict == "accepted"  # the arms' other samples aren't named one by one
    return _traced(known, id, "pair", facts, own, LEARNED, made if used else [])


def _run(known: Knowledge, id: str) -> Trace | None:
    execution = next((each for each in known.history.executions if id in (each.id, each.run) and each.id != FILES), None)
    if execution is None and not re.fullmatch("[0-9a-f]{32}", id):
        return None
    asked = execution.run if execution else id
    run = read_runs(known.layout, known.params, [asked]).get(asked)
    if execution is None and run is not None:  # of a stage: its execution's
        execution = next((each for each in known.history.executions if each.run == run.id), None)
    if execution is None and run is None:
        return None
    executions = [execution] if execution else []
    facts = {"run": f"{run.name} ({run.id}), {run.status.lower()}"} if run else {}
    facts |= {} if executions else {"images": "not known: the run's execution isn't in the catalogue"}
    return _traced(known, id, "run", facts, executions, _PARTS,
                   [each for each in products(known, executions, _PARTS) if each.kind != "run"])


def _file(known: Knowledge, id: str) -> Trace | None:
    place = Path(id).expanduser()
    hash = sha256(place) if ("/" in id or place.suffix) and place.is_file() else id
    return _descent(known, id, "file", lambda source: source.file == hash) if re.fullmatch("[0-9a-f]{64}", hash) else None


def _case(known: Knowledge, id: str) -> Trace | None:
    hashes = {id, patient_hash(known.layout, id)}
    return (_descent(known, id, "patient", lambda source: source.patient in hashes)
            or _descent(known, id, "case", lambda source: source.id == id))


def _descent(known: Knowledge, id: str, kind: str, chosen: Callable[[Source], bool]) -> Trace | None:
    """Forward from images."""
    parts = {execution.id: {source.part for source in known.sources(execution) if chosen(source)}
             for execution in known.history.executions}
    executions = [execution for execution in known.history.executions if parts[execution.id]]
    if not executions:
        return None
    made = dict[tuple[str, str], Product]()
    for execution in executions:
        for product in products(known, [execution], parts[execution.id]):
            if (kept := made.get((product.kind, product.id))) is None or product.learned > kept.learned:
                made[product.kind, product.id] = product
    patients = sorted({source.patient for execution in executions for source in known.sources(execution) if chosen(source)})
    own = [pair for patient in patients for pair in painted_into(known.layout, known.params, patient)]
    facts = {"patient": ", ".join(patients), "executions": str(len(executions)),
             "painted into": f"{counted(len(own), 'pair')} on images of the patient" if own else ""}
    gone = [f"{entry.at[:10]}: {entry.reason}" for entry in read_withdrawals(known.layout) if entry.patient in patients]
    facts["withdrawn"] = "; ".join(gone)
    return _traced(known, id, kind, facts, executions, _PARTS, list(made.values()), chosen)


def products(known: Knowledge, executions: Sequence[ExecutionRecord], parts: Collection[str]) -> list[Product]:
    """What came out of executions in which images were of these parts."""
    painted, judged = bool(set(parts) & set(LEARNED)), bool(set(parts) & set(_JUDGED))
    generators, made = known.generators(executions), list[Product]()
    aliases = {version.id: ", ".join([*version.aliases, *["withdrawn"] * ("withdrawn" in version.tags)])
               for version in known.versions}
    if painted:
        for generator in sorted(generators):
            rows = [row for row in known.history.made if row.generator == generator]
            most = max(rows, key=lambda row: (row.accepted, row.samples))
            made.append(Product("pairs", generator, f"{most.samples} samples, {most.accepted} accepted"))
        made += [Product(sent.kind, sent.name, f"{counted(sent.pairs, 'pair')}, at {sent.place}, {sent.at:%Y-%m-%d}")
                 for sent in known.history.deliveries if generators & set(sent.generators)]
    for kind, learned in (("generator", painted), ("segmenter", judged)):
        ids = dict.fromkeys(getattr(each, kind) for each in executions if getattr(each, kind))
        made += [Product(kind, f"models:/{id}", aliases.get(id, "no longer registered"), learned) for id in ids
                 if learned or kind == "segmenter"]
    return [*made, *(Product("run", each.run, f"execution {each.id}, {each.at:%Y-%m-%d %H:%M} UTC", judged)
                     for each in executions if each.run)]


def roles(source: Source, settings: Mapping[str, str]) -> tuple[str, ...]:
    """What has seen an image: by its part, and by the settings of the execution (`section.name` -> value as text)."""
    if source.part in ("val", "test", "normal"):
        return {"val": ("choice of segmenters", "fidelity"), "test": ("evaluation",), "normal": ("backgrounds",)}[source.part]
    taught = settings.get("foundation.source") in ("embedded", "scratch") and settings.get("foundation.steps") != "0"
    finds = settings.get("backgrounds.finder_steps") != "0"
    seen = ["foundation"] * taught + ["finders"] * finds
    taught_by = ("inspector", "mask model", "generator", "texture and seams", "filter references", "segmenters", "backgrounds")
    return (*seen, *(taught_by if source.labelled else ("backgrounds",) * finds))


def flat_settings(params: Params) -> dict[str, str]:
    """`section.name` -> value as text, as MLflow holds them."""
    return {f"{section}.{name}": str(value) for section, own in params.model_dump(mode="json").items() if section in STAGES
            for name, value in own.items()}


def _traced(known: Knowledge, id: str, kind: str, facts: dict[str, str], executions: Sequence[ExecutionRecord],
            parts: Collection[str], made: list[Product], chosen: Callable[[Source], bool] = lambda _: True) -> Trace:
    """Put a trace together: the images are those of the newest execution that knows each; of many executions twenty are asked."""
    default, told, images = flat_settings(Params()), list[Execution](), dict[str, Image]()
    runs = read_runs(known.layout, known.params, (execution.run for execution in executions[:20] if execution.run))
    for execution in executions:
        run = runs.get(execution.run)
        settings = run.settings if run else flat_settings(known.params)
        changed = {name: value for name, value in settings.items() if name in default and value != default[name]}
        numbers = {name: value for name, value in (run.metrics if run else {}).items() if _headline(name)}
        told.append(Execution(execution.id, execution.run, run.name if run else "", execution.commit,
                              f"{execution.at:%Y-%m-%d %H:%M} UTC", changed, numbers))
        for source in known.sources(execution):
            if source.part in parts and chosen(source):
                images.setdefault(source.id, Image(source.patient, source.id, source.part, source.labelled, source.file,
                                                   roles(source, settings)))
    order = sorted(images.values(), key=lambda image: (not image.labelled, image.part, image.patient, image.id))
    return Trace(id, kind, {name: words for name, words in facts.items() if words}, tuple(told), tuple(order), tuple(made))


def _headline(name: str) -> bool:
    return name in ("acceptance", "copies", "segmenter_dice") or re.fullmatch("(dice|gain)(_[a-z_]+)?", name) is not None


def _withdrawn(known: Knowledge, generators: Collection[str]) -> dict[str, str]:
    told = [f"patient {entry.patient}, {entry.at[:10]}: {entry.reason}" for entry in read_withdrawals(known.layout)
            if set(entry.generators) & set(generators)]
    return {"quarantined": "; ".join(told)} if told else {}


def example_ids(layout: Layout, params: Params) -> dict[str, list[str]]:
    """Some ids of each kind that a project has, and the command that lists more."""
    known = gather_knowledge(layout, params)
    newest = known.history.executions[:3]
    sources = known.sources(newest[0]) if newest else ()
    return {"models": [f"models:/{each.id}" for each in known.versions[-4:]],
            "releases, exports": [each.name for each in known.history.deliveries[-4:]],
            "runs": [each.run for each in newest if each.run],
            "patients": list(dict.fromkeys(source.patient for source in sources))[:4],
            "cases": [source.id for source in sources[:4]], "pairs": ["as `meddiff catalog list` shows them"]}
