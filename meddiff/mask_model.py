"""The lightweight diffusion model that invents masks: signed distance maps in a canonical pose, then shape and pose."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from meddiff.cases import Pixels
from meddiff.errors import MeddiffError
from meddiff.params import MaskModelParams
from meddiff.progress import Report, silent
from meddiff.shapes import Floats, canonical, draw, elastic, largest, pose_of
from meddiff.training import Schedule, train

STEPS = 20
TRIES = 50


@dataclass(frozen=True)
class MaskLevels:
    """The hierarchy of randomness; each level has its own switch and its own stream of random numbers.

    Attributes:
        noise: the sampler's noise; off: always the same noise, hence the same canonical shape.
        shape: a smooth elastic change of the contour.
        pose: place, size and angle from the smoothed joint distribution of the training lesions; off: a training lesion's.
    """

    noise: bool = True
    shape: bool = True
    pose: bool = True


@dataclass(frozen=True)
class MaskModel:
    """A trained mask generator.

    Attributes:
        unet: predicts the clean signed distance map `[B,1,G,G]`.
        poses: `[N,3]`: natural logarithm of sqrt(area), and the centre's y and x, as shares of the frame's side.
    """

    unet: UNet2DModel
    poses: Floats

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], size: int, levels: MaskLevels = MaskLevels()) -> Pixels:  # noqa: B008
        """Invent one mask a seed.

        Args:
            seeds: a mask depends on its own seed alone.
            size: side of the masks [pixels].

        Returns:
            `[len(seeds), size, size]` uint8 of 0 and 1: one connected lesion each, inside the frame but for a small part,
            of a size within the training lesions' range and 15 percent around it.

        Raises:
            MeddiffError: no valid mask in 50 draws, which means that the model is hardly trained.
        """
        maps = [m for start in range(0, len(seeds), 64) for m in self._maps(seeds[start:start + 64], levels)]
        masks = np.zeros((len(seeds), size, size), np.uint8)
        for i, (seed, sdf) in enumerate(zip(seeds, maps, strict=True)):
            masks[i] = self._place(sdf, seed, size, levels)
        return masks

    def _maps(self, seeds: Sequence[int], levels: MaskLevels) -> list[Floats]:
        grid, device = self.unet.config.sample_size, self.unet.device
        z = torch.stack([torch.randn((1, grid, grid), generator=torch.Generator().manual_seed(seed if levels.noise else 0))
                         for seed in seeds]).to(device)
        scheduler = _scheduler()
        scheduler.set_timesteps(STEPS, device=device)
        for t in scheduler.timesteps:
            z = scheduler.step(self.unet(z, t).sample, t, z).prev_sample
        return list(z[:, 0].double().cpu().numpy())

    def _place(self, sdf: Floats, seed: int, size: int, levels: MaskLevels) -> Pixels:
        """Draw shape and pose until the mask lies within the frame and the range of sizes."""
        low, high = np.exp(self.poses[:, 0].min()) ** 2 / 1.15, np.exp(self.poses[:, 0].max()) ** 2 * 1.15
        for attempt in range(TRIES):
            shape = elastic(sdf, np.random.default_rng([seed, 2, attempt])) if levels.shape else sdf
            side, cy, cx, angle = self._pose(np.random.default_rng([seed, 3, attempt]), levels.pose)
            mask = draw(shape, side * size, cy * size, cx * size, angle, size)
            area = mask.mean()
            # A real lesion may be cut by the frame; an invented one is let lose an eighth of its area.
            if low <= area <= high and area >= 0.875 * side**2 and mask.sum() >= 8:
                return mask
        raise MeddiffError(f"mask of seed {seed}", f"a valid mask must come up in {TRIES} draws", "Train longer: raise mask_model.steps")

    def _pose(self, rng: np.random.Generator, random: bool) -> tuple[float, float, float, float]:
        """Smoothed bootstrap (ours): a training pose, shrunk to the mean and jittered so that the variance stays."""
        pose = self.poses[rng.integers(len(self.poses))]
        if not random:
            return float(np.exp(pose[0])), float(pose[1]), float(pose[2]), 0.0
        bandwidth = 0.5 * len(self.poses) ** (-1 / 7)
        mean, spread = self.poses.mean(axis=0), self.poses.std(axis=0)
        pose = mean + (pose - mean) / np.sqrt(1 + bandwidth**2) + bandwidth / np.sqrt(1 + bandwidth**2) * spread * rng.normal(size=3)
        centre = 1 - np.abs(1 - np.abs(pose[1:]))  # reflected into the frame
        return float(np.exp(pose[0])), float(centre[0]), float(centre[1]), float(rng.normal(0, np.radians(10)))

    def save(self, folder: Path) -> None:
        """Write the network (safetensors, JSON) and `poses.json`."""
        self.unet.save_pretrained(folder, safe_serialization=True)
        (folder / "poses.json").write_text(json.dumps(self.poses.tolist()))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "MaskModel":
        """Read what `save` wrote.

        Raises:
            MeddiffError: the folder is missing or incomplete.
        """
        if not (folder / "poses.json").is_file():
            raise MeddiffError(folder, "the mask model must be there", "Run `dvc repro mask_model`")
        unet = UNet2DModel.from_pretrained(folder, use_safetensors=True).to(device).eval()
        return cls(unet, np.array(json.loads((folder / "poses.json").read_text())))


def fit_mask_model(masks: Sequence[Pixels], params: MaskModelParams, device: str, checkpoint: Path | None = None,
                   report: Report = silent) -> tuple[MaskModel, list[float]]:
    """Train a mask model.

    Args:
        masks: each `[H,W]` of 0 and 1, all of one square size; an empty one is left out; of several lesions in one mask the
            largest is learnt.

    Returns:
        The model, and the loss of each step.

    Raises:
        MeddiffError: fewer than two masks hold a lesion.
    """
    lesions = [largest(mask > 0) for mask in masks if mask.any()]
    if len(lesions) < 2:
        raise MeddiffError("training masks", f"at least two must hold a lesion, {len(lesions)} do", "Raise prepare.n_labelled or check the masks")
    maps = torch.from_numpy(np.stack([canonical(lesion, params.grid) for lesion in lesions])).float()[:, None].to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        unet = UNet2DModel(sample_size=params.grid, in_channels=1, out_channels=1, block_out_channels=(16, 32, 64), layers_per_block=1,
                           norm_num_groups=8, attention_head_dim=16, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                           up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")).to(device)
    scheduler = _scheduler()

    def loss(generator: torch.Generator) -> Tensor:
        clean = _augmented(maps[torch.randint(len(maps), (params.batch_size,), generator=generator).to(device)], generator)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator).to(device)
        return F.mse_loss(unet(scheduler.add_noise(clean, noise, times), times).sample, clean)

    unet.train()
    schedule = Schedule(params.steps, params.learning_rate, params.seed, ema_decay=0.99, warmup=min(30, params.steps), cosine=True)
    losses = train(unet.parameters(), loss, schedule, checkpoint, report)
    return MaskModel(unet.eval(), np.array([pose_of(lesion) for lesion in lesions])), losses


def _augmented(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the maps `[B,1,G,G]`, and turn and stretch each a little; orientation carries meaning in ultrasound."""
    n = len(maps)
    angle = torch.randn(n, generator=generator) * 0.2
    stretch = torch.exp(torch.randn(n, generator=generator) * 0.08)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(n)
    theta = torch.stack([torch.stack([cos * flip * stretch, -sin / stretch, zero], 1),
                         torch.stack([sin * flip * stretch, cos / stretch, zero], 1)], 1)
    return F.grid_sample(maps, F.affine_grid(theta.to(maps), list(maps.shape), align_corners=False), padding_mode="border", align_corners=False)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=True, steps_offset=1,
                         rescale_betas_zero_snr=True, timestep_spacing="trailing")
