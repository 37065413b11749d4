"""Learns from pairs.

MONAI imports all of itself, and whatever of these packages is installed: 12 seconds of a core instead of 3, for parts that aren't
used here. So it is imported before all else of this room, and without them.
"""

from meddiff.environment import leave_out

_UNUSED = ("ignite", "jsonschema", "matplotlib", "mlflow", "nibabel", "onnx", "optuna", "pandas", "pydicom", "requests",
           "skimage", "sklearn", "tensorboard", "transformers")

with leave_out(*_UNUSED):
    import monai  # noqa: F401
