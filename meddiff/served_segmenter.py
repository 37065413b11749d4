"""The loader's address in registered segmenters, as `served` is that of generators."""

from meddiff.delivery.served_segmenter import _load_pyfunc

__all__ = ["_load_pyfunc"]
