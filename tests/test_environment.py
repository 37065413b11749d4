import importlib
import subprocess
import sys

import pytest

from meddiff.environment import leave_out


def test_packages_that_are_left_out_are_not_found_within_the_block_alone() -> None:
    sys.modules.pop("wave", None)
    with leave_out("wave", "json"):
        with pytest.raises(ImportError):
            importlib.import_module("wave")
        assert importlib.import_module("json") is sys.modules["json"], "what is loaded already stays"
    assert importlib.import_module("wave").__name__ == "wave"


def test_segmenters_load_without_what_monai_would_bring_along() -> None:
    code = ("import sys, meddiff.segmentation.segmenter\nfrom monai.networks.nets import SwinUNETR\n"
            "print([name for name in ('diffusers', 'matplotlib', 'mlflow', 'optuna', 'transformers') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
