#!/bin/bash
# A square with corners (2, 2) and (6, 6) fills 25 pixels with scikit-image 0.26.0, Pillow 13.0.0 and OpenCV 5.0.0.93, which take a
# coordinate for the centre of a pixel and draw the border too, and 16 with pycocotools 2.0.11, which takes it for a corner of pixels.
# Seen:
#   scikit-image 25
#   pillow 25
#   opencv 25
#   pycocotools 16
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q scikit-image==0.26.0 pillow==13.0.0 opencv-python-headless==5.0.0.93 pycocotools==2.0.11 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask
from skimage.draw import polygon2mask

corners = np.array([(2, 2), (6, 2), (6, 6), (2, 6)])
print("scikit-image", polygon2mask((10, 10), corners[:, ::-1]).sum())
drawn = Image.new("1", (10, 10))
ImageDraw.Draw(drawn).polygon(list(map(tuple, corners.tolist())), fill=1, outline=1)
print("pillow", np.array(drawn).sum())
print("opencv", cv2.fillPoly(np.zeros((10, 10), np.uint8), [corners.astype(np.int32)], 1).sum())
print("pycocotools", mask.decode(mask.frPyObjects([corners.ravel().astype(float).tolist()], 10, 10)).sum())
PY
diff seen - <<'SEEN'
scikit-image 25
pillow 25
opencv 25
pycocotools 16
SEEN
