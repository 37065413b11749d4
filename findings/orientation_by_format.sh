#!/bin/bash
# Pillow 13.0.0 turns a TIFF file by its orientation tag when it loads it, and takes the tag away; the same tag in PNG and JPEG files
# it leaves to the caller, while OpenCV 5.0.0.93 turns these. So one picture saved thrice comes in two sizes.
# Seen (height × width of a picture of 8 × 12 with orientation 6, and the tag after loading):
#   png: pillow 8x12 tag 6, opencv 12x8
#   jpg: pillow 8x12 tag 6, opencv 12x8
#   tif: pillow 12x8 tag None
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np
from PIL import Image

exif = Image.Exif()
exif[274] = 6
for ending in ("png", "jpg", "tif"):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(f"a.{ending}", exif=exif)
    with Image.open(f"a.{ending}") as picture:
        height, width = np.array(picture).shape[:2]
        tag = picture.getexif().get(274)
    other = f", opencv {'x'.join(map(str, cv2.imread(f'a.{ending}').shape[:2]))}" if ending != "tif" else ""
    print(f"{ending}: pillow {height}x{width} tag {tag}{other}")
PY
diff seen - <<'SEEN'
png: pillow 8x12 tag 6, opencv 12x8
jpg: pillow 8x12 tag 6, opencv 12x8
tif: pillow 12x8 tag None
SEEN
