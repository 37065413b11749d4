"""What is known of synthetic samples: the tables of `generate` and `filter`, and their pictures."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image

from meddiff.cases import Pixels, image_png, mask_png, read_image, read_mask
from meddiff.errors import MeddiffError
from meddiff.outputs.rows import SampleRow
from meddiff.outputs.shards import InShard, write_shard
from meddiff.outputs.tables import DECISIONS, SAMPLES
from meddiff.progress import with_progress

SAMPLE_COLUMNS = ("id", "batch", "seed", "background", "area", "guidance_scale", "steps", "generator")
DECISION_COLUMNS = DECISIONS.columns
VERDICTS = ("accepted", "rejected", "quarantined")
MASKS = "masks.parquet"


@dataclass(frozen=True)
class Records:
    """The tables of one synthetic dataset.

    Attributes:
        samples: one row a sample, `SAMPLE_COLUMNS`, in the order of ids.
        decisions: one row a decided sample, `DECISION_COLUMNS`, in the order of ids; empty before `filter` ran.
        reasons: for each batch that the filter saw, why it was quarantined; nothing for a batch that passed.
    """

    samples: pd.DataFrame
    decisions: pd.DataFrame
    reasons: dict[str, tuple[str, ...]]

    @property
    def accepted(self) -> pd.DataFrame:
        """The accepted samples, with what the filter measured and decided."""
        accepted = self.decisions[self.decisions["verdict"] == "accepted"]
        return self.samples.merge(accepted.drop(columns=["batch", "area"]), on="id")

    @property
    def quarantined(self) -> int:
        """Batches that the quality check kept out."""
        return sum(bool(reasons) for reasons in self.reasons.values())


def write_batch(folder: Path, samples: Iterable[tuple[SampleRow, Pixels, Pixels]], classes: int = 1) -> None:
    """Write a batch's shard: `SAMPLES`, with the pictures as columns `image` and `mask`.

    Args:
        folder: of the batch, which has its name.
        samples: of each its row, image `[H, W, 3]` uint8 RGB and mask `[H, W]` of 0 to K.
        classes: K.
    """
    rows, images, masks = zip(*samples, strict=True)
    write_shard(folder / SAMPLES.name, SAMPLES.table(rows), {
        "image": [image_png(image) for image in images], "mask": [mask_png(mask, classes) for mask in masks]})


def sample_image(synthetic: Path, batch: str, id: str) -> InShard:
    """The image of a sample."""
    return InShard(synthetic / batch / SAMPLES.name, id, "image", SAMPLES.stage)


def sample_mask(synthetic: Path, batch: str, id: str) -> InShard:
    """The mask by which a sample was painted."""
    return InShard(synthetic / batch / SAMPLES.name, id, "mask", SAMPLES.stage)


def write_masks(filtered: Path, masks: Mapping[str, bytes]) -> None:
    """Write the final masks, PNG by the ids of accepted samples."""
    write_shard(filtered / MASKS, pd.DataFrame({"id": list(masks)}, dtype="str"), {"mask": list(masks.values())})


def final_mask(filtered: Path, id: str) -> InShard:
    """The mask of an accepted sample after corrosion."""
    return InShard(filtered / MASKS, id, "mask", DECISIONS.stage)


def read_pair(synthetic: Path, batch: str, id: str) -> tuple[Pixels, Pixels]:
    """Image `[H, W, 3]` and mask `[H, W]` of a sample; any size that the pictures have."""
    return read_image(sample_image(synthetic, batch, id)), read_mask(sample_mask(synthetic, batch, id))


def read_pairs(synthetic: Path, rows: pd.DataFrame, label: str) -> Iterator[tuple[Pixels, Pixels]]:
    """The pairs of rows with id and batch, one by one, under a bar."""
    return with_progress(label, len(rows), (read_pair(synthetic, row.batch, row.id) for row in rows.itertuples()))


def read_mode(synthetic: Path, batch: str, id: str) -> str:
    """Pillow's pixel format of a sample's image."""
    with Image.open(BytesIO(sample_image(synthetic, batch, id).read_bytes())) as header:
        return header.mode


def read_samples(synthetic: Path, *columns: str) -> pd.DataFrame:
    """Read `synthetic/*/batch.parquet`: one row a sample, in the order of ids.

    Args:
        columns: see `tables.StageTable.read`; `SAMPLE_COLUMNS` where none is named.

    Raises:
        MeddiffError: no batch is there, a table is missing, doesn't decode or lacks a column, or an id occurs twice.
    """
    batches = sorted(path for path in synthetic.glob("*") if path.is_dir())
    if not batches:
        raise MeddiffError(synthetic, "there must be at least one batch of synthetic samples", "Run `dvc repro generate`")
    read = [SAMPLES.read(batch, *(columns or SAMPLE_COLUMNS)) for batch in batches]
    samples = pd.concat(read).sort_values("id", ignore_index=True)
    if not samples["id"].is_unique:
        twice = samples.loc[samples["id"].duplicated(), "id"].iloc[0]
        raise MeddiffError(synthetic, f"a sample is in one batch alone, but {twice} is in two", "Run `dvc repro generate`")
    return samples


def read_records(synthetic: Path, filtered: Path) -> Records:
    """Read `synthetic/*/batch.parquet`, `filtered/decisions.parquet` and `filtered/batches.json`.

    Raises:
        MeddiffError: no batch is there, a file doesn't decode or lacks a column, an id occurs twice, or the decisions are on
            other samples.
    """
    samples = read_samples(synthetic)
    path = filtered / DECISIONS.name
    if not path.is_file():
        return Records(samples, pd.DataFrame(columns=list(DECISION_COLUMNS)), {})
    decisions = DECISIONS.read(filtered).sort_values("id", ignore_index=True)
    wrong = decisions.loc[~decisions["id"].isin(samples["id"]) | decisions["id"].duplicated(), "id"]
    if len(wrong):
        raise MeddiffError(path, f"each decision is on a sample of its own in {synthetic.name}/, unlike that on {wrong.iloc[0]}",
                           "Run `dvc repro filter`")
    return Records(samples, decisions, _reasons(filtered / "batches.json"))


def _reasons(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        return {batch: tuple(str(reason) for reason in entry["reasons"]) for batch, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise MeddiffError(path, f"the batches' checks must be there and decode ({e!r})", "Run `dvc repro filter`") from e
