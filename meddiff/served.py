"""The loader's address in registered generators: MLflow's `MLmodel` names it, and files outlive the layout of a package."""

from meddiff.delivery.served import _load_pyfunc

__all__ = ["_load_pyfunc"]
