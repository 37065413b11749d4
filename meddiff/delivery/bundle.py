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
    architecture, recipe = trained.segmenter.architecture, trained.recipe
    packages = {"pillow": version("pillow")} | ({"meddiff": __version__} if architecture.own else {})
    classes, square = ", ".join(recipe.classes), [recipe.size, recipe.size]
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
        "description": f"{architecture.network}, trained by meddiff {__version__} on {trained.row.n_real} "
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
    recipe, facts, several = trained.recipe, trained.facts, len(trained.channels) > 1
    square = _SQUARES[recipe.fit].format("ImageOps.exif_transpose(picture).convert('RGB')", (recipe.size, recipe.size))
    return {
        "imports": ["$import os", "$import PIL.Image as Image", "$import PIL.ImageOps as ImageOps"],  # no `from` of modules
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(entry.path for entry in os.scandir(@dataset_dir) if entry.name.lower().endswith(('.png', '.jpg', "
                    "'.jpeg', '.bmp', '.tif', '.tiff')))",
        "network_def": {"_target_": facts["network_class"], **facts["network_arguments"]},
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
            {"_target_": "Transposed", "keys": "pred", "indices": [0, 2, 1]},  # the writer turns rows and columns
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "", "output_ext": ".png",
             "output_dtype": "uint8", "scale": None if several else 255, "separate_folder": False, "print_log": False}]},
        "decide": _decision(trained),
        "predict": "$torch.inference_mode()(lambda batch, infer=@inferer, network=@network, device=@device, decide=@decide, "
                   "save=@postprocessing: [save(each) for each in monai.data.decollate_batch({"
                   "'pred': decide(batch['image'].to(device), lambda images: infer(images, network))})])",
        "initialize": ["$@network.load_state_dict(@weights)"],
        "run": ["$list(map(@predict, @dataloader))"],
    }


def _decision(trained: Trained) -> str:
    """Images and what gives their logits to masks `[B, 1, H, W]`, empty where the whole image shows no lesion, as `Findings`."""
    several, bounds = len(trained.channels) > 1, trained.segmenter.bounds
    mask = "pred.argmax(1, keepdim=True).float()" if several else "(pred > 0).float()"
    lesion = "1 - {}.as_tensor().softmax(1)[:, :1]" if several else "{}.as_tensor().sigmoid()"
    steps = ["pred := logits(images)", f"mask := {mask}"]
    if bounds.area:
        steps.append(f"mask := mask * ((mask.as_tensor() > 0).double().mean((1, 2, 3), True) >= {bounds.area!r})")
    if bounds.probability:
        mirrored, over = lesion.format("logits(images.flip(3))"), "sum((1, 2, 3), True)"
        steps += [f"p := ({lesion.format('pred')}).double()", f"q := ({mirrored}).double().flip(3)",
                  f"mask := mask * (2 * (p * q).{over} >= {bounds.probability!r} * (p * p + q * q).{over})"]
    return f"$lambda images, logits: ({', '.join(steps)})[-1]"
