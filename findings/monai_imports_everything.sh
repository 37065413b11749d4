#!/usr/bin/env bash
# monai 1.6.1: `import monai` alone imports every module of the package, and with them optional packages that only some of these
# use, if they are installed: here optuna (for auto3dseg) and matplotlib.pyplot (for visualisation), which nothing asked for.
# A good guess: a package's root imports little, and an optional dependency is loaded by who uses it.
# Seen: 'optuna loaded: True, pyplot loaded: True', more than 1500 modules; made to look absent, both stay out, and it still loads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 monai==1.6.1 optuna==5.0.0 matplotlib==3.11.2
plain=$("$folder/venv/bin/python" -c "
import sys, monai
print(f'optuna loaded: {\"optuna\" in sys.modules}, pyplot loaded: {\"matplotlib.pyplot\" in sys.modules}')
print(len(sys.modules) > 1500)")
echo "$plain"
[ "$plain" = $'optuna loaded: True, pyplot loaded: True\nTrue' ]
without=$("$folder/venv/bin/python" -c "
import sys
absent = ('optuna', 'matplotlib')
sys.modules.update(dict.fromkeys(absent))
import monai
from monai.networks.nets import BasicUNet
print('loads without:', not any(sys.modules[name] for name in absent))")
echo "$without"
[ "$without" = "loads without: True" ]
