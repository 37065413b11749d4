"""Pretraining of the embedded foundation that meddiff ships; see `pretrained/foundation/README.md` for the command.

It owns what that foundation has seen: phantoms of both modalities, with and without lesions, and photographs without annotation.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Case, Pixels, read_image, sha256
from meddiff.datasets.demo import make_phantoms
from meddiff.diffusion.embedded import ANYTHING, LESION, NOTHING, PROMPTS, Drawn, build_embedded, inpaint, random_shapes
from meddiff.diffusion.foundation import load_foundation
from meddiff.environment import quiet
from meddiff.params import FoundationParams
from meddiff.progress import bar
from meddiff.training import Schedule

_FULL, _VIEW = 128, 64        # sides of the stored images and of most training views [pixels]
_FULL_SHARE = 0.25            # of the steps see whole images, a quarter as many
_PHOTO_SHARE = 0.4            # of the views show a photograph
_LESION_SHARE = 0.55          # of the phantom views paint the lesion, where there is one
_SEED = 1_000_000             # of the phantoms, far from any demo's


@dataclass(frozen=True)
class Material:
    """What is learnt from, all at `_FULL` pixels.

    Attributes:
        photographs: `[N,3,H,W]` uint8, not annotated.
        phantoms: `[M,3,H,W]` uint8.
        lesions: `[M,1,H,W]` uint8 of 0 and 1, all zero in lesion-free phantoms.
    """

    photographs: Tensor
    phantoms: Tensor
    lesions: Tensor

    def draw(self, generator: torch.Generator, batch: int) -> Drawn:
        """A batch of views: the lesion to paint, a shape without lesion to fill, or a shape of a photograph."""
        whole = float(torch.rand(1, generator=generator)) < _FULL_SHARE
        n, side = (max(1, batch // 4), _FULL) if whole else (batch, _VIEW)
        pixels, masks, prompts = zip(*(self._view(side, generator) for _ in range(n)), strict=True)
        return Drawn(torch.cat(pixels), torch.cat(masks), torch.tensor([PROMPTS.index(prompt) for prompt in prompts]))

    def _view(self, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
        def chance() -> float:
            return float(torch.rand(1, generator=generator))

        photograph = len(self.photographs) > 0 and chance() < _PHOTO_SHARE
        images = self.photographs if photograph else self.phantoms
        i = int(torch.randint(len(images), (1,), generator=generator))
        pixels = images[i:i + 1].float() / 127.5 - 1
        lesion = torch.zeros(1, 1, _FULL, _FULL) if photograph else self.lesions[i:i + 1].float()
        if side < _FULL and chance() < 0.5:
            y, x = torch.randint(_FULL - side + 1, (2,), generator=generator).tolist()
            pixels, lesion = pixels[..., y:y + side, x:x + side], lesion[..., y:y + side, x:x + side]
        elif side < _FULL:
            pixels, lesion = F.avg_pool2d(pixels, _FULL // side), (F.avg_pool2d(lesion, _FULL // side) > 0.5).float()
        if chance() < 0.5:
            pixels, lesion = pixels.flip(-1), lesion.flip(-1)
        if photograph:
            pixels = torch.rot90(pixels, int(4 * chance()), (2, 3))
        pixels = (pixels * (0.85 + 0.3 * chance()) + 0.2 * (chance() - 0.5)).clamp(-1, 1)
        if not bool((pixels == pixels[:, :1]).all()):  # no phantom has the bluish or white skin that lenses and lamps make
            cast = torch.rand(2, 1, 3, 1, 1, generator=generator) - 0.5
            pixels = (pixels * (1 + 0.3 * cast[0]) + 0.6 * cast[1]).clamp(-1, 1)
        if not photograph and 0.01 < float(lesion.mean()) < 0.5 and chance() < _LESION_SHARE:
            return pixels, lesion, LESION
        shape = random_shapes(1, side, generator)
        if photograph:
            return pixels, shape, ANYTHING
        free = shape * (1 - F.max_pool2d(lesion, 5, 1, 2))
        return (pixels, free, NOTHING) if float(free.mean()) > 0.005 else (pixels, shape, ANYTHING)


def gather(photographs: Sequence[Path], phantoms: int) -> Material:
    """Read the photographs, and draw `phantoms` phantoms of each modality with a lesion and a quarter as many without."""
    read = [to_bytes(_square(path)) for path in photographs]
    cases: list[Case] = []
    for offset, modality in enumerate(("ultrasound", "dermoscopy")):
        for lesion, n in ((True, phantoms), (False, max(1, phantoms // 4))):
            cases += make_phantoms(n, lesion, _FULL, modality, _SEED + offset)
    masks = np.stack([case.mask for case in cases if case.mask is not None])
    return Material(torch.stack(read) if read else torch.zeros(0, 3, _FULL, _FULL, dtype=torch.uint8),
                    torch.stack([to_bytes(case.image) for case in cases]), torch.from_numpy(masks)[:, None])


def to_bytes(image: Pixels) -> Tensor:
    """`[H,W,3]` uint8 to `[3,H,W]` uint8."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()


def _square(path: Path) -> Pixels:
    return np.array(Image.fromarray(read_image(path)).resize((_FULL, _FULL), Image.Resampling.BOX), dtype=np.uint8)


def make_pretrained() -> None:
    """Train, and write the pipeline folder with `training.json`: the settings, the photographs' hashes and the losses."""
    quiet()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of images, not annotated")
    parser.add_argument("--listed", type=Path, help="JSON file whose list `train` names the images to use; default: all")
    parser.add_argument("--phantoms", type=int, default=1600, help="phantoms of each modality with a lesion")
    parser.add_argument("--start", type=Path, help="foundation folder to go on from; default: random weights")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    paths = sorted(path for path in options.photographs.iterdir() if path.suffix in (".jpg", ".png"))
    if options.listed:
        listed = set(json.loads(options.listed.read_text())["train"])
        paths = [path for path in paths if path.stem in listed]
    material = gather(paths, options.phantoms)
    sample = torch.cat([material.photographs[::8], material.phantoms[::8]])
    pipeline = load_foundation(str(options.start)) if options.start else build_embedded(
        FoundationParams(), F.avg_pool2d(sample.float() / 127.5 - 1, _FULL // _VIEW))
    schedule = Schedule(options.steps, options.learning_rate, 0, ema_decay=0.999, warmup=100, cosine=True)
    with bar("pretrain") as report:
        losses = inpaint(pipeline, lambda generator: material.draw(generator, options.batch_size), schedule, options.device,
                         options.out.with_suffix(".checkpoint"), report)
    pipeline.to("cpu").unet.half()
    pipeline.save_pretrained(options.out, safe_serialization=True)
    facts = {"steps": options.steps, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
             "phantoms": len(material.phantoms), "photographs": {path.name: sha256(path) for path in paths},
             "loss": [round(float(np.mean(losses[i:i + 100])), 4) for i in range(0, len(losses), 100)]}
    earlier = options.start / "training.json" if options.start else None
    if earlier and earlier.is_file():
        facts["before"] = {name: value for name, value in json.loads(earlier.read_text()).items() if name != "photographs"}
    (options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    make_pretrained()
