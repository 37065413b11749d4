"""Contact sheet of a project's synthetic pairs: background, mask, painted image, nearest training lesion, drawn by chance.

    python benchmarks/sheet.py PROJECT OUT.png [--n 12] [--verdict accepted]
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from meddiff.cases import read_image
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.samples import read_pair, read_samples


def main() -> None:
    """Two blocks of four columns; no sample is chosen by hand: the ids are a seeded draw of those with the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=12, help="an even number")
    parser.add_argument("--verdict", default="accepted")
    options = parser.parse_args()
    layout = Layout(options.project)
    decisions = pd.read_parquet(layout.filtered / "decisions.parquet")
    samples = read_samples(layout.synthetic, "id", "background").set_index("id")
    chosen = decisions[decisions["verdict"] == options.verdict].sort_values("id").sample(options.n, random_state=0)
    real = {case.id: case for case in read_cases(layout.cases("train"))}
    rows = []
    for row in chosen.itertuples():
        image, mask = read_pair(layout.synthetic, row.batch, row.id)
        ground = read_image(layout.backgrounds / "images" / f"{samples.loc[row.id, 'background']}.png")
        nearest = real[row.nearest].image.copy()
        edge = (real[row.nearest].mask > 0) & ~ndimage.binary_erosion(real[row.nearest].mask > 0)
        nearest[edge] = (0, 255, 0)
        white = np.repeat((mask > 0).astype(np.uint8)[:, :, None] * 255, 3, axis=2)
        rows.append(np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0))) for tile in (ground, white, image, nearest)], axis=1))
    blocks = [np.concatenate(rows[start::2]) for start in (0, 1)]
    apart = np.full((len(blocks[0]), 8, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([blocks[0], apart, blocks[1]], axis=1)).save(options.out)


if __name__ == "__main__":
    main()
