#!/usr/bin/env bash
# nnunetv2 2.8.1: its evaluation of perfect predictions (labels 0 and 1) against masks of 0 and 255 ends without an error or a
# warning, and with a Dice of 0: a reference pixel counts where it equals the label, and 255 is no label.
# A good guess: values that are no label are refused, as its check of a training dataset does.
# Seen: 'masks of 0 and 255: Dice 0.0'; the same masks as 0 and 1: 'Dice 1.0'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nnunetv2==2.8.1 pillow==13.0.0
cd "$folder"
cat > evaluate.py <<'PY'
import os
from pathlib import Path
import numpy as np
from PIL import Image
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

if __name__ == "__main__":
    lesion = np.zeros((32, 32), np.uint8)
    lesion[8:24, 8:20] = 1
    for name, pixels in {"predicted": lesion, "0 and 255": lesion * 255, "0 and 1": lesion}.items():
        Path(name).mkdir()
        Image.fromarray(pixels).save(f"{name}/case.png")
    for name in ("0 and 255", "0 and 1"):
        scores = compute_metrics_on_folder(name, "predicted", None, NaturalImage2DIO(), ".png", [1], num_processes=1)
        print(f"masks of {name}: Dice {scores['foreground_mean']['Dice']}")
PY
seen=$(nnUNet_raw=. nnUNet_preprocessed=. nnUNet_results=. "$folder/venv/bin/python" evaluate.py)
echo "$seen"
[ "$seen" = "masks of 0 and 255: Dice 0.0
masks of 0 and 1: Dice 1.0" ]
