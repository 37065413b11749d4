"""meddiff: guided synthesis of annotated medical images for segmentation networks that have few examples."""

__version__ = "0.1.0"
