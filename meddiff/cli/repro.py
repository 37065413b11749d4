"""The whole chain, run by DVC over one loaded process."""

from collections.abc import Sequence
from pathlib import Path


def run_repro(root: Path, words: Sequence[str] = ()) -> int:
    """Run `dvc repro` with these options in a project, its stages in one process that has the heavy libraries loaded; its exit
    code.

    What an earlier one left that was killed is put right before. Where a stage is killed, its outputs of before are brought back.
    """
    import os
    import signal
    import subprocess
    import sys
    from uuid import uuid4

    from meddiff.environment import interpreter_first
    from meddiff.errors import MeddiffError
    from meddiff.services.versioning import dvc_command, restore_all, settle_dvc
    from meddiff.warm import warm_stages

    for line in settle_dvc(root):
        print(line, file=sys.stderr)
    os.environ.setdefault("MEDDIFF_EXECUTION", f"repro-{uuid4().hex}")  # DVC's process isn't above those of the stages
    with warm_stages():
        process = subprocess.Popen(dvc_command("repro", *words), cwd=root, env={**os.environ, **interpreter_first()})
        signal.signal(signal.SIGINT, lambda number, frame: None)  # DVC has it too, and ends the stage
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        code = process.wait()
    if code:
        try:
            restore_all(root)
        except MeddiffError as e:
            print(f"earlier outputs could not be brought back: {e}", file=sys.stderr)
    return code if code >= 0 else 128 - code
