"""Samples from seeds: a background, an invented mask and a painted lesion, the same whatever is computed beside it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddiff.cases import Pixels, read_image
from meddiff.errors import MeddiffError
from meddiff.mask_model import MaskLevels, MaskModel
from meddiff.painting import Painter, load_painter
from meddiff.params import GenerateParams


@dataclass(frozen=True)
class Request:
    """What is asked of one sample.

    Attributes:
        seed: of the background's choice, the mask and the noise.
        mask: `[H,W]` of 0 and 1; None to invent one.
        background: `[H,W,3]` uint8; None to choose one of the lesion-free images.
    """

    seed: int
    mask: Pixels | None = None
    background: Pixels | None = None


@dataclass(frozen=True)
class Sample:
    """A synthetic pair.

    Attributes:
        id: made from the seed.
        image: `[H,W,3]` uint8.
        mask: `[H,W]` of 0 and 1.
        background: id of the lesion-free image, or `given`.
    """

    id: str
    seed: int
    image: Pixels
    mask: Pixels
    background: str


@dataclass(frozen=True)
class Synthesizer:
    """Everything that a sample needs: the fine-tuned pipeline, the mask model and lesion-free images of one size."""

    painter: Painter
    masks: MaskModel
    backgrounds: dict[str, Pixels]

    @classmethod
    def load(cls, generator: Path, mask_model: Path, backgrounds: Path, device: str) -> "Synthesizer":
        """Load the three folders as the stages leave them.

        Raises:
            MeddiffError: a folder is missing, or there is no lesion-free image.
        """
        images = {path.stem: read_image(path) for path in sorted((backgrounds / "images").glob("*.png"))}
        if not images:
            raise MeddiffError(
                backgrounds,
                "there must be at least one lesion-free image",
                "Add a `normal` folder to the dataset, or more annotated cases whose lesion can be removed",
            )
        return cls(load_painter(generator, device), MaskModel.load(mask_model), images)

    def sample(self, requests: Sequence[Request], params: GenerateParams) -> list[Sample]:
        """Make one sample a request, in order; equal seeds give equal samples whatever the other requests are.

        Raises:
            MeddiffError: a given mask or background hasn't the model's size.
        """
        names = list(self.backgrounds)
        size = self.backgrounds[names[0]].shape[0]
        levels = MaskLevels(params.mask_noise, params.mask_shape, params.mask_pose)
        invented = [request.seed for request in requests if request.mask is None]
        masks = iter(self.masks.sample(invented, size, levels)) if invented else iter(())
        samples = []
        for start in range(0, len(requests), params.batch_size):
            part = requests[start : start + params.batch_size]
            chosen = [names[np.random.default_rng([request.seed, 1]).integers(len(names))] for request in part]
            grounds = [
                self.backgrounds[name] if r.background is None else r.background for name, r in zip(chosen, part, strict=True)
            ]
            drawn = [next(masks) if request.mask is None else request.mask for request in part]
            for request, ground, mask in zip(part, grounds, drawn, strict=True):
                if ground.shape != (size, size, 3) or mask.shape != (size, size):
                    raise MeddiffError(
                        f"request with seed {request.seed}",
                        f"masks and backgrounds are {size}×{size} pixels for this model, "
                        f"not {mask.shape[1]}×{mask.shape[0]} and {ground.shape[1]}×{ground.shape[0]}",
                        "Resize them",
                    )
            images = self.painter.paint(grounds, drawn, [request.seed for request in part], params)
            samples += [
                Sample(f"s{r.seed:010d}", r.seed, image, mask, name if r.background is None else "given")
                for r, image, mask, name in zip(part, images, drawn, chosen, strict=True)
            ]
        return samples


def bundle(target: Path, generator: Path, mask_model: Path, backgrounds: Path, params: GenerateParams) -> None:
    """Copy all that `Synthesizer.load` needs into one folder, with the settings it was used with."""
    for name, source in {"generator": generator, "mask_model": mask_model, "backgrounds": backgrounds}.items():
        shutil.copytree(source, target / name, dirs_exist_ok=True)
    (target / "generate.json").write_text(json.dumps(params.model_dump(), indent=1))


def load_bundle(folder: Path, device: str) -> tuple[Synthesizer, GenerateParams]:
    """Load a folder made by `bundle`."""
    settings = folder / "generate.json"
    if not settings.is_file():
        raise MeddiffError(folder, "a generator bundle must be there", "Run `dvc repro generate`, or name a registered model")
    synthesizer = Synthesizer.load(folder / "generator", folder / "mask_model", folder / "backgrounds", device)
    return synthesizer, GenerateParams.model_validate_json(settings.read_text())
