"""The pairs that arms add to the real cases, by kind, and the images that they paste into; listed before they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from meddiff.cases import Case, Encoded, read_image, read_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import final_mask, read_samples, sample_image, sample_mask
from meddiff.outputs.tables import BACKGROUNDS, CASES, DECISIONS
from meddiff.outputs.withdrawals import read_withdrawals, refuse_withdrawn


@dataclass(frozen=True)
class PairFiles:
    """A pair, or an image without mask, that isn't read yet: of a hundred thousand only those that are used come into memory."""

    id: str
    image: Encoded
    mask: Encoded | None
    group: str = ""

    def read(self) -> Case:
        return Case(self.id, read_image(self.image), None if self.mask is None else read_mask(self.mask), self.group)


def list_accepted(layout: Layout, corroded: bool = True) -> list[PairFiles]:
    """The accepted synthetic pairs in the order of their ids; a pair's group is its batch.

    Args:
        layout: `synthetic` holds `BATCH/batch.parquet`; `filtered` holds `decisions.parquet` (id, batch, verdict, …) and
            `masks.parquet` of the accepted samples.
        corroded: with their corroded masks, else with the masks that guided the painting.

    Raises:
        MeddiffError: the table is missing, or a patient was withdrawn of whom they were made.
    """
    return [_sample(layout, id, batch, corroded) for id, batch, verdict in _decisions(layout) if verdict == "accepted"]


def list_unfiltered(layout: Layout, seed: int = 0) -> list[PairFiles]:
    """As many synthetic pairs as were accepted, drawn by chance from all of them, with the masks that guided the painting.

    Args:
        layout: see `list_accepted`.
        seed: of the draw.

    Raises:
        MeddiffError: the table is missing.
    """
    rows = _decisions(layout)
    n = sum(verdict == "accepted" for _, _, verdict in rows)
    drawn = sorted(np.random.default_rng(seed).permutation(len(rows))[:n])
    return [_sample(layout, id, batch) for id, batch, _ in (rows[i] for i in drawn)]


def list_found(layout: Layout) -> list[PairFiles]:
    """The images without annotation with what the finders see in them, as if it were their annotation; none without sites."""
    images, sites = layout.cases("train") / "images", layout.backgrounds / "sites"
    return [PairFiles(row.origin, images / f"{row.origin}.png", sites / f"{row.id}.png")
            for row in BACKGROUNDS.rows_if_there(layout.backgrounds) if row.kind == "site"]


def list_unannotated(layout: Layout) -> list[PairFiles]:
    """The training images without annotation, without masks; raises a MeddiffError where the table is missing."""
    folder = layout.cases("train")
    bare = [row for row in CASES.rows(folder) if not row.labelled]
    return [PairFiles(row.id, folder / "images" / f"{row.id}.png", None, row.group) for row in bare]


def list_grounds(layout: Layout, cleared: bool = False) -> list[PairFiles]:
    """The lesion-free images, or those of the sites with their lesions filled in and, as mask, what these were.

    Raises:
        MeddiffError: the table is missing.
    """
    images, sites = layout.backgrounds / "images", layout.backgrounds / "sites"
    return [PairFiles(row.id, images / f"{row.id}.png", sites / f"{row.id}.png" if cleared else None)
            for row in BACKGROUNDS.rows(layout.backgrounds) if (row.kind == "site") == cleared]


KINDS: dict[str, Callable[[Layout], list[PairFiles]]] = {
    "accepted": list_accepted, "uncorroded": partial(list_accepted, corroded=False), "unfiltered": list_unfiltered,
    "found": list_found, "unannotated": list_unannotated, "lesion_free": list_grounds,
    "cleared": partial(list_grounds, cleared=True)}


def nothing(layout: Layout, kind: str, arm: str, instead: str = "Leave the arm out") -> MeddiffError:
    """The error of an arm for which there is no pair of a kind.

    Args:
        kind: of `KINDS`.
        arm: its name.
        instead: what else to do where no lesion is found, such as `Leave the arm out`.
    """
    if kind == "unannotated":
        return MeddiffError(layout.cases("train"), f"the {arm} arm needs training images without annotation, and there is none",
                            f"{instead}, or add images without masks")
    if kind == "found":
        return MeddiffError(layout.backgrounds / "sites", f"the {arm} arm needs training images without annotation in which a "
                            "lesion is found, and there is none", f"{instead}, lower backgrounds.site_agreement, or set "
                            "backgrounds.finder_steps above 0")
    return MeddiffError(layout.filtered / "decisions.parquet", f"the {arm} arm needs at least one accepted pair, the filter left "
                        "none", "Look at reports/quality, then train the generator longer or widen the filter's bounds")


def _sample(layout: Layout, id: str, batch: str, corroded: bool = False) -> PairFiles:
    mask = final_mask(layout.filtered, id) if corroded else sample_mask(layout.synthetic, batch, id)
    return PairFiles(id, sample_image(layout.synthetic, batch, id), mask, batch)


def _decisions(layout: Layout) -> list[tuple[str, str, str]]:
    """Id, batch and verdict of the samples, unless a withdrawn patient is in them."""
    decisions = DECISIONS.read(layout.filtered, "id", "batch", "verdict").sort_values("id")
    if read_withdrawals(layout):
        refuse_withdrawn(layout, sorted(set(read_samples(layout.synthetic, "id", "generator")["generator"])), "used")
    return list(decisions.itertuples(index=False, name=None))
