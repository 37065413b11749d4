"""Segmenters in a folder, and whether they learned from a patient who was withdrawn: what the files around them tell."""

from pathlib import Path

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.sources import refuse_withdrawn_sources
from meddiff.outputs.withdrawals import read_withdrawals
from meddiff.services.tracking import refuse_withdrawn_files
from meddiff.services.versioning import lock, locked

_DATA = "data/train"


def refuse_withdrawn_segmenters(folder: Path, uri: str) -> None:
    """That segmenters haven't learned from a withdrawn patient, where they lie in a project or are files of a logged model.

    Elsewhere nothing is known of them.

    Args:
        folder: with segmenters in it or below.
        uri: of MLflow.

    Raises:
        MeddiffError: one is or may be: the project's data holds one, or its segmenters are of other data than it has now.
    """
    folder = folder.resolve()
    refuse_withdrawn_files(folder, uri)
    layout = next((Layout(place) for place in folder.parents if (place / "params.yaml").is_file()), None)
    if layout is None or not folder.is_relative_to(layout.segmenters) or not read_withdrawals(layout):
        return
    refuse_withdrawn_sources(layout)
    learned = {each["path"]: each.get("md5") for each in lock(layout.root).get("segment", {}).get("deps", ())}
    if learned and learned.get(_DATA) != locked(layout.root).get("prepare", {}).get(_DATA):
        raise MeddiffError(folder, f"the segmenters must be of the present {_DATA}, since a patient was withdrawn",
                           "Run `dvc repro`: it trains new ones without that patient")
