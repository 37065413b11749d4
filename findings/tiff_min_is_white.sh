#!/bin/bash
# A TIFF file tagged MinIsWhite stores white as 0. Pillow 13.0.0 and OpenCV 5.0.0.93 turn the levels round at 8 bits, but not at 16,
# where the same tag stands; tifffile 2026.3.3 and SimpleITK 2.5.7 never do. The same mask is inverted or not by depth and library.
# Seen (level stored, then what each gives):
#   8 bits, stored 0: pillow 255 opencv 255 tifffile 0 simpleitk 0
#   16 bits, stored 0: pillow 0 opencv 0 tifffile 0 simpleitk 0
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q pillow==13.0.0 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 simpleitk==2.5.7 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np
import SimpleITK
import tifffile
from PIL import Image

for bits, kind in ((8, np.uint8), (16, np.uint16)):
    stored = np.full((8, 12), np.iinfo(kind).max, kind)
    stored[2:6, 3:8] = 0
    tifffile.imwrite("a.tif", stored, photometric="miniswhite")
    with Image.open("a.tif") as picture:
        pillow = np.array(picture)
    given = {"pillow": pillow, "opencv": cv2.imread("a.tif", cv2.IMREAD_UNCHANGED), "tifffile": tifffile.imread("a.tif"),
             "simpleitk": SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("a.tif"))}
    print(f"{bits} bits, stored 0:", *(f"{name} {levels[3, 4]}" for name, levels in given.items()))
PY
diff seen - <<'SEEN'
8 bits, stored 0: pillow 255 opencv 255 tifffile 0 simpleitk 0
16 bits, stored 0: pillow 0 opencv 0 tifffile 0 simpleitk 0
SEEN
