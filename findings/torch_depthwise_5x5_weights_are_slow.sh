#!/bin/bash
# torch 2.13.0 on an x86 CPU: the gradient of the weights of a depthwise 5 x 5 convolution takes far more than 2.8 times that of a
# 3 x 3 one, its arithmetic's share: 20 to 55 times in channels last, float32, on one thread. The gradient of the input takes 1.3 to
# 3.2 times. So encoders with 5 x 5 depthwise convolutions (EfficientNet) train slowly on CPUs, frozen ones don't.
# Seen: (the numbers of milliseconds vary)
#   480 channels, 8 x 8: weights more than 10 times, input less than 5 times
#   1152 channels, 4 x 4: weights more than 10 times, input less than 5 times
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import sys
import time

import torch

torch.set_num_threads(1)


def milliseconds(channels, side, kernel, mask):
    image = torch.randn(8, channels, side, side).contiguous(memory_format=torch.channels_last)
    weight, taken = torch.randn(channels, 1, kernel, kernel), []
    for _ in range(20):
        begun = time.process_time()
        torch.ops.aten.convolution_backward(torch.ones_like(image), image, weight, None, [1, 1], [kernel // 2] * 2, [1, 1], False,
                                            [0, 0], channels, mask)
        taken.append(1000 * (time.process_time() - begun))
    return sorted(taken)[len(taken) // 2]


for channels, side in ((480, 8), (1152, 4)):
    ratios = {}
    for of, mask in (("weights", [False, True, False]), ("input", [True, False, False])):
        small, large = (milliseconds(channels, side, kernel, mask) for kernel in (3, 5))
        ratios[of] = large / small
        print(f"{channels} channels, {of}: 3 x 3 {small:.2f} ms, 5 x 5 {large:.2f} ms", file=sys.stderr)
    print(f"{channels} channels, {side} x {side}: weights {'more' if ratios['weights'] > 10 else 'less'} than 10 times, "
          f"input {'more' if ratios['input'] > 5 else 'less'} than 5 times")
PY
diff seen - <<'SEEN'
480 channels, 8 x 8: weights more than 10 times, input less than 5 times
1152 channels, 4 x 4: weights more than 10 times, input less than 5 times
SEEN
