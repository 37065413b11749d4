"""Samples from seeds: a background, an invented mask and a painted lesion, the same whatever is computed beside it."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from meddiff.cases import Pixels, read_image, read_mask, sha256
from meddiff.environment import has_bfloat16
from meddiff.errors import MeddiffError
from meddiff.lesions.fields import imaged_field
from meddiff.masks.model import MaskModel
from meddiff.masks.placement import MaskLevels, Site, rank_sites
from meddiff.painting.painter import Painter, load_painter
from meddiff.params import MASK_RANDOMNESS, GenerateParams
from meddiff.params.file import parse_params
from meddiff.params.outdated import upgraded
from meddiff.seeds import Stream, numbers


@dataclass(frozen=True)
class Request:
    """What is asked of one sample.

    Attributes:
        seed: of the background's choice, the mask and the noise.
        mask: `[H,W]` of 0 to K; None to invent one within the imaged field of the background.
        background: `[H,W,3]` uint8; None to choose one of the model's own.
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
        mask: `[H,W]` of 0 to K.
        background: id of the image that was painted into, or `given`.
        likeness: of its invented lesions' shapes, the greatest to a training lesion's, 0 to 1 (see `mask_statistics.likeness`);
            NaN where the mask was given.
        site_iou: intersection over union of an invented mask, of whatever class, with the lesions found at the site that it is
            painted over, 0 to 1; NaN where there is no site, or the mask was given.
    """

    id: str
    seed: int
    image: Pixels
    mask: Pixels
    background: str
    likeness: float
    site_iou: float


@dataclass(frozen=True)
class Plan:
    """What is to be painted for some requests, one entry each.

    Attributes:
        names: `Sample.background`.
        grounds, masks: `[S,S,3]` and `[S,S]` uint8.
        alike: `Sample.likeness`.
        overlaps: `Sample.site_iou`.
    """

    requests: Sequence[Request]
    names: list[str]
    grounds: list[Pixels]
    masks: list[Pixels]
    alike: list[float]
    overlaps: list[float]

    def batches(self, most: int) -> Iterator[tuple[list[Pixels], list[Pixels], list[int]]]:
        """Backgrounds, masks and seeds of at most `most` samples, evenly split: the fewer shapes, the less a GPU compiles."""
        n, seeds = len(self.requests), [request.seed for request in self.requests]
        cuts = [round(i * n / count) for i in range(count + 1)] if (count := math.ceil(n / most)) else []
        for start, end in pairwise(cuts):
            yield self.grounds[start:end], self.masks[start:end], seeds[start:end]

    def samples(self, images: Iterable[Pixels]) -> list[Sample]:
        """The pairs that painting left."""
        rows = zip(self.requests, images, self.masks, self.names, self.alike, self.overlaps, strict=True)
        return [Sample(f"s{r.seed:010d}", r.seed, image, mask, *rest) for r, image, mask, *rest in rows]


@dataclass(frozen=True)
class Synthesizer:
    """Everything that a sample needs, images of one size.

    Attributes:
        painter: the fine-tuned pipeline.
        masks: the mask model.
        backgrounds: `[S,S,3]` uint8 by id: lesion-free images, and those whose lesion at a site was filled in.
        sites: by id of the background: the lesions that were there, at whose place new ones are painted.
    """

    painter: Painter
    masks: MaskModel
    backgrounds: dict[str, Pixels]
    sites: dict[str, Site] = field(default_factory=dict)

    @classmethod
    def load(cls, generator: Path, mask_model: Path, backgrounds: Path, device: str) -> "Synthesizer":
        """Load the three folders as the stages leave them.

        Raises:
            MeddiffError: a folder is missing, or there is no background.
        """
        images = {path.stem: read_image(path) for path in sorted((backgrounds / "images").glob("*.png"))}
        if not images:
            raise MeddiffError(
                backgrounds,
                "there must be at least one background",
                "Add a `normal` folder to the dataset, or more annotated cases whose lesion can be removed",
            )
        replaced = {path.stem: read_mask(path) for path in sorted((backgrounds / "sites").glob("*.png"))}
        sites = dict(zip(replaced, rank_sites(list(replaced.values())), strict=True))
        return cls(load_painter(generator, device), MaskModel.load(mask_model), images, sites)

    def sample(self, requests: Sequence[Request], params: GenerateParams) -> list[Sample]:
        """Make one sample a request, in order; equal seeds give equal samples whatever the other requests are.

        Raises:
            MeddiffError: a given mask or background hasn't the model's size.
        """
        (made,) = self.stream([requests], params)
        return made()

    def stream(
        self, parts: Iterable[Sequence[Request]], params: GenerateParams
    ) -> Generator[Callable[[], list[Sample]], None, None]:
        """`sample` of each part in turn: functions that wait for what the networks have been through already.

        While one batch is denoised, other threads set textures and borders of the batch before right and invent the masks of
        the next part. No more than that is in memory, however many parts there are.
        """
        workers, rest = ThreadPoolExecutor(torch.get_num_threads()), iter(parts)

        def planned() -> Future[Plan] | None:
            return None if (part := next(rest, None)) is None else workers.submit(self._plan, part, params)

        try:
            ahead, last = planned(), list[Future[Pixels]]()
            while ahead:
                plan, images = ahead.result(), list[Future[Pixels]]()
                ahead = planned()
                for batch in plan.batches(params.batch_size):
                    painted = self.painter.begin(*batch, params)
                    wait(last)
                    last = [workers.submit(finish) for finish in painted]
                    images += last
                yield partial(_collected, plan, images)
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
        workers.shutdown()

    def _plan(self, requests: Sequence[Request], params: GenerateParams) -> Plan:
        size = next(iter(self.backgrounds.values())).shape[0]
        chosen = [self._background(request.seed, params.site_share) for request in requests]
        grounds = [
            self.backgrounds[name] if r.background is None else r.background for name, r in zip(chosen, requests, strict=True)
        ]
        for request, ground in zip(requests, grounds, strict=True):
            for given in (ground, ground[:, :, 0] if request.mask is None else request.mask):
                if given.shape[:2] != (size, size):
                    raise MeddiffError(
                        f"request with seed {request.seed}",
                        f"masks and backgrounds are {size}×{size} pixels for this model, not {given.shape[1]}×{given.shape[0]}",
                        "Resize them",
                    )
        masks, alike = self._masks(requests, chosen, grounds, size, params)
        names = [name if r.background is None else "given" for name, r in zip(chosen, requests, strict=True)]
        overlaps = [self._site_iou(r, name, mask) for r, name, mask in zip(requests, chosen, masks, strict=True)]
        return Plan(requests, names, grounds, masks, alike, overlaps)

    def _background(self, seed: int, site_share: float) -> str:
        """Id of the background of a seed: one with a site for this share of the seeds, as far as there are both kinds.

        Kinds alternate evenly, and the images of a kind follow one another in an order drawn once: of seeds in a row none gets an
        image again before each other one of its kind has had its turn, whatever the share and the first seed.
        """
        sites = [name for name in self.backgrounds if name in self.sites]
        free = [name for name in self.backgrounds if name not in self.sites]
        names, turn = sites or free, seed
        if sites and free:
            before, with_this = int(seed * site_share), int((seed + 1) * site_share)  # sites among the lesser seeds
            names, turn = (sites, before) if with_this > before else (free, seed - before)
        return names[int(numbers(0, Stream.BACKGROUND).permutation(len(names))[turn % len(names)])]

    def _site_iou(self, request: Request, background: str, mask: Pixels) -> float:
        """`Sample.site_iou` of a mask painted into the model's own background of this id, unless one was given."""
        if background not in self.sites or request.mask is not None or request.background is not None:
            return float("nan")
        found = np.zeros(mask.shape, bool)
        for part in self.sites[background].parts:
            found |= part.where
        return float(((mask > 0) & found).sum() / ((mask > 0) | found).sum())

    def _masks(self, requests: Sequence[Request], chosen: list[str], grounds: list[Pixels], size: int, params: GenerateParams
               ) -> tuple[list[Pixels], list[float]]:
        """The masks given, and invented ones within the field of their backgrounds, at their sites; and `Sample.likeness`."""
        levels = MaskLevels(*(level in params.mask_randomness for level in MASK_RANDOMNESS))
        masks, likeness = [request.mask for request in requests], [float("nan")] * len(requests)
        bare = [i for i, mask in enumerate(masks) if mask is None]
        if bare:
            fields = [imaged_field(grounds[i]) for i in bare]
            sites = [self.sites.get(chosen[i]) if requests[i].background is None else None for i in bare]
            invented = self.masks.invent([requests[i].seed for i in bare], size, levels, fields, sites)
            for number, i in enumerate(bare):
                masks[i] = invented.masks[number]
                likeness[i] = float(invented.alike[invented.owners == number].max())
        return [mask for mask in masks if mask is not None], likeness


def _collected(plan: Plan, images: Sequence[Future[Pixels]]) -> list[Sample]:
    return plan.samples(image.result() for image in images)


def model_hash(generator: Path, mask_model: Path) -> str:
    """Name of the model that makes samples: changes with the names and bytes of the files of its two folders."""
    digest = hashlib.sha256()
    for folder in (generator, mask_model):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(folder)).encode() + bytes.fromhex(sha256(path)))
    return digest.hexdigest()[:16]


def bundle(target: Path, generator: Path, mask_model: Path, backgrounds: Path, params: GenerateParams) -> None:
    """Copy all that `Synthesizer.load` needs into one folder, with the settings it was used with."""
    parts = {"generator": generator, "mask_model": mask_model, "backgrounds/images": backgrounds / "images",
             "backgrounds/sites": backgrounds / "sites"}
    for name, source in parts.items():
        if source.is_dir():
            shutil.copytree(source, target / name, dirs_exist_ok=True)
    settings = params.model_dump() | {"precision": params.precision}
    (target / "generate.json").write_text(json.dumps(settings, indent=1))


def load_bundle(folder: Path, device: str) -> tuple[Synthesizer, GenerateParams]:
    """Load a folder made by `bundle`; bfloat16 becomes float32 where the hardware lacks it.

    Raises:
        MeddiffError: the folder is no bundle, or its settings are none that this version knows.
    """
    settings = folder / "generate.json"
    if not settings.is_file():
        raise MeddiffError(folder, "a generator bundle must be there", "Run `dvc repro generate`, or name a registered model")
    stored = json.loads(settings.read_text())
    precision = "bfloat16" if stored.get("precision") == "bfloat16" and has_bfloat16(device) else "float32"
    values, _ = upgraded({"generate": stored})  # a registered generator may be older than this version
    params = parse_params({"generate": values["generate"], "compute": {"precision": precision}}, settings).generate
    return Synthesizer.load(folder / "generator", folder / "mask_model", folder / "backgrounds", device), params
