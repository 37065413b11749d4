"""The project that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

from meddiff.errors import MeddiffError
from meddiff.layout import Layout

if TYPE_CHECKING:
    from meddiff.params import Params


def project(start: Path | None = None) -> tuple[Layout, "Params"]:
    """The project at or above a folder, the current one if none is given, and its settings."""
    from meddiff.params.file import load_params

    here = (start or Path.cwd()).resolve()
    root = next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)
    return Layout(root), load_params(root / "params.yaml")


def any_project() -> tuple[Layout, "Params"]:
    """The project here, else the checkout that this package runs from, for commands that work from any folder."""
    from meddiff.params import Params
    from meddiff.params.file import load_params

    try:
        return project()
    except MeddiffError:
        checkout = Path(__file__).resolve().parents[2]
        return Layout(checkout), load_params(checkout / "params.yaml") if (checkout / "params.yaml").is_file() else Params()
