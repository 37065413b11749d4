"""The weights that come with meddiff: the embedded foundation, a diffusers pipeline folder with its model card README.md."""

from pathlib import Path

FOUNDATION = Path(__file__).parent / "foundation"
