"""A Prefect worker that ends in order: its flow runs are told first, and report it, before the worker goes.

Alone, a stopped worker takes its flow runs with it, and they stay `Running` in Prefect for ever.
"""

import signal
import subprocess
import sys

import psutil

PATIENCE = 60.0  # seconds for flow runs to end their stage; a stage itself gets 20


def main(arguments: list[str]) -> int:
    """Run `prefect worker start` with these arguments until SIGTERM or SIGINT; the worker's exit code, or 0 after a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):  # set even if ignored so far, because the worker would inherit that
        signal.signal(number, signal.default_int_handler)
    worker = subprocess.Popen([sys.executable, "-m", "prefect", "worker", "start", *arguments], start_new_session=True)
    try:
        return worker.wait()
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        runs = psutil.Process(worker.pid).children() if worker.poll() is None else []
        for run in runs:
            run.terminate()
        psutil.wait_procs(runs, timeout=PATIENCE)
        worker.terminate()
        worker.wait()
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
