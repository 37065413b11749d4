"""One process that has the heavy libraries loaded, and a fork of it for each stage: nine stages pay for their imports once.

`with warm_stages()` starts the process. Below it each `python -m meddiff STAGE` hands its arguments, environment and streams over
and waits; the process imports the stage, so that the next finds its libraries there, and forks. Only the standard library is
imported here, and meddiff's own modules are imported anew in each fork: code that changes counts at the next stage.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

_ADDRESS = "MEDDIFF_WARM"  # socket of the process
_PACKAGE = __name__.partition(".")[0]
# What stages import while they run.
_ALWAYS = ("mlflow", "mlflow.data", "mlflow.store.tracking.sqlalchemy_store", "dvc.repo", "dvc.scm")
_WITH_TORCH = ("torch._dynamo",)     # which its first optimizer imports


@contextmanager
def warm_stages() -> Iterator[None]:
    """Let the stages that processes start in this block share one loaded interpreter; without effect where there is no Linux:
    elsewhere a fork of a process with these libraries isn't safe."""
    if sys.platform != "linux" or _ADDRESS in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="meddiff-") as folder:
        address = str(Path(folder, "warm"))
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({address!r})"]
        # A group of its own: an interrupt reaches it through the stages alone. It ends with its standard input.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as server:
            try:
                if server.stdout and server.stdout.readline():
                    os.environ[_ADDRESS] = address
                yield
            finally:
                os.environ.pop(_ADDRESS, None)


def run_warm(stages: tuple[str, ...]) -> int | None:
    """Let the process run this command line, if it is that of a stage. Returns its exit code; None: nothing has been run.

    Args:
        stages: their names.
    """
    address = os.environ.get(_ADDRESS)
    if address is None or not set(sys.argv[1:2]) & set(stages):
        return None
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as answers:
        try:
            connection.connect(address)
            asked = {"argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "env": dict(os.environ), "python": sys.executable}
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(asked).encode() + b"\n")
            fork = int(answers.readline() or 0)
            for number in (signal.SIGINT, signal.SIGTERM) if fork else ():
                signal.signal(number, lambda number, _frame: os.kill(fork, number))
            answer = answers.readline()
        except OSError:  # no such process any more
            return None
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        return int(answer or 128 + signal.SIGKILL) if fork else None


def serve(address: str) -> None:
    """Fork a stage for each connection, until standard input ends. This process and its forks end without the tear-down of a
    gigabyte of libraries, which the one who waits for them would wait for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_code = [1]  # of an error that nobody foresaw
    atexit.register(_end, exit_code)  # before the libraries' own, and so after them, and after the threads
    running = dict[int, tuple[int, socket.socket]]()  # by the descriptor of a fork: its id and its client
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            ready = select.select([listener.fileno(), 0, *running], [], [])[0]
            for ended in running.keys() & set(ready):
                fork, client = running.pop(ended)
                os.close(ended)
                code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
                with client, suppress(OSError):
                    client.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
            if 0 in ready:
                os._exit(0)
            if listener.fileno() in ready:
                client, _ = listener.accept()
                _, streams, _, _ = socket.recv_fds(client, 1, 3)
                with client.makefile() as lines:
                    asked = json.loads(lines.readline() or "{}")
                if asked.get("python") == sys.executable:
                    _import(asked)
                    if not (fork := os.fork()):
                        listener.close()
                        _run(client, streams, asked, exit_code)
                    running[os.pidfd_open(fork)] = fork, client
                else:
                    client.close()
                for stream in streams:
                    os.close(stream)


def _import(asked: dict[str, Any]) -> None:
    """Load the libraries of a stage; what fails here fails again in the fork, which can say so."""
    with suppress(Exception):
        for name in (*_ALWAYS, f"{_PACKAGE}.stages.{asked['argv'][1]}"):
            import_module(name)
        for name in _WITH_TORCH if "torch" in sys.modules else ():
            import_module(name)


def _end(exit_code: list[int]) -> None:
    """End this process at once with the code in the list."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code[0])


def _run(client: socket.socket, streams: list[int], asked: dict[str, Any], exit_code: list[int]) -> None:
    """Become the stage's process; ends as its command does, by SystemExit, whose code goes into the list for `_end`."""
    os.setpgid(0, 0)  # so that an interrupt of the terminal comes once, from the client
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # The old objects remember whether their files could be sought.
    sys.stdin, sys.stdout, sys.stderr = (open(number, "w" if number else "r", 1, closefd=False) for number in range(3))  # noqa: SIM115
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update({name: value for name, value in asked["env"].items() if name != _ADDRESS})
    sys.argv, sys.path[:] = asked["argv"], asked["path"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]

    def end_with_client() -> None:
        client.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)

    with suppress(OSError):  # a client that has gone is noticed by the thread
        client.sendall(f"{os.getpid()}\n".encode())
    Thread(target=end_with_client, daemon=True).start()
    try:
        import_module(f"{_PACKAGE}.__main__").main()
        sys.exit()
    except SystemExit as e:
        exit_code[0] = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
