"""The fine-tuned generator as an MLflow model: a table of requests in, image and mask bytes out. Imports no mlflow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from meddiff.cases import Pixels, png_bytes
from meddiff.errors import MeddiffError
from meddiff.painting.synthesizer import Request, Sample, Synthesizer, load_bundle
from meddiff.params import GenerateParams
from meddiff.services.tracking import refuse_withdrawn_files


class Generator:
    """What `mlflow.pyfunc.load_model` returns, behind MLflow's own wrapper."""

    def __init__(self, synthesizer: Synthesizer, params: GenerateParams) -> None:
        self.synthesizer, self.params = synthesizer, params

    def predict(self, requests: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Make one sample a row.

        Args:
            requests: columns `seed` (integer); optional, empty where a value isn't given: `guidance_scale` (float, 1 to 20),
                `mask` and `background` (bytes of an image file of the model's size).

        Returns:
            Columns `id`, `seed`, `background`, `verdict` (text; always `unfiltered`: bad samples and near-copies are among them),
            `image` and `mask` (bytes of PNG files; mask 0 and 255, of several classes their indices).

        Raises:
            MeddiffError: no `seed` column, or a mask or background that doesn't fit.
        """
        if "seed" not in requests:
            raise MeddiffError("requests", "the table needs a column `seed`", "Add one integer a sample")
        rows = requests.reset_index(drop=True)
        scales = pd.to_numeric(rows["guidance_scale"]) if "guidance_scale" in rows else pd.Series(np.nan, index=rows.index)
        scales = scales.fillna(self.params.guidance_scale)
        made: dict[object, Sample] = {}
        for scale, part in rows.groupby(scales):
            asked = [
                Request(int(row["seed"]), self._mask(row.get("mask")), _image(row.get("background")))
                for _, row in part.iterrows()
            ]
            settings = GenerateParams.model_validate(dict(self.params) | {"guidance_scale": float(scale)})
            made |= dict(zip(part.index, self.synthesizer.sample(asked, settings), strict=True))
        samples, classes = [made[i] for i in rows.index], len(self.synthesizer.painter.prompts) - 1
        return pd.DataFrame(
            {
                "id": [s.id for s in samples],
                "seed": [s.seed for s in samples],
                "background": [s.background for s in samples],
                "verdict": "unfiltered",
                "image": [png_bytes(Image.fromarray(s.image)) for s in samples],
                "mask": [png_bytes(Image.fromarray(s.mask * np.uint8(255 if classes == 1 else 1))) for s in samples],
            }
        )

    def _mask(self, data: object) -> Pixels | None:
        """A mask of 0 and 255, or of class indices where the model has several."""
        if not isinstance(data, bytes):
            return None
        picture = Image.open(io.BytesIO(data))
        if len(self.synthesizer.painter.prompts) > 2:
            return np.array(picture if picture.mode == "P" else picture.convert("L"), dtype=np.uint8)
        return (np.array(picture.convert("L")) > 127).astype(np.uint8)


def _load_pyfunc(data_path: str) -> Generator:
    """MLflow's loader hook; refuses a withdrawn version."""
    refuse_withdrawn_files(Path(data_path))
    torch.set_num_threads(max(1, min(torch.get_num_threads(), 2)))
    return Generator(*load_bundle(Path(data_path), "cuda" if torch.cuda.is_available() else "cpu"))


def _image(data: object) -> Pixels | None:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB")) if isinstance(data, bytes) else None
