"""A project that was evaluated, and its page as the command serves it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from meddiff.cases import image_png, write_mask
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.samples import read_records
from meddiff.outputs.tables import CASE_SCORES
from tests.shards import change
from tests.stages.test_evaluate import fill

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Served:
    """A running `meddiff browse`.

    Attributes:
        entry: the address that it shows, with its key.
        site: the same without path and key.
    """

    layout: Layout
    entry: str

    @property
    def site(self) -> str:
        return self.entry.partition("/?")[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Eight pairs of two batches (three accepted, a copy, a quarantined batch) and seven test cases with two arms and seeds."""
    layout = fill(tmp_path_factory.mktemp("project"))
    (layout.root / "params.yaml").write_text("prepare: {size: 32}\n")
    ids = read_records(layout.synthetic, layout.filtered).samples["id"]
    change(layout.synthetic / "b0000/batch.parquet", ids[0], image=image_png(np.full((32, 32, 3), 99, np.uint8)))
    rows = []
    for case in read_cases(layout.cases("test")):
        for arm, dice in (("real", 0.4), ("synthetic", 0.6)):
            for seed in (0, 1):
                assert case.mask is not None
                write_mask(layout.report / f"predictions/{arm}/{seed}/{case.id}.png", np.roll(case.mask, 3 - seed, 0))
                lesion = bool(case.mask.any())
                rows.append({"case": case.id, "group": case.group, "class": "lesion", "arm": arm, "seed": seed, "iou": 0.5,
                             "dice": dice + 0.1 * seed if lesion else 0.0, "hd95": 1.0, "nsd": 0.5, "lesions": 1, "found": 1,
                             "false_positives": 0, "lesion_area": 0.1, "stratum": "small" if lesion else "empty"})
    table = pd.DataFrame(rows)
    CASE_SCORES.write(layout.report, table.assign(dice_undecided=table["dice"]))
    command = [sys.executable, "-m", "meddiff", "browse", "--port", "0", "--name", "Dr. Test"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    kept = subprocess.PIPE
    with subprocess.Popen(command, cwd=layout.root, env=env, stdout=kept, stderr=kept, text=True) as process:
        assert process.stdout
        words = process.stdout.readline().split()
        assert words[:1] == ["open"], process.stderr and process.stderr.read()
        yield Served(layout, words[1])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr
        assert process.stderr.read() == ""
