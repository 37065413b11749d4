"""A project with accepted pairs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from meddiff.layout import Layout
from tests.shards import put_batch, put_masks


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Six samples in two batches, of which four were accepted."""
    layout = Layout(tmp_path / "project")
    rng = np.random.default_rng(0)
    decisions, masks = [], {}
    for batch in ("b0000", "b0001"):
        rows, images = [], []
        for i in range(3):
            id = f"s{batch[-1]}{i}"
            images.append(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            rows.append({"id": id, "batch": batch, "seed": i, "background": "n1", "area": 0.2, "guidance_scale": 1.5, "steps": 20,
                         "generator": "abc"})
            accepted = i > 0
            decisions.append({"id": id, "batch": batch, "similarity": 0.5, "nearest": "c1", "agreement": 0.9, "contrast": 9.0,
                              "area": 0.2, "verdict": "accepted" if accepted else "rejected",
                              "reason": "" if accepted else "copy"})
            if accepted:
                masks[id] = rng.integers(0, 2, (32, 32), dtype=np.uint8)
        put_batch(layout.synthetic / batch, rows, [(image, np.ones((32, 32), np.uint8)) for image in images])
    put_masks(layout, masks)
    pd.DataFrame(decisions).to_parquet(layout.filtered / "decisions.parquet")
    (layout.filtered / "batches.json").write_text(json.dumps({b: {"passed": True, "reasons": []} for b in ("b0000", "b0001")}))
    return layout
