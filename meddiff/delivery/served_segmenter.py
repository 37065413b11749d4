"""The segmenters of an arm as an MLflow model: a table of image files in, masks and numbers out. Imports no mlflow."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from meddiff.cases import write_mask
from meddiff.datasets.adapters import RawCase
from meddiff.delivery.predictor import Prediction, predict_images
from meddiff.errors import MeddiffError
from meddiff.segmentation.ensemble import Ensemble
from meddiff.services.tracking import refuse_withdrawn_files


class ServedSegmenter:
    """What `mlflow.pyfunc.load_model` returns, behind MLflow's own wrapper."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble

    def predict(self, images: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict one image a row, as `meddiff predict` does.

        Args:
            images: column `image`, bytes of an image file of any size.

        Returns:
            Columns `mask` (bytes of a PNG file, pixel by pixel that of the image as stored; 0 and 255, of several classes their
            indices), `probability` (the greatest of any class), `area_px` and `share` (of all classes together), `uncertainty`
            (NaN with one seed).

        Raises:
            MeddiffError: no column `image`, or a file that isn't an image, named by its row.
        """
        if "image" not in images:
            raise MeddiffError("images", "the table needs a column `image`", "Give the bytes of an image file in each row")
        rows = list[dict[str, Any]]()
        with TemporaryDirectory(prefix="meddiff-") as name:
            folder, cases = Path(name), list[RawCase]()
            for number, data in enumerate(images["image"]):
                cases.append(RawCase(f"row {number}", folder / f"row {number}", ()))
                (folder / f"row {number}").write_bytes(data)
            for case, made in predict_images(self.ensemble, cases):
                if not isinstance(made, Prediction):
                    raise MeddiffError(case.id, made.rule, made.remedy)
                write_mask(folder / "mask.png", made.mask, len(made.classes), made.orientation)
                rows.append({"mask": (folder / "mask.png").read_bytes(), "probability": max(c.probability for c in made.classes),
                             "area_px": sum(c.area_px for c in made.classes), "share": sum(c.share for c in made.classes),
                             "uncertainty": made.uncertainty})
        return pd.DataFrame(rows, columns=["mask", "probability", "area_px", "share", "uncertainty"])


def _load_pyfunc(data_path: str) -> ServedSegmenter:
    """MLflow's loader hook; refuses a withdrawn version."""
    refuse_withdrawn_files(Path(data_path))
    torch.set_num_threads(max(1, min(torch.get_num_threads(), 2)))
    return ServedSegmenter(Ensemble.load(Path(data_path), "cuda" if torch.cuda.is_available() else "cpu"))
