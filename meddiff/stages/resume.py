"""Where a stage keeps unfinished work, so that the same command goes on from there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddiff.finished import code, key
from meddiff.layout import Layout
from meddiff.params import Section


def work_folder(layout: Layout, stage: str, *parts: Section | Path | Mapping[str, Any] | Sequence[Any] | str | float) -> Path:
    """Folder in `.work/` for the work of a stage with exactly these inputs (see `finished.key`) and its present code."""
    return layout.work / stage / key(code(f"stages.{stage}"), *parts)


def checkpoint_file(layout: Layout, stage: str, *parts: Section | Path | Mapping[str, Any] | Sequence[Any] | str | float) -> Path:
    """Checkpoint of a training, named likewise."""
    return work_folder(layout, stage, *parts).with_suffix(".safetensors")
