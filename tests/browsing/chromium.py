"""A real browser without a window, spoken to by its own protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
_SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--window-size=1400,900", "about:blank")
_CODES = {"ArrowLeft": 37, "ArrowRight": 39}


class Tab:
    """The one page of a browser."""

    def __init__(self, line: ClientConnection) -> None:
        self._line, self._numbers = line, itertools.count(1)
        self("Page.enable")

    def __call__(self, method: str, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._line.send(json.dumps({"id": number, "method": method, "params": values}))
        while (answer := json.loads(self._line.recv(timeout=20))).get("id") != number:
            pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the page says so."""
        end = time.monotonic() + 20
        while not self.ask(f"document.readyState === 'complete' && Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} never came: {self.ask('document.body.innerText')}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        self("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank'")

    def press(self, key: str) -> None:
        code = _CODES.get(key) or ord(key.upper())
        text = {"text": key} if len(key) == 1 else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browser(home: Path) -> Iterator[Tab]:
    """A browser with an empty profile in a folder."""
    assert PROGRAM
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([PROGRAM, *_SWITCHES, f"--user-data-dir={home}"], stdout=nowhere, stderr=nowhere)
    try:
        end, told = time.monotonic() + 30, home / "DevToolsActivePort"
        while not (told.is_file() and len(told.read_text().splitlines()) == 2):
            assert time.monotonic() < end, "the browser doesn't start"
            time.sleep(0.05)
        port = told.read_text().splitlines()[0]
        import httpx

        page = next(each for each in httpx.get(f"http://127.0.0.1:{port}/json").json() if each["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as line:
            yield Tab(line)
    finally:
        process.terminate()
        process.wait(10)
