#!/bin/bash
# Pillow 13.0.0 reads a Windows bitmap of 8 or 4 bits a pixel as one of 1 bit if its colour table holds black and white alone: the
# pixels come out empty or shifted, without an error. Pillow itself writes such files. OpenCV 5.0.0.93 reads them as every viewer.
# Seen:
#   pillow 1 [False]
#   opencv [0, 255] 20
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np
from PIL import Image

mask = np.zeros((8, 12), np.uint8)
mask[2:6, 3:8] = 1
picture = Image.fromarray(mask)
picture.putpalette([0, 0, 0, 255, 255, 255])
picture.save("mask.bmp")                       # 8 bits a pixel, a table of two colours
with Image.open("mask.bmp") as again:
    print("pillow", again.mode, np.unique(np.array(again)).tolist())
pixels = cv2.imread("mask.bmp", cv2.IMREAD_UNCHANGED)
print("opencv", np.unique(pixels).tolist(), int((pixels > 0).sum()))
PY
diff seen - <<'SEEN'
pillow 1 [False]
opencv [0, 255] 20
SEEN
