"""Stage `backgrounds`: the images that lesions are painted into, lesion-free or with a lesion to replace, and the inspector."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from meddiff.backgrounds.removal import REASONS, Removal, hole, remove_lesions
from meddiff.backgrounds.sites import cleared, find_sites, train_finder
from meddiff.cases import Case, Pixels, digest, read_cases, sha256, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import SITE, Layout, replacing
from meddiff.painting.painter import load_painter
from meddiff.params import BackgroundsParams, Params, SegmentParams
from meddiff.progress import bar, told
from meddiff.segmentation.inspector import train_inspector
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun
from meddiff.stages import checkpoint_file, use_machine

Site = tuple[Case, Pixels, Pixels]  # an image without annotation, the lesions seen in it [S, S], and it without them [S, S, 3]
ENOUGH = 8  # with fewer lesion-free images of the dataset `auto` removes lesions, and fewer sites aren't used
COLUMNS = ["id", "source", "group", "method", "sha256"]
TAUGHT = 0.5  # share of a batch from the images in which the finders before agreed
APART = 1000  # between the seeds of finders
SHOWN = 24  # cases on the contact sheet


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train the inspector, and fill `backgrounds/` with the dataset's lesion-free images, cleared training images, or both, and
    with the training images without annotation in which it is plain where the lesion is.

    Raises:
        MeddiffError: no background comes of it, or the training cases or the foundation are missing.
    """
    params = use_machine(params)
    settings, begun = params.backgrounds, time.monotonic()
    device, classes = params.compute.device, len(params.prepare.classes)
    cases, unlabelled = read_cases(layout.cases("train")), _unlabelled(layout, settings)
    trained = partial(_trained, layout, cases, classes, device)
    brief = SegmentParams(steps=settings.inspector_steps, precision=settings.precision)
    inspector = trained("inspector", train_inspector, brief, settings.seed)
    found = _found(settings, unlabelled, trained)
    searched = time.monotonic()
    sites = _cleared(found)
    looked = {"unlabelled": len(unlabelled), "sites": len(sites)}
    if len(sites) < ENOUGH:
        sites = []
    normal = _normal(layout, settings)
    removals = _removals(layout, cases, settings, len(normal), inspector, device)
    settled = {removal.case: removal for removal in removals}  # the last attempt at each case
    with replacing(layout.backgrounds) as folder, replacing(layout.inspector) as model:
        table = _write(folder, layout.normal, normal, cases, settled, sites, classes)
        if sites:
            _site_sheet(sites).save(folder / "sites.png")
        if removals:
            _report(removals).to_csv(folder / "removals.csv", index=False, float_format="%.4f", lineterminator="\n")
            _sheet(cases, settled).save(folder / "removed.png")
        inspector.save(model)
    counts = _counts(table, settled) | looked
    _tell(counts)
    tracker.metrics(counts | {"inspector_loss": float(np.mean(inspector.losses[-50:])), "seconds_training": searched - begun,
                              "seconds": time.monotonic() - searched})
    tracker.dataset(table, "backgrounds", "backgrounds")
    if sites:
        tracker.file(layout.backgrounds / "sites.png", "pictures")
    if removals:
        tracker.file(layout.backgrounds / "removals.csv")
        tracker.file(layout.backgrounds / "removed.png", "pictures")


def _unlabelled(layout: Layout, settings: BackgroundsParams) -> list[Case]:
    """The training images without annotation, none if no site shall be looked for."""
    if not settings.finder_steps:
        return []
    annotated = {case.id for case in read_cases(layout.cases("train"))}
    return [case for case in read_cases(layout.cases("train"), labelled=False) if case.id not in annotated]


def _found(settings: BackgroundsParams, unlabelled: Sequence[Case], trained: Callable[..., Segmenter]
           ) -> list[tuple[Case, Pixels]]:
    """The images without annotation in which the finders of the last round agree, with what they see there.

    A round that leaves too few for sites ends the search: the next would learn nothing from them.
    """
    found = list[tuple[Case, Pixels]]()
    params = SegmentParams(steps=max(1, settings.finder_steps), share=TAUGHT, ratio=max(1, len(unlabelled)),
                           precision=settings.precision)
    for number in range(settings.finder_rounds if unlabelled else 0):
        taught = [replace(case, mask=site) for case, site in found]
        train, known = partial(train_finder, taught=taught), digest(taught)
        one, other = (trained(f"finder {number + 1}{name}", train, params, settings.seed + 1 + APART * (2 * number + place),
                              known) for place, name in enumerate("ab"))
        seen = find_sites(unlabelled, (one, other), settings.site_agreement, settings.largest)
        found = [(case, site) for case, site in zip(unlabelled, seen, strict=True) if site is not None]
        if len(found) < ENOUGH:
            break
    return found


def _trained(layout: Layout, cases: list[Case], classes: int, device: str, name: str, train: Callable[..., Segmenter],
             params: SegmentParams, seed: int, taught: str = "") -> Segmenter:
    inputs = f"{name} {params} {seed} {classes} {device} {taught}"
    checkpoint = checkpoint_file(layout, "backgrounds", layout.cases("train"), inputs)
    with bar(name) as report:
        return train(cases, params=params, seed=seed, classes=classes, device=device, checkpoint=checkpoint, report=report)


def _cleared(found: Sequence[tuple[Case, Pixels]]) -> list[Site]:
    """The sites whose lesions could be filled in."""
    images = [(case, site, cleared(case, site)) for case, site in told("clear sites", len(found), found)]
    return [(case, site, image) for case, site, image in images if image is not None]


def _normal(layout: Layout, settings: BackgroundsParams) -> pd.DataFrame:
    """The table of the dataset's lesion-free images, without rows if they aren't wanted."""
    table = layout.normal / "backgrounds.csv"
    if not table.is_file():
        raise MeddiffError(table, "the table of the dataset's lesion-free images must be there", "Run `dvc repro prepare`")
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    return rows.iloc[:0] if settings.sources == "removed" else rows


def _removals(layout: Layout, cases: list[Case], settings: BackgroundsParams, normal: int, inspector: Segmenter,
              device: str) -> list[Removal]:
    if settings.sources == "normal" or (settings.sources == "auto" and normal >= ENOUGH):
        return []
    painter = cache(partial(load_painter, layout.foundation, device))
    with bar("remove lesions") as report:
        with_lesion = [case for case in cases if case.mask is not None and case.mask.any()]
        return remove_lesions(with_lesion, settings, inspector, painter, report)


def _write(folder: Path, source: Path, normal: pd.DataFrame, cases: Sequence[Case], settled: dict[str, Removal],
           sites: Sequence[Site], classes: int) -> pd.DataFrame:
    """Write the images, the sites and `backgrounds.csv`."""
    images = folder / "images"
    images.mkdir()
    for id in normal["id"]:
        shutil.copyfile(source / "images" / f"{id}.png", images / f"{id}.png")
    rows = []
    for case in cases:
        removal = settled.get(case.id)
        if removal and removal.image is not None and not removal.reason:
            file = images / f"{case.id}_removed.png"
            write_image(file, removal.image)
            rows.append({"id": file.stem, "source": f"removed:{case.id}", "group": case.group, "method": removal.method,
                         "sha256": sha256(file)})
    for case, site, image in sites:
        file = images / f"{case.id}_site.png"
        write_image(file, image)
        write_mask(folder / "sites" / file.name, site, classes)
        rows.append({"id": file.stem, "source": f"{SITE}{case.id}", "group": case.group, "method": "found",
                     "sha256": sha256(file)})
    table = pd.concat([normal.assign(method="")[COLUMNS], pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)
    if table.empty:
        tried = f"; each of {len(settled)} labelled lesions was too large or still found" if settled else ""
        raise MeddiffError("backgrounds", f"there must be a background, and no image is lesion-free{tried}",
                           "Add lesion-free images, set `backgrounds.sources` to `both`, or raise `prepare.n_labelled` or "
                           "`backgrounds.residue`")
    table.to_csv(folder / "backgrounds.csv", index=False, lineterminator="\n")
    return table


def _report(removals: Sequence[Removal]) -> pd.DataFrame:
    """One row an attempt."""
    return pd.DataFrame([{name: getattr(removal, name) for name in ("case", "method", "before", "after", "reason")}
                         for removal in removals])


def _counts(table: pd.DataFrame, settled: dict[str, Removal]) -> dict[str, float]:
    removed, site = (table["source"].str.startswith(kind) for kind in ("removed:", SITE))
    after = [removal.after for removal in settled.values() if not removal.reason]
    return {"backgrounds": len(table), "normal": int((~removed & ~site).sum()), "tried": len(settled),
            "removed": int(removed.sum()),
            **{f"removed_by_{method}": int((table["method"] == method).sum()) for method in ("texture", "foundation")},
            **{f"dropped_{reason.replace(' ', '_')}": sum(removal.reason == reason for removal in settled.values())
               for reason in REASONS},
            **({"residue_mean": float(np.mean(after))} if after else {})}


def _tell(counts: dict[str, float]) -> None:
    """What a user must know, one line each."""
    print("backgrounds: {normal} lesion-free images, {removed} with the lesion removed".format(**counts), file=sys.stderr)
    if counts["unlabelled"]:
        use = "new ones will replace it" if counts["sites"] >= ENOUGH else f"fewer than {ENOUGH}, they aren't used"
        print("backgrounds: {sites} of {unlabelled} images without annotation show plainly where the lesion is: ".format(**counts)
              + use, file=sys.stderr)
    notes = {"dropped_too_large": "too large", "dropped_no_source": "no lesion-free place of the image fits",
             "dropped_lesion_found": "the inspector still finds a lesion"}
    if dropped := [f"{counts[name]} ({why})" for name, why in notes.items() if counts[name]]:
        print(f"backgrounds: lesions not removed: {', '.join(dropped)}", file=sys.stderr)


def _site_sheet(sites: Sequence[Site]) -> Image.Image:
    """Pairs, four a row: the image with the outline of what is seen there, and without its lesion."""
    tiles = []
    for case, site, image in sites[:SHOWN]:
        outlined, inside = case.image.copy(), site > 0
        outlined[inside & ~ndimage.binary_erosion(inside)] = (255, 255, 0)
        tiles += [outlined, image]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
    return Image.fromarray(np.concatenate([np.concatenate(tiles[i:i + 8], axis=1) for i in range(0, len(tiles), 8)]))


def _sheet(cases: Sequence[Case], settled: dict[str, Removal]) -> Image.Image:
    """Pairs, four a row: the image with its hole outlined, and the filled image, under a red bar if it is dropped."""
    pairs = []
    for case in [case for case in cases if case.id in settled][:SHOWN]:
        removal, outlined = settled[case.id], case.image.copy()
        inside = hole(case)
        outlined[inside & ~(inside & np.roll(inside, 1, 0) & np.roll(inside, 1, 1))] = (255, 255, 0)
        filled = np.zeros_like(case.image) if removal.image is None else removal.image.copy()
        if removal.reason:
            filled[:max(2, len(filled) // 32)] = (255, 0, 0)
        pairs.append(np.concatenate([outlined, filled], axis=1))
    pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % 4)
    return Image.fromarray(np.concatenate([np.concatenate(pairs[i:i + 4], axis=1) for i in range(0, len(pairs), 4)]))
