"""A segmenter as a MONAI bundle, which MONAI runs alone: no meddiff, and no engine beside it (Ignite)."""

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from meddiff import __version__
from meddiff.delivery.trained import Trained

_SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
# `fit_square` in one expression: what is left over is halved and rounded down, as by a centre just before the middle.
_SQUARES = {"pad": "ImageOps.pad({}, {}, Image.Resampling.BILINEAR, centering=(0.4999, 0.4999))",
            "squash": "({}).resize({}, Image.Resampling.BILINEAR)"}


def write_bundle(trained: Trained, folder: Path) -> None:
    """Write `configs/metadata.json`, `configs/inference.json` and `models/model.pt`, the network's state dict."""
    for name in ("configs", "models"):
        (folder / name).mkdir()
    for name, content in (("metadata", _metadata(trained)), ("inference", _inference(trained))):
        (folder / f"configs/{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    torch.save(trained.segmenter.network.state_dict(), folder / "models/model.pt")


def _metadata(trained: Trained) -> dict[str, Any]:
    packages = {"pillow": version("pillow")} | ({"meddiff": __version__} if trained.facts["own_encoder"] else {})
    classes, square = ", ".join(trained.classes), [trained.size, trained.size]
    tensor = {"type": "image", "spatial_shape": square, "dtype": "float32", "is_patch_data": False}
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"arm {trained.row.arm}, seed {trained.row.seed}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": packages,
        "name": "meddiff segmenter",
        "task": f"Segmentation of {classes} in 2D images",
        "description": f"{trained.segmenter.architecture.network}, trained by meddiff {__version__} on {trained.row.n_real} "
                       f"annotated images and {trained.row.n_synthetic} added pairs (arm {trained.row.arm})",
        "authors": "see the project that trained it",
        "copyright": "the terms of the dataset that it was trained on apply",
        "intended_use": "research; no medical device",
        "data_type": "png, jpeg, bmp or tiff of 8 bits",
        "eval_metrics": {} if math.isnan(trained.row.dice) else {"validation_dice": trained.row.dice},
        "meddiff": trained.facts,
        "network_data_format": {
            "inputs": {"image": tensor | {"format": "RGB", "num_channels": 3, "value_range": [-1, 1],
                                          "channel_def": {"0": "R", "1": "G", "2": "B"}}},
            "outputs": {"pred": tensor | {"format": "logits", "num_channels": len(trained.channels), "value_range": [],
                                          "channel_def": {str(i): name for i, name in enumerate(trained.channels)}}},
        },
    }


def _inference(trained: Trained) -> dict[str, Any]:
    """Files of `dataset_dir` to masks in `output_dir`; a lambda is evaluated elsewhere, and takes references by its defaults."""
    architecture, several = trained.segmenter.architecture, len(trained.classes) > 1
    kind, arguments = architecture.definition
    square = _SQUARES[trained.fit].format("ImageOps.exif_transpose(picture).convert('RGB')", (trained.size, trained.size))
    own = (f"$Architecture({architecture.network!r}, {architecture.width}, {architecture.classes}, "
           f"{architecture.encoder!r}).build()")
    decided = "pred.argmax(0, keepdim=True)" if several else "torch.sigmoid(pred) > 0.5"
    return {
        "imports": ["$import os", "$import PIL.Image as Image", "$import PIL.ImageOps as ImageOps",  # no `from` of modules
                    *(["$from meddiff.segmentation.networks import Architecture"] if architecture.encoder else [])],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(entry.path for entry in os.scandir(@dataset_dir) if entry.name.lower().endswith(('.png', '.jpg', "
                    "'.jpeg', '.bmp', '.tif', '.tiff')))",
        "network_def": own if architecture.encoder else {"_target_": f"monai.networks.nets.{kind.__name__}", **arguments},
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "reader": "PILReader", "converter": f"$lambda picture: {square}",
             "reverse_indexing": False, "ensure_channel_first": True},
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda levels: levels / 127.5 - 1"}]},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': path} for path in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 16, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda pred: ({decided}).float()"},
            {"_target_": "Transposed", "keys": "pred", "indices": [0, 2, 1]},  # the writer turns rows and columns
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "", "output_ext": ".png",
             "output_dtype": "uint8", "scale": None if several else 255, "separate_folder": False, "print_log": False}]},
        "predict": "$torch.inference_mode()(lambda batch, infer=@inferer, network=@network, device=@device, "
                   "save=@postprocessing: [save(each) for each in monai.data.decollate_batch({"
                   "'pred': infer(batch['image'].to(device), network)})])",
        "initialize": ["$@network.load_state_dict(@weights)"],
        "run": ["$list(map(@predict, @dataloader))"],
    }
