"""What is installed has hashes, and a known vulnerability is never taken for none."""

import json
import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted(ROOT.glob("locks/*.txt"))
LINE = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; [^\\]+)? \\$")


def locked(path: Path) -> dict[str, set[str]]:
    """Package -> releases; each must have a hash."""
    found: dict[str, set[str]] = {}
    for part in re.split(r"\n(?=\S)", path.read_text().strip()):
        first, *rest = part.splitlines()
        match = LINE.match(first)
        assert match, f"{path.name}: {first}"
        assert rest, f"{path.name}: {first}"
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line) for line in rest), f"{path.name}: {first}"
        found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(match[2])
    return found


@pytest.mark.parametrize("name", ["base", "dev", "image", "team"])
def test_locks_hold_every_pin_and_agree(name: str) -> None:
    project, releases = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], locked(ROOT / f"locks/{name}.txt")
    written = [re.match(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", text) for text in project["dependencies"]]
    pins = {re.sub(r"[-_.]+", "-", pin[1]): pin[2] for pin in written if pin}
    assert pins
    assert all(releases[package] == {release} for package, release in pins.items())
    assert not [package for package in releases if re.match(r"torch$|nvidia|cuda|triton", package)]
    everything = locked(ROOT / "locks/dev.txt")
    assert all(values == everything[package] for package, values in releases.items())


def audited(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> Any:
    """The result of `.ci/audit.py` where services say this: JSON, or nothing."""
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, said.get(command[-1], ""), "no connection")

    monkeypatch.setattr(subprocess, "run", run)
    return runpy.run_path(str(ROOT / ".ci/audit.py"))["main"]()


def packages(*given: dict[str, object]) -> str:
    return json.dumps({"dependencies": [{"name": "a", "version": "1", **one} for one in given], "fixes": []})


BAD = {"vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}


def test_a_vulnerability_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(monkeypatch, {"pypi": packages({"vulns": []}, BAD)}) == 1
    assert capsys.readouterr().out == "a 1: PYSEC-1, fixed in 2\n"
    assert audited(monkeypatch, {"pypi": packages({"skip_reason": "unknown"}), "osv": packages(BAD)}) == 1


def test_a_service_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(monkeypatch, {}) == 0
    assert "no advisory service answered" in capsys.readouterr().err
    assert audited(monkeypatch, {"pypi": packages({"vulns": []}, {"skip_reason": "unknown"})}) == 0
    assert "no known vulnerability in 1 packages of 2" in capsys.readouterr().out
