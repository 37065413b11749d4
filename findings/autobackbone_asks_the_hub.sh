#!/usr/bin/env bash
# transformers 5.23.0: AutoBackbone.from_pretrained(FOLDER) refuses any absolute path to a saved backbone: it takes the path for a
# hub's repository id and asks whether that exists, before it looks at the folder. ResNetBackbone, the class that it stands for, and
# AutoModel load the same folder.
# A good guess: a folder is loaded as every other Auto class loads it, without a network.
# Seen: 'HFValidationError' from AutoBackbone, then 'ResNetBackbone: stage4' and 'AutoModel: ResNetModel'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0
seen=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -c "
from transformers import AutoBackbone, AutoModel, ResNetBackbone, ResNetConfig
place = '$folder/backbone'
ResNetBackbone(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type='basic')).save_pretrained(place)
try:
    AutoBackbone.from_pretrained(place)
    print('loaded')
except Exception as e:
    print(type(e).__name__)
print('ResNetBackbone:', *ResNetBackbone.from_pretrained(place).out_features)
print('AutoModel:', type(AutoModel.from_pretrained(place)).__name__)
" 2> "$folder/err")
echo "$seen"
[ "$seen" = $'HFValidationError\nResNetBackbone: stage4\nAutoModel: ResNetModel' ]
