"""One variant of the method: its run, and the pictures of its first samples."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.cases import Pixels, read_image, read_mask, write_image
from meddiff.experiments.run import Outcome, tree_run
from meddiff.layout import Layout
from meddiff.outputs.samples import final_mask, read_pair, read_records
from meddiff.params.overrides import Overrides

TILE_GAP = 3  # between pictures [pixels]
_CLASSES = ((255, 255, 255), (255, 196, 0), (64, 224, 255), (255, 99, 132), (120, 220, 120), (190, 140, 255), (255, 150, 70))
_VERDICTS = "verdicts.csv"


def run_variant(layout: Layout, shown: int, name: str, overrides: Overrides, env: Mapping[str, str], tiles: Path) -> Outcome:
    """Run the pipeline up to `segment`, and keep its first samples' pictures.

    Args:
        layout: the project.
        shown: number of samples, those of the least seeds.
        name: of the work tree.
        overrides: section -> name -> value.
        env: environment variables for the stages.
        tiles: an empty folder, for `SEED.png` and the verdicts on them.

    Raises:
        MeddiffError: a stage failed.
    """
    with tree_run(layout, "ablate", name, overrides, env) as run:
        outcome = run.validate()
        _write_tiles(run.tree, shown, tiles)
    return outcome


def _write_tiles(tree: Layout, shown: int, tiles: Path) -> None:
    records = read_records(tree.synthetic, tree.filtered)
    table = records.samples.merge(records.decisions[["id", "verdict", "reason"]], on="id", how="left").sort_values("seed")
    verdicts = []
    for sample in table.head(shown).itertuples():
        final = read_mask(final_mask(tree.filtered, sample.id)) if sample.verdict == "accepted" else None
        image, mask = read_pair(tree.synthetic, sample.batch, sample.id)
        write_image(tiles / f"{sample.seed}.png", tile(
            read_image(tree.backgrounds / "images" / f"{sample.background}.png"), mask, final, image))
        verdicts.append((sample.seed, "accepted" if sample.verdict == "accepted" else f"{sample.verdict}: {sample.reason}"))
    pd.DataFrame(verdicts, columns=["seed", "verdict"]).to_csv(tiles / _VERDICTS, index=False)


def read_verdicts(tiles: Path) -> dict[int, str]:
    """Seed of a picture -> `accepted`, or why not."""
    table = pd.read_csv(tiles / _VERDICTS, keep_default_na=False)
    return dict(zip(table["seed"].astype(int), table["verdict"], strict=True))


def tile(background: Pixels, mask: Pixels, final: Pixels | None, image: Pixels) -> Pixels:
    """Background, mask and painted image side by side.

    Args:
        background, image: `[H, W, 3]` uint8.
        mask: `[H, W]` of 0 and class indices, drawn in the class's colour.
        final: the same after corrosion; what it leaves off is drawn darker. None for the mask as it is.

    Returns:
        `[H, 3W + 2 gaps, 3]` uint8.
    """
    colours = np.array([(0, 0, 0), *_CLASSES], np.uint8)
    drawn = colours[np.where(mask > 0, (mask.astype(int) - 1) % len(_CLASSES) + 1, 0)]
    if final is not None:
        drawn[(mask > 0) & (final == 0)] //= 2
    gap = np.full((len(image), TILE_GAP, 3), 255, np.uint8)
    return np.concatenate([background, gap, drawn, gap, image], axis=1)
