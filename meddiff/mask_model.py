"""The lightweight diffusion model that invents masks: signed distance maps in a canonical pose, then shape and pose."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.params import MaskModelParams
from meddiff.progress import Report, silent
from meddiff.shapes import Floats, Shape, canonical_fine, coarse, disc, elastic, finer, pose_of, roughened, roughness
from meddiff.training import Schedule, train

PATCH = 4  # the network sees patches of 4x4 values as channels: maps are smooth, and this is five times faster than single values
DEVIATION = 0.2  # the network learns (map - disc) / this: taught whole maps it drew nothing but discs after 300 steps (measured)
STEPS = 20
TRIES = 50
CUT, CUT_AT_WORST = 0.03, 0.125  # share of a lesion that the frame may cut off: wanted, and where no draw does better
LEAST_PIXELS = 8
MARGIN = np.array([0.07, 0.03, 0.03, 0.05, 0.05])  # how far a pose may leave the training range; 0.07 is 15 percent of the area


@dataclass(frozen=True)
class MaskLevels:
    """The hierarchy of randomness; each level has its own switch and its own stream of random numbers.

    Attributes:
        noise: the sampler's noise; off: always the same noise, hence the same canonical shape.
        shape: a smooth elastic change, and fine roughness like a training lesion's.
        pose: size, place, elongation and angle from the smoothed joint distribution of the training lesions; off: those of one of
            them.
    """

    noise: bool = True
    shape: bool = True
    pose: bool = True


@dataclass(frozen=True)
class MaskModel:
    """A trained mask generator.

    Attributes:
        unet: predicts the clean map, less the disc, in patches: `[B,16,G/4,G/4]`.
        poses: `[N,5]` of the training lesions, see `shapes.pose_of`.
        roughness: `[N]` of the training lesions, see `shapes.roughness`.
    """

    unet: UNet2DModel
    poses: Floats
    roughness: Floats

    def sample(self, seeds: Sequence[int], size: int, levels: MaskLevels = MaskLevels()) -> Pixels:
        """Invent one mask a seed.

        Args:
            seeds: a mask depends on its own seed alone.
            size: side of the masks [pixels].

        Returns:
            `[len(seeds), size, size]` uint8 of 0 and 1: one connected lesion each without holes, of a size within the training
            lesions' range and 15 percent around it. The frame cuts off 3 percent of its area at most, or 12.5 percent where
            none of 50 poses does better.

        Raises:
            MeddiffError: none of 50 poses does even that and leaves 8 pixels.
        """
        maps = [m for start in range(0, len(seeds), 64) for m in self._maps(seeds[start:start + 64], levels.noise)]
        masks = np.zeros((len(seeds), size, size), np.uint8)
        for i, (seed, sdf) in enumerate(zip(seeds, maps, strict=True)):
            masks[i] = self._place(self._shape(sdf, seed, levels.shape), seed, size, levels.pose)
        return masks

    @torch.no_grad()
    def _maps(self, seeds: Sequence[int], random: bool) -> list[Floats]:
        side, device = self.unet.config.sample_size, self.unet.device
        noise = [torch.randn((PATCH**2, side, side), generator=_generator(seed if random else 0)) for seed in seeds]
        z = torch.stack(noise).to(device)
        scheduler = _scheduler()
        scheduler.set_timesteps(STEPS, device=device)
        for t in scheduler.timesteps:
            z = scheduler.step(self.unet(z, t).sample, t, z).prev_sample
        return list(disc(side * PATCH) + DEVIATION * F.pixel_shuffle(z, PATCH)[:, 0].double().cpu().numpy())

    def _shape(self, sdf: Floats, seed: int, random: bool) -> Shape:
        if not random:
            return Shape.of(finer(sdf))
        rng = np.random.default_rng([seed, 2])
        return Shape.of(roughened(finer(sdf, elastic(len(sdf), rng)), float(rng.choice(self.roughness)), rng))

    def _place(self, shape: Shape, seed: int, size: int, random: bool) -> Pixels:
        """Draw poses until one keeps the lesion within the frame; if none of `TRIES` does, take the one that cuts least."""
        best, least = None, CUT_AT_WORST
        for attempt in range(TRIES):
            pose = self._pose(np.random.default_rng([seed, 3, attempt]), random)
            if (cut := shape.cut(pose)) <= least and (mask := shape.draw(pose, size)).sum() >= LEAST_PIXELS:
                best, least = mask, cut
                if cut <= CUT:
                    break
        if best is None:
            rule = f"one of {TRIES} drawn poses must keep {LEAST_PIXELS} pixels and lose at most {CUT_AT_WORST:.1%} to the frame"
            raise MeddiffError(f"mask of seed {seed}", rule, "Train on lesions that are neither tiny nor fill the frame")
        return best

    def _pose(self, rng: np.random.Generator, random: bool) -> Floats:
        """A training pose, or a smoothed bootstrap that keeps mean and covariance (Silverman and Young, Biometrika 1987).

        Half of Scott's bandwidth, so that clusters stay too, and reflection at the margin of the training range are ours.
        """
        pose: Floats = self.poses[rng.integers(len(self.poses))]
        if not random:
            return pose
        n, d = self.poses.shape
        width, mean = 0.5 * n ** (-1 / (d + 4)), self.poses.mean(axis=0)
        covariance = np.cov(self.poses.T) + np.diag(MARGIN**2) / n  # lesions that are all alike shall still vary
        moved = mean + (pose - mean + width * np.linalg.cholesky(covariance) @ rng.normal(size=d)) / np.sqrt(1 + width**2)
        low = self.poses.min(axis=0) - MARGIN
        span = self.poses.max(axis=0) + MARGIN - low
        reflected: Floats = low + span - np.abs((moved - low) % (2 * span) - span)
        return reflected

    def save(self, folder: Path) -> None:
        """Write the network (safetensors, JSON) and `poses.json`."""
        self.unet.save_pretrained(folder, safe_serialization=True)
        (folder / "poses.json").write_text(json.dumps({"poses": self.poses.tolist(), "roughness": self.roughness.tolist()}))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "MaskModel":
        """Read what `save` wrote.

        Raises:
            MeddiffError: the folder is missing, incomplete or damaged.
        """
        try:
            lesions = json.loads((folder / "poses.json").read_text())
            poses, rough = np.array(lesions["poses"]), np.array(lesions["roughness"])
            unet = UNet2DModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
            reason = " ".join(str(e).split())[:120]
            raise MeddiffError(folder, f"an intact mask model must be there ({reason})", "Run `dvc repro mask_model`") from e
        return cls(unet.to(device).eval(), poses, rough)


def fit_mask_model(masks: Sequence[Pixels], params: MaskModelParams, device: str, checkpoint: Path | None = None,
                   report: Report = silent) -> tuple[MaskModel, list[float]]:
    """Train a mask model.

    Args:
        masks: each `[H,W]` of 0 and 1, all of one square size; an empty one is left out; of several lesions in one mask the
            largest is learnt, without its holes.

    Returns:
        The model, and the loss of each step.

    Raises:
        MeddiffError: fewer than two masks hold a lesion.
    """
    lesions = [mask > 0 for mask in masks if mask.any()]
    if len(lesions) < 2:
        raise MeddiffError("training masks", f"at least two must hold a lesion, {len(lesions)} do",
                           "Raise prepare.n_labelled or check the masks")
    fine = [canonical_fine(lesion, params.grid) for lesion in lesions]
    maps = torch.from_numpy((np.stack([coarse(m) for m in fine]) - disc(params.grid)) / DEVIATION).float()[:, None].to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        unet = UNet2DModel(sample_size=params.grid // PATCH, in_channels=PATCH**2, out_channels=PATCH**2, layers_per_block=1,
                           block_out_channels=(64, 64), norm_num_groups=8, attention_head_dim=32,
                           down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                           up_block_types=("AttnUpBlock2D", "UpBlock2D")).to(device)
    scheduler = _scheduler()

    def loss(generator: torch.Generator) -> Tensor:
        drawn = maps[torch.randint(len(maps), (params.batch_size,), generator=generator).to(device)]
        clean = F.pixel_unshuffle(_augmented(drawn, generator), PATCH)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator).to(device)
        return F.mse_loss(unet(scheduler.add_noise(clean, noise, times), times).sample, clean)

    unet.train()
    schedule = Schedule(params.steps, params.learning_rate, params.seed, ema_decay=0.99, warmup=30, cosine=True)
    losses = train(unet.parameters(), loss, schedule, checkpoint, report)
    poses, rough = np.array([pose_of(lesion) for lesion in lesions]), np.array([roughness(m) for m in fine])
    return MaskModel(unet.eval(), poses, rough), losses


def _augmented(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each map `[B,1,G,G]` by any angle and mirror half of them: without elongation there is no direction to keep."""
    n = len(maps)
    angle = torch.rand(n, generator=generator) * 2 * torch.pi
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(n)
    theta = torch.stack([torch.stack([cos * flip, -sin, zero], 1), torch.stack([sin * flip, cos, zero], 1)], 1)
    places = F.affine_grid(theta.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _generator(seed: int) -> torch.Generator:
    """A stream of its own: the painter draws the noise of the image from `manual_seed(seed)` itself."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 4]).generate_state(1)[0]))


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, steps_offset=1,
                         rescale_betas_zero_snr=True, timestep_spacing="trailing")
