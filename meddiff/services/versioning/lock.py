"""What `dvc.lock` says of the stages, what DVC will write into it, and the state of git."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from meddiff.errors import MeddiffError
from meddiff.layout import STAGES

LOCK = "dvc.lock"


@contextmanager
def dvc_repo(root: Path) -> Iterator[Any]:
    """DVC's object for a project, open during the block.

    Raises:
        MeddiffError: DVC can't work in it, as where there is no git, or `dvc.yaml` is broken.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with closing(Repo(str(root))) as repo:
            yield repo
    except SCMError as e:
        raise MeddiffError(root, "DVC works in a git repository, and there is none here",
                           "Run `git init`, or `dvc config core.no_scm true` to do without") from e
    except DvcException as e:
        raise MeddiffError(root, f"DVC must be able to work in the project ({e})", "Mend what it names") from e


@contextmanager
def _stage(root: Path, stage: str) -> Iterator[Any]:
    """DVC's object for a stage, or None where the project or the stage isn't DVC's (a stage called from Python)."""
    if not (root / "dvc.yaml").is_file() or not (root / ".dvc").is_dir():
        yield None
        return
    with dvc_repo(root) as repo:
        yield next((each for each in repo.index.stages if getattr(each, "name", None) == stage), None)


def lock_entry(root: Path, stage: str) -> dict[str, Any]:
    """What DVC will write into `dvc.lock` for a stage that has just done its work, computed by DVC's own code.

    Empty where the stage isn't one of DVC's.
    """
    with _stage(root, stage) as known:
        if known is None:
            return {}
        from dvc.stage.serialize import to_single_stage_lockfile

        for dep in known.deps:
            dep.save()
        for out in known.outs:
            out.update_legacy_hash_name(force=True)
            out.meta, out.hash_info = out._get_hash_meta()
        entry: dict[str, Any] = to_single_stage_lockfile(known)
        return entry


def entry_hashes(entry: Mapping[str, Any]) -> dict[str, str]:
    """Path -> md5 of the outputs of one entry of `dvc.lock`."""
    return {out["path"]: out["md5"] for out in entry.get("outs", [])}


def out_hashes(root: Path, stage: str) -> dict[str, str]:
    """Path -> md5 of a stage's outputs as they lie in the folder now, in DVC's way."""
    return entry_hashes(lock_entry(root, stage))


def lock(root: Path) -> dict[str, dict[str, Any]]:
    """Stage -> its entry in `dvc.lock`; empty before the first run."""
    path = root / LOCK
    return dict((yaml.safe_load(path.read_text()) or {}).get("stages") or {}) if path.is_file() else {}


def locked(root: Path) -> dict[str, dict[str, str]]:
    """Stage -> path -> md5 of its outputs, from `dvc.lock`."""
    return {stage: entry_hashes(entry) for stage, entry in lock(root).items()}


def lock_text(root: Path, stage: str, entry: Mapping[str, Any]) -> str:
    """`dvc.lock` as it will be once DVC has noted `entry` for `stage`."""
    plain = json.loads(json.dumps(entry))  # DVC's ordered dictionaries as plain ones
    return yaml.safe_dump({"schema": "2.0", "stages": lock(root) | ({stage: plain} if plain else {})}, sort_keys=False)


def upstream(root: Path, stage: str) -> tuple[str, ...]:
    """All stages that a stage builds on, directly or not, in the order of the pipeline."""
    with _stage(root, stage) as known:
        if known is None:
            return ()
        names, graph, todo = set(), known.repo.index.graph, [known]
        while todo:  # edges lead from a stage to those it builds on
            above = list(graph.successors(todo.pop()))
            todo += above
            names |= {each.name for each in above if getattr(each, "name", None)}
        return tuple(name for name in STAGES if name in names)


def restore_outs(root: Path, stage: str) -> None:
    """Bring back the outputs that DVC removed before a stage that then failed, as `dvc.lock` has them."""
    with _stage(root, stage) as known:
        for out in known.outs if known else ():
            if out.use_cache and out.hash_info and not out.exists:
                out.checkout(force=True, allow_missing=True)


def restore_all(root: Path) -> None:
    """Bring back all outputs of each stage of which one is missing, as one leaves it that was killed; not those of a stage that
    another DVC runs now."""
    from dvc.lock import LockError

    with dvc_repo(root) as repo, suppress(LockError), repo.lock:
        for stage in repo.index.stages:
            if any(out.hash_info and not out.exists for out in stage.outs):
                with suppress(LockError):
                    stage.checkout(force=True, allow_missing=True)


def git_commit(root: Path) -> str:
    """The commit that is checked out, `-dirty` behind it when files differ (`dvc.lock` aside, which each run changes).

    Empty without git.
    """
    commit = run_git(root, "rev-parse", "HEAD")
    changed = run_git(root, "status", "--porcelain", "--", ".", f":(exclude){LOCK}") if commit else None
    return f"{commit.strip()}-dirty" if commit and changed else (commit or "").strip()


def git_user(root: Path) -> str:
    """Who works here, as git knows; empty where it doesn't."""
    return (run_git(root, "config", "user.name") or "").strip()


def run_git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout if done.returncode == 0 else None
