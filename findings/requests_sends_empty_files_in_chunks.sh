#!/bin/bash
# requests 2.34.2 sends a file of one byte with its length, and an empty one in chunks (`Transfer-Encoding: chunked`), without a
# `Content-Length: 0`: servers that know bodies of a length alone wait or refuse, though empty bytes in the file's place work.
# Seen:
#   one byte, file {'Content-Length': '1'}
#   empty, file {'Transfer-Encoding': 'chunked'}
#   empty, bytes {'Content-Length': '0'}
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q requests==2.34.2
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

from requests import Request


def headers(body):
    prepared = Request("PUT", "http://127.0.0.1/", data=body).prepare().headers
    return {name: value for name, value in prepared.items() if name in ("Content-Length", "Transfer-Encoding")}


for name, content in (("one byte", b"x"), ("empty", b"")):
    Path(name).write_bytes(content)
    with open(name, "rb") as file:
        print(f"{name}, file", headers(file))
print("empty, bytes", headers(b""))
PY
diff seen - <<'SEEN'
one byte, file {'Content-Length': '1'}
empty, file {'Transfer-Encoding': 'chunked'}
empty, bytes {'Content-Length': '0'}
SEEN
