"""The whole chain, run by DVC over one loaded process."""

from collections.abc import Sequence
from pathlib import Path


def run_repro(root: Path, words: Sequence[str] = ()) -> int:
    """Run `dvc repro` with these options in a project, its stages in one process that has the heavy libraries loaded; its exit
    code."""
    import os
    import signal
    import subprocess
    import sys
    from uuid import uuid4

    from meddiff.environment import interpreter_first
    from meddiff.warm import warm_stages

    os.environ.setdefault("MEDDIFF_EXECUTION", f"repro-{uuid4().hex}")  # DVC's process isn't above those of the stages
    with warm_stages():
        command = [sys.executable, "-m", "dvc", "repro", *words]
        process = subprocess.Popen(command, cwd=root, env={**os.environ, **interpreter_first()})
        signal.signal(signal.SIGINT, lambda number, frame: None)  # DVC has it too, and ends the stage
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        return process.wait()
