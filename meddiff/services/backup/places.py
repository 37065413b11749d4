"""What of a project is its state, beside the team's servers."""

from dataclasses import dataclass
from pathlib import Path

from meddiff.layout import Layout
from meddiff.services.versioning import dvc_folders


@dataclass(frozen=True)
class Places:
    """Paths by short names: databases of SQLite, folders, and single files.

    What can be made again isn't there: outputs, which DVC's cache has, work trees, checkpoints, logs.
    """

    databases: dict[str, Path]
    folders: dict[str, Path]
    files: dict[str, Path]


def places_of(layout: Layout, releases: Path | None) -> Places:
    """Those that are there.

    Args:
        releases: a folder of releases; None for none.
    """
    root, work = layout.root.resolve(), layout.work.resolve()
    databases = [*work.glob("*.db"), *work.glob("platform/prefect/*.db")]
    folders = {"artifacts": work / "mlartifacts", "results": work / "results", **dvc_folders(root)}
    if releases:
        folders["releases"] = releases.resolve()
    files = [layout.params, root / "dvc.lock", root / ".dvc/config", root / ".dvc/config.local", work / "team/settings.env"]
    return Places({file.stem: file for file in databases}, {name: folder for name, folder in folders.items() if folder.is_dir()},
                  {file.name: file for file in files if file.is_file()})
