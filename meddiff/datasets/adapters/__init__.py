"""Raw datasets as their authors publish and tools export them: which cases, masks and parts there are, how one is decoded.

Listing a dataset opens no image; `decode` reads one case, so that thousands of large images never lie in memory together.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from meddiff.datasets.adapters.coco import coco, coco_files
from meddiff.datasets.adapters.cvat import cvat, cvat_files
from meddiff.datasets.adapters.dermoscopy import isic2017, isic2018, ph2
from meddiff.datasets.adapters.dicom import dicom, explain_dicom
from meddiff.datasets.adapters.dicom_headers import count_dicom
from meddiff.datasets.adapters.dicom_pixels import DicomFrame
from meddiff.datasets.adapters.exports import tell_categories
from meddiff.datasets.adapters.folder import folder, has_masks, has_pairs
from meddiff.datasets.adapters.groups import group_file, offer_groups, refuse_unsafe, unknown_names, with_groups
from meddiff.datasets.adapters.inputs import list_inputs
from meddiff.datasets.adapters.label_studio import label_studio, label_studio_files
from meddiff.datasets.adapters.labelme import labelme, labelme_files
from meddiff.datasets.adapters.listing import (
    ELSEWHERE,
    RECIPE,
    LeftOut,
    count_suffixes,
    entry,
    harmless,
    unread,
)
from meddiff.datasets.adapters.parts import with_parts
from meddiff.datasets.adapters.raw import (
    Fitted,
    Original,
    Polygon,
    RawCase,
    decode,
    decode_masks,
    decoded_image,
    fit_square,
    in_memory,
    unfit_square,
)
from meddiff.datasets.adapters.slicing import Slicing
from meddiff.datasets.adapters.telling import tell_left_out, tell_pairs
from meddiff.datasets.adapters.ultrasound import busi, ddti
from meddiff.datasets.adapters.via import via, via_files
from meddiff.datasets.adapters.volume_pixels import VolumeSlice
from meddiff.datasets.adapters.volumes import count_volumes, explain_volume, volumes
from meddiff.datasets.adapters.yolo import yolo, yolo_files
from meddiff.errors import MeddiffError

__all__ = [
    "Fitted",
    "LeftOut",
    "Original",
    "Polygon",
    "RawCase",
    "decode",
    "decode_masks",
    "decoded_image",
    "fit_square",
    "in_memory",
    "list_inputs",
    "offer_groups",
    "passed_over",
    "read",
    "recognise",
    "tell_categories",
    "tell_left_out",
    "tell_taken",
    "unfit_square",
]

_TEXTS = r".*\.(txt|md|csv|json|pdf|xlsx?|docx?|html)"  # what authors publish beside images and masks
_NOTES = r".*\.(txt|md|csv|pdf|ya?ml)"                  # what lies beside an export
_UNNAMED = "the export doesn't name it"


@dataclass(frozen=True)
class _Layout:
    """How a layout is read and known.

    Attributes:
        list_cases: the cases at a folder; with the names of classes where it tells several.
        lies_at: what of the layout lies at a folder; nothing that counts as true where it isn't this.
        several: whether it tells several classes.
        published: its names are so much its own that no other layout is meant where they are.
        aside: names that lie beside what is read rightly, as a regular expression.
        elsewhere: what helps with a picture that isn't read; empty: only the folders of read files are looked at.
        explain: of files of many frames or slices, which `slicing` chooses from: why a file isn't read and what helps.
    """

    list_cases: Callable[..., list[RawCase]]
    lies_at: Callable[[Path], object]
    several: bool = True
    published: bool = False
    aside: str = _NOTES
    elsewhere: str = _UNNAMED
    explain: Callable[[Collection[str], Path], str] | None = None


def _lies(path: Path, *patterns: str) -> bool:
    return any(next(path.glob(pattern), None) for pattern in patterns)


_published = partial(_Layout, several=False, published=True, aside=_TEXTS, elsewhere="")
_LAYOUTS: dict[str, _Layout] = {
    "folder": _Layout(folder, has_pairs, aside="", elsewhere=ELSEWHERE),
    "busi": _published(busi, lambda path: _lies(path, "Dataset_BUSI_with_GT") or all(
        _lies(path, f"{name}/*_mask.png") for name in ("benign", "malignant", "normal")), several=True),
    "isic2017": _published(isic2017, lambda path: _lies(path, "ISIC-2017_Training_Data"), aside=rf"{_TEXTS}|.*_superpixels\.png"),
    "isic2018": _published(isic2018, lambda path: _lies(path, "ISIC2018_Task1-2_Training_Input")),
    "ph2": _published(ph2, lambda path: _lies(path, "PH2Dataset", "PH2 Dataset images", "IMD*/IMD*_lesion")),
    "ddti": _published(ddti, lambda path: _lies(path, "[0-9]*_[0-9]*.jpg") and _lies(path, "[0-9]*.xml"),
                       aside=rf"{_TEXTS}|\d+\.xml"),
    "coco": _Layout(coco, coco_files),
    "labelme": _Layout(labelme, labelme_files),
    "cvat": _Layout(cvat, cvat_files),
    "label_studio": _Layout(label_studio, label_studio_files),
    "yolo": _Layout(yolo, yolo_files),
    "via": _Layout(via, via_files),
    "dicom": _Layout(dicom, count_dicom, aside="", explain=explain_dicom),
    "volumes": _Layout(volumes, count_volumes, aside="", explain=explain_volume),
}


def recognise(path: Path) -> str:
    """The layout of the dataset at a folder.

    Raises:
        MeddiffError: the folder isn't there, holds none, or can be read as several; says what lies there.
    """
    if not path.is_dir():
        raise MeddiffError(path, "the dataset must be a folder that is there", "Correct --path")
    seen = {name: layout for name, layout in _LAYOUTS.items() if layout.lies_at(path)}
    names = [name for name, layout in seen.items() if layout.published] or list(seen)
    if len(names) > 1 and "folder" in names and not has_masks(path):   # pictures beside what is annotated
        names.remove("folder")
    if len(names) == 1:
        return names[0]
    files = [f"{n} {suffix or 'nameless'} file{'s' * (n > 1)}" for suffix, n in count_suffixes(path).items()]
    if names:
        together = f"; for all of them at once {RECIPE}" if {"dicom", "volumes"} & set(names) else ""
        raise MeddiffError(path, f"the folder ({', '.join(files[:5])}) can be read as {' or as '.join(f'`{n}`' for n in names)}",
                           f"Say which is meant: --dataset {' or --dataset '.join(names)}{together}")
    helps = "; ".join(dict.fromkeys(left.reason for left in unread(path, (), "", "name the masks after their images, in masks/")))
    there = f"found {', '.join(files[:5])}: {helps}" if files else "the folder is empty"
    raise MeddiffError(path, f"no layout is recognised; {there}",
                       "See docs/how-to/prepare-a-dataset.md, or name a layout by --dataset")


def read(dataset: str, path: Path, classes: Sequence[str] = ("lesion",), group_pattern: str = "",
         slicing: Slicing | None = None) -> list[RawCase]:
    """List a raw dataset's cases, sorted by id.

    Args:
        dataset: name of a layout.
        path: folder of the raw dataset. `groups.json` or `groups.csv` in it names the patients, in any layout, and `split.json`
            the parts where the layout isn't a published dataset's.
        classes: names of the classes of lesions; with one, every lesion is of it. Several are told apart by `folder` (masks of
            class indices, in this order), `busi` (by its folders `benign` and `malignant`) and annotation tools (by category).
        group_pattern: what in an id is the patient, see `groups.with_groups`; empty: nothing.
        slicing: how `dicom` and `volumes` make images of frames and slices.

    Raises:
        MeddiffError: `path` or a folder below it is missing, an image has no mask or a mask no image, an id comes twice or is
            unsafe, nothing is there, groups are wrong, or the dataset doesn't tell these classes.
    """
    layout = _LAYOUTS[dataset]
    if not path.is_dir():
        raise MeddiffError(path, f"the folder of the `{dataset}` dataset must be there", "Correct `prepare.path` in params.yaml")
    if not layout.several and len(classes) > 1:
        raise MeddiffError("prepare.classes", f"the `{dataset}` layout tells one class of lesions, not {len(classes)}",
                           "Name one class, or bring masks of class indices in the layout `folder`")
    given = [classes] if layout.several else []
    cases = sorted(layout.list_cases(path, *given, *([slicing] if layout.explain else [])), key=lambda case: case.id)
    if not cases:
        instead = "; ".join(tell_left_out(passed_over(dataset, path, cases)))
        raise MeddiffError(path, f"a `{dataset}` dataset must hold an image{instead and f', but {instead}'}",
                           "Check `prepare.dataset` and `prepare.path`")
    for first, second in pairwise(cases):
        if first.id == second.id:
            raise MeddiffError(second.file or second.id, f"ids must be unique, `{second.id}` is also {first.file}",
                               "Rename one, and its mask")
    cases = with_groups(cases, path, group_pattern)
    if not layout.published and dataset != "folder":  # which reads it by itself
        cases = with_parts(cases, path)
    refuse_unsafe(cases)
    return cases


def passed_over(dataset: str, path: Path, cases: Sequence[RawCase]) -> list[LeftOut]:
    """What of a dataset's folder `read` didn't take: files, names in the file of groups, and annotations that can't be right."""
    layout = _LAYOUTS[dataset]
    used = {file for case in cases for file in case.files} | set(filter(None, [group_file(path)]))
    if not layout.published:
        used.add(entry(path, "split.json"))
    explain = partial(layout.explain, {case.id for case in cases}) if layout.explain else None
    doubts = [LeftOut(case.id, "annotation", case.doubt) for case in cases if case.doubt]
    return [*unread(path, used, layout.aside, layout.elsewhere, explain), *unknown_names(cases, path), *doubts,
            *_partly_read(path, cases)]


def _partly_read(path: Path, cases: Sequence[RawCase]) -> list[LeftOut]:
    """The videos and volumes that give fewer cases than they have frames and slices."""
    taken = Counter(case.image.source for case in cases if isinstance(case.image, DicomFrame | VolumeSlice))
    frames = {case.image.source: case.image.frames for case in cases if isinstance(case.image, DicomFrame | VolumeSlice)}
    return [LeftOut(harmless(file.relative_to(path).as_posix()), "frames", "of those without a lesion mask `prepare.frames` are "
                    "taken, evenly spread") for file, total in frames.items() if taken[file] < total]


def tell_taken(path: Path, cases: Sequence[RawCase]) -> list[str]:
    """What of a dataset's folder was taken for images and what for masks, a line for each."""
    return tell_pairs(path, [(case.file, sorted(case.files - {case.file} if case.masks else ())) for case in cases if case.file])
