"""Samples in shards, as tests write, change and list them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff.cases import Pixels, image_png, mask_png
from meddiff.layout import Layout
from meddiff.outputs.samples import MASKS, read_samples, sample_image, write_masks
from meddiff.outputs.shards import write_shard


def put_batch(folder: Path, rows: Sequence[Mapping[str, Any]], pairs: Iterable[tuple[Pixels, Pixels]], classes: int = 1) -> None:
    """A batch of samples: what is known of each, and its image and mask."""
    images, masks = zip(*pairs, strict=True)
    write_shard(folder / "batch.parquet", pd.DataFrame(rows), {
        "image": [image_png(image) for image in images], "mask": [mask_png(mask, classes) for mask in masks]})


def put_masks(layout: Layout, masks: Mapping[str, Pixels], classes: int = 1) -> None:
    """Final masks by the ids of accepted samples, in the place of those before."""
    write_masks(layout.filtered, {id: mask_png(mask, classes) for id, mask in masks.items()})


def change(file: Path, id: str, **pictures: bytes | None) -> None:
    """Put other pictures, or none, into a row of a shard."""
    table = pd.read_parquet(file)
    for column, content in pictures.items():
        table.loc[table["id"] == id, column] = content  # type: ignore[call-overload]
    write_shard(file, table.drop(columns=["image", "mask"], errors="ignore"),
                {name: table[name].tolist() for name in ("image", "mask") if name in table})


def images_of(layout: Layout) -> dict[str, bytes]:
    """The PNG of each sample's image."""
    samples = read_samples(layout.synthetic, "id", "batch")
    return {id: sample_image(layout.synthetic, batch, id).read_bytes() for id, batch in samples.itertuples(index=False)}


def mask_ids(layout: Layout) -> set[str]:
    """The samples that have a final mask."""
    return set(pd.read_parquet(layout.filtered / MASKS, columns=["id"])["id"])
