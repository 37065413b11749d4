"""The project that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

from meddiff.errors import MeddiffError
from meddiff.layout import Layout

if TYPE_CHECKING:
    from meddiff.params import Params


def project_root(start: Path | None = None) -> Path:
    """The folder with a `params.yaml` at or above a folder, the current one if none is given; that itself where there is none."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def project(start: Path | None = None) -> tuple[Layout, "Params"]:
    """The project at or above a folder, the current one if none is given, and its settings."""
    from meddiff.params.file import load_params

    layout = Layout(project_root(start))
    return layout, load_params(layout.params)


def served_project() -> tuple[Layout, "Params"]:
    """The project as by `project`, for commands on what its services know.

    Raises:
        MeddiffError: its platform is a team's, and this shell would look into local files in the place of the team's servers.
    """
    from meddiff.services.backup import TEAM_REMEDY, missing_address

    layout, params = project()
    if missing := missing_address(layout, params):
        raise MeddiffError(missing, "it must be set, since the platform of this project is a team's", TEAM_REMEDY)
    return layout, params


def any_project() -> tuple[Layout, "Params"]:
    """The project here, else the checkout that this package runs from, for commands that work from any folder."""
    from meddiff.params import Params
    from meddiff.params.file import load_params

    try:
        return project()
    except MeddiffError:
        checkout = Path(__file__).resolve().parents[2]
        return Layout(checkout), load_params(checkout / "params.yaml") if (checkout / "params.yaml").is_file() else Params()
