"""A Prefect worker that runs flows in the folder it is started in, and ends in order: its flow runs are told first, and report.

Alone, a stopped worker takes its flow runs with it, and they stay `Running` in Prefect. What a kill leaves is ended by others:
the flow run by Prefect, since its signs of life stop, its runs in MLflow by the next worker that starts.
"""

import os
import signal
import subprocess
import sys

import psutil

PATIENCE = 60.0  # seconds for flow runs to end their stage; a stage itself gets 20
SIGN_SECONDS = 30  # between signs of life of a flow run, the least that Prefect takes
# Prefect's client waits for four minutes, ever longer, for a server that is away or whose database is.
PATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "7", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}


def main(arguments: list[str]) -> int:
    """Run `prefect worker start` with these arguments until SIGTERM or SIGINT; the worker's exit code, or 0 after a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):  # set even if ignored so far, because the worker would inherit that
        signal.signal(number, signal.default_int_handler)
    env = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(SIGN_SECONDS), **PATIENT, **os.environ, "MEDDIFF_PROJECT": os.getcwd()}
    try:
        subprocess.run([sys.executable, "-m", "flows.upkeep"], env=env, check=False)
    except KeyboardInterrupt:
        return 0
    worker = subprocess.Popen([sys.executable, "-m", "prefect", "worker", "start", *arguments], env=env, start_new_session=True)
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
