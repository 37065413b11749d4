"""A tiny project that real `dvc repro`s work in, processes that die at a chosen moment, and the files of an undisturbed run."""

import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from meddiff.layout import STAGES, Layout
from meddiff.params import Params
from meddiff.params.file import edit_params, load_params, settings_text
from meddiff.services.tracking import Unrecorded
from tests.infra.platforms import clean_environment, copy_project

DEADLY = Path(__file__).parent / "deadly"
# Great Expectations notes the time, and the report its run.
VARYING = ("reports/quality/", "reports/evaluation/report.html")


def make_tiny_project(root: Path, settings: Params) -> Path:
    """A checkout with tiny settings and DVC, nothing made yet."""
    copy_project(root)
    change(root, **settings.model_dump(mode="json", exclude_unset=True))
    if not (root / ".dvc").is_dir():
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    return root


def run_undisturbed(root: Path) -> dict[str, str]:
    """All stages by their functions, without DVC and MLflow: path -> hash of each output file that is the same in every run."""
    layout, params = Layout(root), load_params(root / "params.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries as they load
        for stage in STAGES:
            import_module(f"meddiff.stages.{stage}").run(layout, params, Unrecorded())
    return output_files(root)


def output_files(root: Path) -> dict[str, str]:
    """Path -> SHA-256 of each output file that doesn't vary; what is hidden is no output."""
    tops = [root / name for name in ("data", "backgrounds", "models", "synthetic", "filtered", "reports")]
    files = {path.relative_to(root).as_posix(): path for top in tops for path in sorted(top.rglob("*")) if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
            if not name.startswith(VARYING) and not any(part.startswith(".") for part in Path(name).parts)}


def half_made(root: Path) -> list[str]:
    """What a swap has left beside its target; MLflow keeps names of folders that were handed to it."""
    return [str(path.relative_to(root)) for pattern in (".*.new", ".*.old") for path in root.rglob(pattern)
            if "mlartifacts" not in path.parts]


def start(root: Path, *words: str, deaths: Sequence[str] = (), **env: str) -> "subprocess.Popen[str]":
    """`python -m WORDS` in a project, in a session of its own, output and errors in `stdout`; what is below it dies as
    `deadly/sitecustomize.py` says."""
    return subprocess.Popen([sys.executable, "-m", *words], cwd=root, env=environment(root, deaths) | env, text=True,
                            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def run(root: Path, *words: str, deaths: Sequence[str] = (), **env: str) -> tuple[int, str]:
    """`start`, and its exit code and output."""
    with start(root, *words, deaths=deaths, **env) as process:
        return (process.communicate()[0], process.returncode)[::-1]


def environment(root: Path, deaths: Sequence[str] = ()) -> dict[str, str]:
    """Of processes in a project; the warm process stays theirs."""
    env = clean_environment(root) | {name: os.environ[name] for name in ("MEDDIFF_WARM",) if name in os.environ}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    if deaths:
        (root / ".work").mkdir(exist_ok=True)
        (root / ".work/seen").touch()
        env |= {"MEDDIFF_TEST_DEATHS": "\n".join(deaths), "MEDDIFF_TEST_SEEN": str(root / ".work/seen")}
    return env | {"PYTHONPATH": f"{DEADLY}{os.pathsep}{root}"}


def seen(root: Path) -> list[str]:
    """The moments that have come so far; the next deaths are counted anew."""
    return (root / ".work/seen").read_text().splitlines()


def change(root: Path, **sections: dict[str, Any]) -> Params:
    """Change settings of a project; all of them."""
    file = root / "params.yaml"
    file.write_text(edit_params(settings_text(file), sections, file))
    return load_params(file)
