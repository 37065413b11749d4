"""Whether PostgreSQL can run here, for tests that start one."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meddiff.errors import MeddiffError
from meddiff.services.backup import find_program


def user_of_postgres() -> dict[str, Any]:
    """What `subprocess` needs to run its programs here, which refuse to run as root; skips, with the reason, where they can't."""
    try:
        program = find_program("postgres")
    except MeddiffError as e:
        pytest.skip(str(e))
    if os.geteuid():
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    for user in (users[name] for name in ("postgres", "nobody") if name in users):
        whose: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        try:
            subprocess.run([program, "--version"], capture_output=True, check=True, cwd="/", **whose)
        except (OSError, subprocess.CalledProcessError):
            continue
        return whose
    pytest.skip("PostgreSQL refuses to run as root, and neither `postgres` nor `nobody` can reach its programs")


def control(folder: Path, *words: str) -> None:
    """`pg_ctl WORDS` on the cluster of the fixture `postgres`, and its end waited for; `restart` starts it as it was started."""
    command = [find_program("pg_ctl"), "-D", str(folder / "data"), "-w", "-t", "60", "-l", str(folder / "data/again.log"), *words]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, check=False,
                          **user_of_postgres())
    assert not done.returncode, (folder / "data/again.log").read_text()
