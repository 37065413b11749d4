"""The process that stages are forks of: what a stage prints and returns comes through, and none outlives its command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meddiff.warm import run_warm, warm_stages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forks on Linux alone")

STAGE = """
import os, signal, sys, time
def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(os.getpid(), sys.argv[2:], os.getcwd(), "torch" in sys.modules, "mlflow" in sys.modules, flush=True)
        print("a word of its own", file=sys.stderr)
        exec(sys.argv[2])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""
CLIENT = """
import sys
from meddiff.warm import run_warm
sys.path.insert(0, sys.argv.pop(1))
code = run_warm(("prepare",))
sys.exit("cold" if code is None else code)
"""


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    with warm_stages():
        yield
    assert run_warm(("prepare",)) is None


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A package of meddiff's name whose command runs what it is told: which code runs is up to the client."""
    for name, text in (("__init__", ""), ("__main__", STAGE)):
        path = tmp_path / f"package/meddiff/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "package"


def client(package: Path, work: str, stage: str = "prepare") -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", CLIENT, str(package), stage, work], cwd=package.parent, text=True,
                            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("work", "code"), [("pass", 0), ("sys.exit(2)", 2), ("1 / 0", 1), ("os.kill(os.getpid(), 9)", 137)])
def test_a_stage_is_a_fork_with_the_libraries_loaded(work: str, code: int, other: Path) -> None:
    process = client(other, work)
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    pid, _, rest = out.partition(" ")
    assert int(pid) != process.pid
    assert rest == f"[{work!r}] {other.parent} False True\n"
    assert err.startswith("a word of its own\n")
    assert ("ZeroDivisionError" in err) == (code == 1)


def test_a_stage_ends_by_its_exit_functions_alone(other: Path) -> None:
    work = "import atexit; atexit.register(print, 'at exit'); sys.exit('why')"
    process = client(other, "sys.kept = type('Kept', (), {'__del__': lambda _: print('torn down')})(); " + work)
    out, err = process.communicate(timeout=100)
    assert out.endswith("\nat exit\n")
    assert (process.returncode, err) == (1, "a word of its own\nwhy\n")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_its_command(sent: signal.Signals, other: Path) -> None:
    with client(other, "time.sleep(1000)") as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(sent)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == (-9 if sent == signal.SIGKILL else 130)


def test_whatever_is_no_stage_runs_by_itself(other: Path) -> None:
    process = client(other, "pass", "ui")
    assert process.communicate(timeout=100) == ("", "cold\n")


def test_another_interpreter_runs_by_itself(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["meddiff", "prepare"])
    monkeypatch.setattr(sys, "executable", str(other / "python"))
    assert run_warm(("prepare",)) is None


def test_errors_of_a_real_stage_come_through(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "meddiff", "prepare"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.returncode == 2
    assert done.stderr.startswith("meddiff: ")
    assert done.stderr.count("\n") == 1
