"""Work trees of their own for runs, and `dvc` commands in them."""

import configparser
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from meddiff.environment import greatest_memory, interpreter_first
from meddiff.errors import MeddiffError, ServiceError
from meddiff.params.file import edit_params, load_params, settings_text
from meddiff.services.versioning.cache import cache_folder
from meddiff.services.versioning.lock import LOCK, run_git
from meddiff.services.versioning.settling import dvc_command, settle_dvc

ERROR_MARK = "meddiff: "  # how `python -m meddiff` begins the line of a MeddiffError
_LATER = re.compile(rf"exited with {os.EX_TEMPFAIL}$")  # DVC, of a stage that a service has let down
_ABSENT = re.compile(r"failed to reproduce '.*': \[Errno 2\] No such file or directory: '(.+)'")  # DVC, before a stage runs
_MISSING = re.compile(r"(Parameters '.+' are missing from '.+')")  # likewise: settings that dvc.yaml names
_NOT_COPIED = {".git", ".venv", ".work", "data", "models", "backgrounds", "synthetic", "filtered", "reports"}
STOP_SECONDS = 20.0
# Waits for a line, or for the end of the pipe that its parent held: then it ends the process group that it guards.
_GUARD = 'read -r _ || { kill -TERM "-$1"; sleep 5; kill -KILL "-$1"; }'


class StageCrash(MeddiffError):  # noqa: N818 - it is a MeddiffError by name already
    """A stage that ended without a word of its own: killed, out of memory, a full disk. Running it again may help."""


@dataclass(frozen=True)
class Reproduced:
    """What `dvc repro` did with each stage it looked at.

    Attributes:
        ran: stages whose command ran.
        restored: stages whose outputs came from DVC's run cache.
        unchanged: stages whose outputs were there already.
        peak_memory_mb: greatest resident memory of the one of its processes that had most.
    """

    ran: tuple[str, ...]
    restored: tuple[str, ...]
    unchanged: tuple[str, ...]
    peak_memory_mb: float = 0.0


def diff_params(path: Path, overrides: Mapping[str, Any]) -> str:
    """A change of settings as a unified diff of `params.yaml`, to show or to apply with `patch`.

    Args:
        path: the settings file.
        overrides: section -> name -> new value.

    Raises:
        MeddiffError: a name or value breaks a rule of `params.parse_params`.
    """
    old = settings_text(path)
    new = edit_params(old, overrides, path)
    return "".join(unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path.name}", f"b/{path.name}"))


def work_tree(source: Path, dest: Path, overrides: Mapping[str, Any]) -> Path:
    """Make, or bring up to date, a folder in which a run has the pipeline to itself, over the project's DVC cache.

    Copied are the project's files as they are now, changes not committed included, but neither its data outputs nor what
    git ignores. Outputs that `dvc.lock` names are put there from the cache, so that DVC reruns only what `overrides` touch;
    a tree that is already there keeps its own outputs and `dvc.lock`.

    Args:
        source: the project.
        dest: the folder to make.
        overrides: section -> name -> value, written into its `params.yaml`.

    Returns:
        `dest`.

    Raises:
        MeddiffError: `source` is no DVC project, or `overrides` break a rule.
    """
    if not (source / ".dvc").is_dir():
        raise MeddiffError(source, "the project must be under DVC", "Run `dvc init`, with `--no-scm` where there is no git")
    source, dest = source.resolve(), dest.resolve()
    params = load_params(source / "params.yaml")
    raw = params.prepare.path
    merged = {name: dict(values) for name, values in overrides.items()}
    demo = merged.get("prepare", {}).get("dataset", params.prepare.dataset) == "demo"
    if not demo:  # a relative folder is meant from the project, not from the tree
        chosen = merged.get("prepare", {}).get("path", raw)
        merged.setdefault("prepare", {})["path"] = str((source / chosen).resolve())
    text = edit_params(settings_text(source / "params.yaml"), merged, source / "params.yaml")
    fresh = not (dest / ".dvc").is_dir()
    for name in _project_files(source, None if demo else (source / raw).resolve()):
        if fresh or name != LOCK:
            (dest / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, dest / name)
    (dest / "params.yaml").write_text(text, encoding="utf-8")
    _share_cache(source, dest)
    if fresh and (dest / LOCK).is_file():
        _dvc(dest, {}, print, "checkout", "--allow-missing", "--force", "--quiet")
    return dest


def _project_files(source: Path, raw: Path | None) -> list[str]:
    listed = run_git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = [name for name in (listed or "").split("\0") if name]
    if "dvc.yaml" not in names:  # no git here, or a git that ignores this folder
        names = [str(path.relative_to(source)) for top in source.iterdir() if top.name not in _NOT_COPIED
                 for path in ([top] if top.is_file() else top.rglob("*")) if "__pycache__" not in path.parts]
    private = (".dvc/cache/", ".dvc/tmp/", ".dvc/config.local")
    names = [name for name in names if (source / name).is_file() and not name.startswith(private)]
    if raw:  # images that the user put into the project are read where they are
        names = [name for name in names if not (source / name).is_relative_to(raw)]
    return names + [LOCK] * (LOCK not in names and (source / LOCK).is_file())


def _share_cache(source: Path, dest: Path) -> None:
    config = configparser.ConfigParser()
    # Links rather than copies: many trees stand over one cache, and every stage replaces its outputs whole.
    config.read_dict({"core": {"no_scm": "true"}, "cache": {"dir": str(cache_folder(source)), "type": "reflink,hardlink,copy"}})
    (dest / ".dvc").mkdir(parents=True, exist_ok=True)
    with (dest / ".dvc/config.local").open("w") as stream:
        config.write(stream)


def reproduce(root: Path, stage: str, env: Mapping[str, str], single: bool, show: Callable[[str], None] = print) -> Reproduced:
    """Run `dvc repro STAGE`.

    Args:
        root: project or work tree.
        stage: name of the stage.
        env: environment variables for the stages, beside those of this process.
        single: this stage only, not those it builds on.
        show: called with each line of output as it comes.

    Raises:
        MeddiffError: a stage found something wrong; its own line.
        StageCrash: a stage failed without such a line; the last lines of output.
    """
    for line in settle_dvc(root):
        show(line)
    lines, memory = _dvc(root, env, show, "repro", stage, *(["--single-item"] if single else []))

    def named(pattern: str) -> tuple[str, ...]:
        return tuple(match[1] for line in lines if (match := re.match(pattern, line)))

    return Reproduced(named("Running stage '(.+)':"), named("Stage '(.+)' is cached"), named("Stage '(.+)' didn't change"),
                      memory)


def _dvc(root: Path, env: Mapping[str, str], show: Callable[[str], None], *words: str) -> tuple[list[str], float]:
    """Run DVC in a process of its own; at an interrupt the stage ends as by Ctrl-C, and is waited for.

    Returns:
        Its lines, and the greatest memory of it and its stages [MB].
    """
    here = {**interpreter_first(), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(dvc_command(*words), cwd=root, env={**os.environ, **here, **env}, text=True,
                               errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    last: deque[str] = deque(maxlen=2000)
    with process, _guarded(process):
        try:
            for line in process.stdout or ():
                last.append(line.rstrip("\n"))
                show(last[-1])
            _, status, usage = os.wait4(process.pid, 0)  # rather than process.wait: the usage is that of this command alone
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise _failure(words, list(last))
    return list(last), greatest_memory(usage)


@contextmanager
def _guarded(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Let the group of a process end when this process dies, even by SIGKILL: nobody would wait for what it makes."""
    guard = subprocess.Popen(["sh", "-c", _GUARD, "guard", str(process.pid)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        guard.communicate(b"done\n")


def _stop(process: "subprocess.Popen[str]") -> None:
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as in a script's background job: what it starts does so, too
    for sent, patience in ((signal.SIGTERM if ignored else signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sent)
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _failure(words: tuple[str, ...], lines: list[str]) -> MeddiffError:
    own = next((line.removeprefix(ERROR_MARK) for line in reversed(lines) if line.startswith(ERROR_MARK)), "")
    where, _, rest = own.partition(": ")
    rule, _, remedy = rest.rpartition(". ")
    if rule:
        kind = ServiceError if any(_LATER.search(line) for line in lines) else MeddiffError
        return kind(where, rule, remedy)
    if absent := next((match[1] for line in lines if (match := _ABSENT.search(line))), ""):
        return MeddiffError(absent, "a path that a stage reads must be there", "Correct `prepare.path`, or put the data there")
    if missing := next((match[1] for line in lines if (match := _MISSING.search(line))), ""):
        return MeddiffError("params.yaml", missing, "Write them there; `meddiff params` shows their defaults")
    tail = " | ".join(line.strip() for line in lines[-8:] if line.strip())
    return StageCrash(f"dvc {' '.join(words)}", f"the command must succeed ({tail})", "Mend what these lines name, and try again")
