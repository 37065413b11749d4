"""What of a project is its state, beside the team's servers."""

import configparser
from dataclasses import dataclass
from pathlib import Path

from meddiff.layout import Layout


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
    folders = {"artifacts": work / "mlartifacts", "results": work / "results", **_dvc_folders(root)}
    if releases:
        folders["releases"] = releases.resolve()
    files = [layout.params, root / "dvc.lock", root / ".dvc/config", root / ".dvc/config.local", work / "team/settings.env"]
    return Places({file.stem: file for file in databases}, {name: folder for name, folder in folders.items() if folder.is_dir()},
                  {file.name: file for file in files if file.is_file()})


def _dvc_folders(root: Path) -> dict[str, Path]:
    """DVC's cache, and its remotes that are folders; a relative address is meant from `.dvc`."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    places = {"cache": parser.get("cache", "dir", fallback="cache")}
    for name in parser.sections():
        if (words := name.strip("'").split('"'))[0] == "remote " and "://" not in (url := parser.get(name, "url", fallback="://")):
            places[f"remote-{words[1]}"] = url
    return {name: (root / ".dvc" / place).resolve() for name, place in places.items()}
