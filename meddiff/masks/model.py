"""The lightweight diffusion model that invents masks: signed distance maps in a canonical pose, then shape and pose."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.lesions.shapes import (
    Bits,
    Floats,
    Shape,
    canonical_fine,
    coarse,
    cut_off,
    disc,
    elastic,
    finer,
    pose_of,
    roughened,
    roughness,
)
from meddiff.masks.placement import ALL_LEVELS, LESION_SIZES, Lesions, MaskLevels, Site, learn_lesions, place, replace
from meddiff.masks.statistics import compactness, likeness, polar_outline
from meddiff.params import MaskModelParams
from meddiff.progress import Report, silent
from meddiff.seeds import Stream, noise, numbers
from meddiff.training import Schedule, train

_PATCH = 4  # the network sees patches of 4x4 values as channels: maps are smooth, and five times faster than single values
_DEVIATION = 0.2  # the network learns (map - disc) / this: taught whole maps it drew nothing but discs after 300 steps (measured)
_STEPS = 20
COPY = 0.97  # least likeness to a training lesion that is called a copy: outlines 1.5 percent of the radius apart
_ORDINARY = 0.9  # ... but not where so many of the training lesions are as alike to another; a few twins don't raise the bound
_TRIES = 4  # maps drawn for one lesion until it is no copy
_TOGETHER = 64  # maps computed at once
_ROUGHER = (1.0, 1.25, 1.5, 1.75, 2.0)  # tried in turn, see `_matched_roughness`


@dataclass(frozen=True)
class Invented:
    """Invented masks and what their novelty took.

    Attributes:
        masks: `[N,S,S]` uint8 of 0 to K.
        owners: `[L]` number of the mask that each invented lesion is for.
        alike: `[L]` greatest likeness of each invented lesion to a training lesion, see `mask_statistics.likeness`.
        redrawn: lesions drawn again because they were copies.
        copies: lesions that were copies still at the last try.
    """

    masks: Pixels
    owners: NDArray[np.int64]
    alike: Floats
    redrawn: int
    copies: int


@dataclass(frozen=True)
class _Wanted:
    """One lesion to invent: of which sample, the how-manieth there, and which training lesion lends class, size and place."""

    seed: int
    number: int
    lesion: int


@dataclass(frozen=True)
class MaskModel:
    """A trained mask generator.

    Attributes:
        unet: predicts the clean map, less the disc, in patches `[B,16,G/4,G/4]`, for a condition (see `Lesions.condition`).
        lesions: the training lesions.
        roughness: `[L]` that makes maps as rough as the training lesions, see `_matched_roughness`.
        outlines: `[L,R,A]` of the training lesions, see `statistics.polar_outline`.
    """

    unet: UNet2DModel
    lesions: Lesions
    roughness: Floats
    outlines: Bits

    @cached_property
    def alike(self) -> Floats:
        """`[L]`: likeness of each training lesion to the most alike other one."""
        among = likeness(self.outlines, self.outlines)
        np.fill_diagonal(among, 0)
        greatest: Floats = among.max(axis=1)
        return greatest

    def sample(self, seeds: Sequence[int], size: int, levels: MaskLevels = ALL_LEVELS, fields: Sequence[Bits] | None = None,
               sites: Sequence[Site | None] | None = None) -> Pixels:
        """Invent one mask a seed: `[len(seeds), size, size]` uint8 of 0 to K; see `invent`."""
        return self.invent(seeds, size, levels, fields, sites).masks

    def invent(self, seeds: Sequence[int], size: int, levels: MaskLevels = ALL_LEVELS, fields: Sequence[Bits] | None = None,
               sites: Sequence[Site | None] | None = None) -> Invented:
        """Invent one mask a seed.

        A lesion more alike to a training lesion than `COPY`, and than nine of ten training lesions are to another one, is drawn
        again from the next stream of noise and shape, up to three times; then the least alike of the four is kept.

        Args:
            seeds: a mask depends on its own seed, field and site alone.
            size: side of the masks [pixels].
            levels: which levels of randomness are on.
            fields: `[size,size]` bool for each seed, where lesions may be, see `fields.imaged_field`; None: the whole frame.
            sites: for each seed the lesions that the new ones shall replace, or None. They give number, class and place,
                and choose which training lesion lends the size: the one of the same rank; `condition` doesn't matter.

        Returns:
            The masks. A lesion is connected, without holes, and of a size within the training range and 15 percent around it,
            unless the field holds only a smaller one; see `placement.place`.

        Raises:
            MeddiffError: a field leaves no room for a lesion.
        """
        at = [site if site and site.parts else None for site in sites or [None] * len(seeds)]
        lent = [self.lesions.lent(seed, levels.condition) if site is None else
                [self.lesions.ranked(part.label, rank) for part, rank in zip(site.parts, site.ranks, strict=True)]
                for seed, site in zip(seeds, at, strict=True)]
        wanted = [_Wanted(seed, number, lesion) for seed, some in zip(seeds, lent, strict=True)
                  for number, lesion in enumerate(some)]
        shapes, alike, tries, copies = self._novel(wanted, levels)
        masks, rest = np.zeros((len(seeds), size, size), np.uint8), iter(shapes)
        for i, (seed, some, site) in enumerate(zip(seeds, lent, at, strict=True)):
            field = np.ones((size, size), bool) if fields is None else fields[i]
            own = [next(rest) for _ in some]
            if site is not None:
                masks[i] = replace(own, some, self.lesions, levels, site.parts, field, seed)
            if not masks[i].any():  # no site, or one outside of the field
                masks[i] = place(own, some, self.lesions, levels, field, seed)
        owners = np.repeat(np.arange(len(seeds)), [len(some) for some in lent])
        return Invented(masks, owners, alike, tries, copies)

    def _novel(self, wanted: list[_Wanted], levels: MaskLevels) -> tuple[list[Shape], Floats, int, int]:
        """Shapes that are no copies where possible; their likeness; how many were drawn again, and how many are copies still."""
        bound = max(COPY, float(np.quantile(self.alike, _ORDINARY)))
        shapes, alike = self._shapes(wanted, levels, 0)
        redrawn = 0
        for attempt in range(1, _TRIES if levels.noise or levels.shape else 1):
            copies = np.flatnonzero(alike > bound)
            redrawn += len(copies) if attempt == 1 else 0
            fresh, their = self._shapes([wanted[i] for i in copies], levels, attempt)
            for i, shape, value in zip(copies, fresh, their, strict=True):
                if value < alike[i]:
                    shapes[i], alike[i] = shape, value
        return shapes, alike, redrawn, int((alike > bound).sum())

    def _shapes(self, wanted: list[_Wanted], levels: MaskLevels, attempt: int) -> tuple[list[Shape], Floats]:
        if not wanted:
            return [], np.zeros(0)
        maps = [m for start in range(0, len(wanted), _TOGETHER)
                for m in self._maps(wanted[start:start + _TOGETHER], levels.noise, attempt)]
        shapes = [self._shape(sdf, each, levels.shape, attempt) for sdf, each in zip(maps, wanted, strict=True)]
        return shapes, likeness(np.stack([polar_outline(shape) for shape in shapes]), self.outlines).max(axis=1)

    @torch.no_grad()
    def _maps(self, wanted: list[_Wanted], random: bool, attempt: int) -> list[Floats]:
        side, device = self.unet.config.sample_size, self.unet.device
        keys = [(each.seed, each.number, attempt) if random else (0, 0, 0) for each in wanted]
        draws = [noise(seed, Stream.MASK_NOISE, number, turn) for seed, number, turn in keys]
        z = torch.stack([torch.randn((_PATCH**2, side, side), generator=draw) for draw in draws]).to(device)
        condition = torch.from_numpy(self.lesions.condition[[each.lesion for each in wanted]]).to(device)
        scheduler = _scheduler()
        scheduler.set_timesteps(_STEPS, device=device)
        for t in scheduler.timesteps:
            z = scheduler.step(self.unet(z, t, condition).sample, t, z).prev_sample
        return list(disc(side * _PATCH) + _DEVIATION * F.pixel_shuffle(z, _PATCH)[:, 0].double().cpu().numpy())

    def _shape(self, sdf: Floats, each: _Wanted, random: bool, attempt: int) -> Shape:
        if not random:
            return Shape.of(finer(sdf))
        rng = numbers(each.seed, Stream.SHAPE, each.number, attempt)
        peers = self.roughness[self.lesions.condition == self.lesions.condition[each.lesion]]
        return Shape.of(roughened(finer(sdf, elastic(len(sdf), rng)), float(rng.choice(peers)), rng))

    def save(self, folder: Path) -> None:
        """Write the network (safetensors, JSON) and `lesions.safetensors`."""
        self.unet.save_pretrained(folder, safe_serialization=True)
        lesions = {"image": self.lesions.image, "label": self.lesions.label, "poses": self.lesions.poses,
                   "roughness": self.roughness, "outlines": self.outlines}
        save_file({name: np.ascontiguousarray(values) for name, values in lesions.items()}, folder / "lesions.safetensors")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "MaskModel":
        """Read what `save` wrote.

        Raises:
            MeddiffError: the folder is missing, incomplete or damaged.
        """
        try:
            saved = load_file(folder / "lesions.safetensors")
            lesions = Lesions(saved["image"], saved["label"], saved["poses"])
            unet = UNet2DModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            return cls(unet.to(device).eval(), lesions, saved["roughness"], saved["outlines"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
            reason = " ".join(str(e).split())[:120]
            raise MeddiffError(folder, f"an intact mask model must be there ({reason})", "Run `dvc repro mask_model`") from e


def fit_mask_model(masks: Sequence[Pixels], params: MaskModelParams, device: str, checkpoint: Path | None = None,
                   report: Report = silent, fields: Sequence[Bits] | None = None) -> tuple[MaskModel, list[float]]:
    """Train a mask model.

    Args:
        masks: each `[H,W]` of 0 to K, all of one square size; an empty one is left out. Each lesion of a mask (see
            `shapes.parts`) is an example. Where most lesions are whole, those that the frame cuts off teach no shape.
        fields: `[H,W]` imaged field of each mask's image; None: the whole frame.

    Returns:
        The model, and the loss of each step.

    Raises:
        MeddiffError: fewer than two masks hold a lesion.
    """
    held = sum(bool(mask.any()) for mask in masks)
    if held < 2:
        raise MeddiffError("training masks", f"at least two must hold a lesion, {held} do",
                           "Raise prepare.n_labelled or check the masks")
    lesions, wheres = learn_lesions(masks, fields or [np.ones(mask.shape, bool) for mask in masks])
    fine = [canonical_fine(where, params.grid) for where in wheres]
    rough = np.array([_matched_roughness(where, m) for where, m in zip(wheres, fine, strict=True)])
    outlines = np.stack([polar_outline(Shape.of(m)) for m in fine])
    whole = np.array([not cut_off(where) for where in wheres])
    taught = np.flatnonzero(whole if whole.mean() >= 0.5 else np.ones(len(whole), bool))
    conditions = torch.from_numpy(lesions.condition[taught]).to(device)
    deviations = (np.stack([coarse(fine[i]) for i in taught]) - disc(params.grid)) / _DEVIATION
    maps = torch.from_numpy(deviations).float()[:, None].to(device)
    unet, scheduler = _network(params, int(lesions.label.max())).to(device), _scheduler()

    def loss(generator: torch.Generator) -> Tensor:
        drawn = torch.randint(len(maps), (params.batch_size,), generator=generator).to(device)
        clean = F.pixel_unshuffle(_augmented(maps[drawn], generator), _PATCH)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator).to(device)
        return F.mse_loss(unet(scheduler.add_noise(clean, noise, times), times, conditions[drawn]).sample, clean)

    unet.train()
    schedule = Schedule(params.steps, params.learning_rate, params.seed, ema_decay=0.99, warmup=30, cosine=True)
    losses = train(unet.parameters(), loss, schedule, checkpoint, report)
    return MaskModel(unet.eval(), lesions, rough, outlines), losses


def _matched_roughness(lesion: Bits, fine: Floats) -> float:
    """The roughness with which a lesion's coarse map is as compact, when drawn again, as the lesion `[H,W]` was (ours).

    The coarse map loses more of the contour than `roughness` measures, and random phase makes less of the same amount.
    """
    own, pose, smooth, rng = roughness(fine), pose_of(lesion), finer(coarse(fine)), np.random.default_rng(Stream.SHAPE)

    def redrawn(factor: float) -> Bits:
        drawn: Bits = Shape.of(roughened(smooth, factor * own, rng)).draw(pose, len(lesion)) > 0
        return drawn

    aim = compactness(lesion)
    return own * next((factor for factor in _ROUGHER if compactness(redrawn(factor)) <= aim), _ROUGHER[-1])


def _network(params: MaskModelParams, classes: int) -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        return UNet2DModel(sample_size=params.grid // _PATCH, in_channels=_PATCH**2, out_channels=_PATCH**2, layers_per_block=1,
                           block_out_channels=(64, 64), norm_num_groups=8, attention_head_dim=32,
                           num_class_embeds=classes * LESION_SIZES, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                           up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def _augmented(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each map `[B,1,G,G]` by any angle and mirror half of them: without elongation there is no direction to keep."""
    n = len(maps)
    angle = torch.rand(n, generator=generator) * 2 * torch.pi
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(n)
    theta = torch.stack([torch.stack([cos * flip, -sin, zero], 1), torch.stack([sin * flip, cos, zero], 1)], 1)
    places = F.affine_grid(theta.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, steps_offset=1,
                         rescale_betas_zero_snr=True, timestep_spacing="trailing")
