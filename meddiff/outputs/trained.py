"""The trained segmenters of all arms and seeds."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from meddiff.outputs.tables import VALIDATION_CASES


def gather_segmenters(trained: Mapping[tuple[str, int], Path], folder: Path) -> None:
    """Copy the segmenters of each arm and seed into `ARM/SEED/` of a folder, and put their `validation_cases.csv` together.

    Args:
        trained: arm and seed -> what training left; an arm may share that of another.
    """
    for (arm, seed), place in trained.items():
        shutil.copytree(place, folder / arm / str(seed), ignore=shutil.ignore_patterns("*.csv"))
    scores = [VALIDATION_CASES.read(place).assign(arm=arm, seed=seed) for (arm, seed), place in trained.items()]
    VALIDATION_CASES.write(folder, pd.concat(scores, ignore_index=True))
