#!/bin/bash
# A PNG file of gray with alpha, 16 bits each, is opened by Pillow 13.0.0 as RGBA of 8 bits: the upper byte alone is kept, without a
# word. 12-bit levels, as medical images have them, shrink from 4096 to 16. Without alpha the same file keeps all of them (I;16).
# Seen:
#   gray alone: I;16 4096 levels
#   gray and alpha: RGBA 16 levels
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import struct
import zlib

import numpy as np
from PIL import Image

levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def png(colour, channels):
    rows = np.stack(channels, 2).astype(">u2").reshape(64, -1)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, colour, 0, 0, 0)),
              (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)


for words, colour, channels in (("gray alone", 0, [levels]), ("gray and alpha", 4, [levels, np.full_like(levels, 65535)])):
    with open("a.png", "wb") as stream:
        stream.write(png(colour, channels))
    with Image.open("a.png") as picture:
        pixels = np.array(picture)
        print(f"{words}: {picture.mode} {len(np.unique(pixels[:, :, 0] if pixels.ndim == 3 else pixels))} levels")
PY
diff seen - <<'SEEN'
gray alone: I;16 4096 levels
gray and alpha: RGBA 16 levels
SEEN
