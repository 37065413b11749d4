"""A server on loopback that stands before another one, passes everything on, and fails as it is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import urlsplit

Fault = Callable[[str, str], str]


class Proxy:
    """What stands before a server.

    Attributes:
        address: of itself.
        fault: gets method and path of each request; gives `` (none), `500`, `gone` (no answer, the connection ends), `silent` (no
            answer, the connection stays), `short` (half of the answer's body) or `taken` (passed on, and no answer).
        asked: method and path of each request so far.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream, self.fault, self.asked, self.ends = urlsplit(upstream).netloc, never, list[tuple[str, str]](), Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, HTTPException):
                    self.close_connection = True

            def pass_on(self) -> None:
                proxy.asked.append((self.command, self.path))
                kind: str = proxy.fault(self.command, self.path)
                if kind in ("gone", "silent"):
                    proxy.ends.wait(60 if kind == "silent" else 0)
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, answer = (500, [("content-type", "text/plain")], b"broken") if kind == "500" else \
                    proxy.ask(self.command, self.path, dict(self.headers), body)
                if kind == "taken":
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                empty = self.command == "HEAD" or status in (204, 304)
                if not empty:
                    self.send_header("content-length", str(len(answer)))
                self.end_headers()
                if not empty:
                    self.wfile.write(answer[:len(answer) // 2] if kind == "short" else answer)
                self.close_connection = self.close_connection or kind == "short"

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = pass_on  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(method, path, body, {name: value for name, value in headers.items()
                                                    if name.lower() not in ("connection", "expect", "accept-encoding")})
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding", "content-length")]
            if method == "HEAD":
                kept += [(name, value) for name, value in answer.getheaders() if name.lower() == "content-length"]
            return answer.status, kept, answer.read()
        finally:
            connection.close()


def never(method: str, path: str) -> str:
    return ""


def first(n: int, kind: str, method: str = "", path: str = "") -> Fault:
    """The first requests of a method, and with these words in the path, fail."""
    left = [n]

    def fault(asked: str, place: str) -> str:
        if left[0] <= 0 or asked != (method or asked) or path not in place:
            return ""
        left[0] -= 1
        return kind

    return fault


@contextmanager
def standing_before(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    Thread(target=proxy.server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.ends.set()
        proxy.server.shutdown()
        proxy.server.server_close()
