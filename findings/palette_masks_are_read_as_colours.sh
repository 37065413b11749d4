#!/usr/bin/env bash
# opencv 5.0.0.93, scikit-image 0.26.0, imageio 2.38.1, SimpleITK 2.5.7: of a label mask that is a PNG with a palette (as Pascal VOC
# and many annotation tools write it) these four give the palette's colours in three channels, OpenCV with IMREAD_UNCHANGED too,
# and with IMREAD_GRAYSCALE the colours' gray levels. Pillow 13.0.0 alone gives the indices.
# A good guess: what is stored in a pixel, the index 0, 1 or 2, is what is read, and "unchanged" changes nothing.
# Seen: 'Pillow (8, 8) [0, 1, 2]' against '(8, 8, 3) [0, 86, 159, 180, 230, 233]' of the four; OpenCV's gray: [0, 157, 162].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 scikit-image==0.26.0 \
    imageio==2.38.1 simpleitk==2.5.7
cd "$folder"
seen=$("$folder/venv/bin/python" -c "
import cv2, imageio.v3, numpy as np, SimpleITK, skimage.io
from PIL import Image
labels = np.zeros((8, 8), np.uint8)
labels[2:6, 2:6], labels[4, 4] = 1, 2
picture = Image.fromarray(labels)
picture.putpalette([0, 0, 0, 230, 159, 0, 86, 180, 233])
picture.save('mask.png')
for name, read in {'Pillow': np.array(Image.open('mask.png')), 'OpenCV': cv2.imread('mask.png', cv2.IMREAD_UNCHANGED),
                   'gray': cv2.imread('mask.png', cv2.IMREAD_GRAYSCALE), 'skimage': skimage.io.imread('mask.png'),
                   'imageio': imageio.v3.imread('mask.png'),
                   'SimpleITK': SimpleITK.GetArrayFromImage(SimpleITK.ReadImage('mask.png'))}.items():
    print(name, read.shape, np.unique(read).tolist())")
echo "$seen"
colours="(8, 8, 3) [0, 86, 159, 180, 230, 233]"
[ "$seen" = "Pillow (8, 8) [0, 1, 2]
OpenCV $colours
gray (8, 8) [0, 157, 162]
skimage $colours
imageio $colours
SimpleITK $colours" ]
