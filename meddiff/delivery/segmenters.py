"""A trained segmenter in the formats of other programs."""

import json
from collections.abc import Callable
from pathlib import Path

from meddiff.delivery.bundle import write_bundle
from meddiff.delivery.onnx_model import write_onnx
from meddiff.delivery.trained import Trained, choose_segmenter
from meddiff.delivery.withdrawn import refuse_withdrawn_segmenters
from meddiff.layout import Layout, free_folder, replacing
from meddiff.pages import render


def write_weights(trained: Trained, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`: what `Segmenter.save` writes, with `Trained.facts`."""
    trained.segmenter.save(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | trained.facts, indent=2) + "\n")


WRITERS: dict[str, Callable[[Trained, Path], None]] = {"onnx": write_onnx, "bundle": write_bundle, "safetensors": write_weights}


def export_segmenter(layout: Layout, out: Path, kind: str, arm: str | None = None, seed: int | None = None) -> Trained:
    """Write a segmenter with a README that says how to use it.

    Args:
        out: folder that is missing or empty.
        kind: of `WRITERS`.
        arm, seed: see `choose_segmenter`.

    Raises:
        MeddiffError: `out` holds files, nothing is trained, there is no such arm or seed, a package is missing, or a
            withdrawn patient is in the data.
    """
    out = free_folder(out, "segmenter")
    refuse_withdrawn_segmenters(layout.segmenters, "")
    trained = choose_segmenter(layout, arm, seed)
    with replacing(out) as fresh:
        WRITERS[kind](trained, fresh)
        readme = fresh / ("docs/README.md" if kind == "bundle" else "README.md")
        readme.parent.mkdir(exist_ok=True)
        readme.write_text(render("delivery/segmenter.md.j2", kind=kind, trained=trained, facts=trained.facts,
                                 architecture=trained.segmenter.architecture), encoding="utf-8")
    return trained
