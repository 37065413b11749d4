#!/usr/bin/env bash
# monai 1.6.1: a perfect prediction of 0 and 1 held against a mask of 0 and 255, as most mask files hold, is no error.
# `compute_dice` gives NaN, `DiceMetric` a mean Dice of 0 over no case, and `DiceLoss` a loss below 0, about -0.99.
# A good guess: the Dice is 1, or the values are refused.
# Seen: 'compute_dice nan', 'DiceMetric 0.0 of 0.0 cases', 'DiceLoss -0.99'; with a mask of 0 and 1: 1.0, 1.0 and 0.00.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 monai==1.6.1
seen=$("$folder/venv/bin/python" -W ignore -c "
import torch
from monai.losses import DiceLoss
from monai.metrics import DiceMetric, compute_dice
lesion = torch.zeros(1, 1, 8, 8)
lesion[..., 2:6, 2:6] = 1
for mask in (255 * lesion, lesion):
    metric = DiceMetric(get_not_nans=True)
    metric(lesion, mask)
    mean, cases = (value.item() for value in metric.aggregate())
    print('compute_dice', compute_dice(lesion, mask).item(), f'DiceMetric {mean} of {cases} cases, '
          f'DiceLoss {DiceLoss(smooth_nr=0, smooth_dr=0)(lesion, mask).item():.2f}')")
echo "$seen"
[ "$seen" = "compute_dice nan DiceMetric 0.0 of 0.0 cases, DiceLoss -0.99
compute_dice 1.0 DiceMetric 1.0 of 1.0 cases, DiceLoss 0.00" ]
