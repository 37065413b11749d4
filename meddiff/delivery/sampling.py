"""Samples from a registered generator into a folder, away from any pipeline."""

from collections.abc import Sequence
from pathlib import Path

from meddiff.layout import Layout, free_folder, replacing
from meddiff.params import Params
from meddiff.progress import Report, silent
from meddiff.services.tracking import load_generator

_UNFILTERED = "unfiltered"  # the filter compares with the dataset, which does not travel with the model
_ROWS = 16  # requests a call: memory stays small, the bar moves


def sample_registered(layout: Layout, params: Params, model: str, seeds: Sequence[int], out: Path,
                      guidance_scale: float | None = None, report: Report = silent) -> int:
    """Write `images/ID.png`, `masks/ID.png` and `samples.csv` (id, seed, background, verdict) of new samples, unfiltered.

    Args:
        layout: a project, for the default address of the tracking server.
        params: its settings, for the same.
        model: such as `models:/NAME@champion`.
        seeds: one a sample.
        out: folder that is missing or empty.
        guidance_scale: 1 to 20; None for the model's own.
        report: called after each bundle of samples.

    Returns:
        The number of samples.

    Raises:
        MeddiffError: no such model, a value out of range, or `out` holds files.
    """
    import pandas as pd

    out = free_folder(out, "samples")
    generator = load_generator(layout, params, model)
    tables = []
    with replacing(out) as fresh:
        for kind in ("images", "masks"):
            (fresh / kind).mkdir()
        for start in range(0, len(seeds), _ROWS):
            part = seeds[start:start + _ROWS]
            rows = pd.DataFrame({"seed": part}, dtype="int64")
            if guidance_scale is not None:
                rows["guidance_scale"] = float(guidance_scale)
            made = generator.predict(rows)
            for sample in made.itertuples():
                (fresh / f"images/{sample.id}.png").write_bytes(sample.image)
                (fresh / f"masks/{sample.id}.png").write_bytes(sample.mask)
            tables.append(made[["id", "seed", "background"]].assign(verdict=_UNFILTERED))
            report(start + len(part), len(seeds), {})
        pd.concat(tables).to_csv(fresh / "samples.csv", index=False)
    return len(seeds)
