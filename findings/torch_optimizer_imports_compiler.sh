#!/usr/bin/env bash
# torch 2.13.0: making the first optimizer imports torch's compiler (torch._dynamo), and sympy with it, though nothing is compiled:
# about as long as `import torch` itself, once in every process that trains.
# A good guess: SGD is plain arithmetic, and the compiler is loaded by torch.compile.
# Seen: 'after import: False', 'after SGD(): True, sympy: True', and several hundred modules more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
seen=$("$folder/venv/bin/python" -c "
import sys, torch
print('after import:', 'torch._dynamo' in sys.modules)
before = len(sys.modules)
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
print(f'after SGD(): {\"torch._dynamo\" in sys.modules}, sympy: {\"sympy\" in sys.modules}')
print(len(sys.modules) - before > 300)")
echo "$seen"
[ "$seen" = $'after import: False\nafter SGD(): True, sympy: True\nTrue' ]
