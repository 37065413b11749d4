"""Entry point of `meddiff` and `python -m meddiff`: silence first, then the commands; errors of users end as one line."""

import io
import os
import signal
import sys

from meddiff.environment import quiet
from meddiff.errors import MeddiffError, ServiceError, full_disk
from meddiff.layout import STAGES
from meddiff.warm import run_warm


def main() -> None:
    """Run a command. Exit code 2 for a `MeddiffError` or wrong usage, 75 where a service doesn't answer and the same command may
    succeed later, 130 after an interrupt, 1 where a gate refuses."""
    quiet()
    if (code := run_warm(STAGES)) is not None:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that isn't UTF-8 must not end a stage
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by Ctrl-C: runs are closed, outputs brought back
    from meddiff.cli.app import app

    try:
        app()
    except SystemExit as e:
        if e.code == 130:
            print("meddiff: interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise
    except Exception as e:
        told = e if isinstance(e, MeddiffError) else full_disk(e)
        if told is None:
            raise
        print(f"meddiff: {' '.join(str(told).split())}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(told, ServiceError) else 2)


if __name__ == "__main__":
    main()
