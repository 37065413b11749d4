"""Segmenters: training with equal steps and augmentation in every arm, prediction, features and files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddiff.cases import Case, Pixels
from meddiff.errors import MeddiffError
from meddiff.params import SegmentParams
from meddiff.progress import Report, silent
from meddiff.segmentation.augmentation import Augment, augment, augment_appearance
from meddiff.segmentation.decision import Bounds, Findings, choose_bounds, image_probability, mask_of
from meddiff.segmentation.encoders import load_encoder
from meddiff.segmentation.networks import WIDTHS, Architecture, deep_features
from meddiff.segmentation.teacher import Teacher, settled
from meddiff.segmentation.validation import BestWeights, validation_scores
from meddiff.training import Schedule, train

_EVALUATIONS = 5
_ONE_AT_A_TIME = Lock()  # torch's global generator is one for all threads
_Pair = TypeVar("_Pair")


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained segmenter.

    Attributes:
        network: logits of the lesion, or of background and classes, in eval mode.
        architecture: see `Architecture`.
        validation_dice: mean over the validation cases of each one's mean Dice over its classes, NaN without any.
        bounds: by which it decides whether an image shows a lesion at all.
        losses: training loss of each step; empty when loaded from files.
    """

    network: nn.Module
    architecture: Architecture
    validation_dice: float = float("nan")
    losses: tuple[float, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)

    def probabilities(self, images: Pixels, batch_size: int = 32) -> NDArray[np.float32]:
        """Probability of a lesion, or with several classes those of background and each class, which add up to 1.

        Args:
            images: `[N, H, W, 3]` uint8 RGB.

        Returns:
            `[N, 1, H, W]` or `[N, K + 1, H, W]` float32 in [0, 1].
        """
        logits = self._batched(images, batch_size, self.network)
        return np.asarray((logits.sigmoid() if self.architecture.classes == 1 else logits.softmax(1)).numpy(), np.float32)

    def predict(self, images: Pixels, batch_size: int = 32) -> NDArray[np.float32]:
        """Probability `[N, H, W]` float32 in [0, 1] of a lesion, of whatever class, in images `[N, H, W, 3]` uint8 RGB."""
        return self._lesion(self.probabilities(images, batch_size))

    def segment(self, images: Pixels, batch_size: int = 32) -> Pixels:
        """The predicted mask.

        Args:
            images: `[N, H, W, 3]` uint8 RGB.

        Returns:
            `[N, H, W]` uint8 of 0 to K, see `mask_of`; all 0 where the image shows no lesion by the segmenter's decision.
        """
        return self.findings(images, batch_size).decided

    def findings(self, images: Pixels, batch_size: int = 32, weigh: bool = False,
                 values: NDArray[np.float32] | None = None) -> Findings:
        """The predicted masks, and apart from them which images show a lesion.

        Args:
            images: `[N, H, W, 3]` uint8 RGB.
            weigh: also tell the image's probability where the decision doesn't ask for it, at the cost of a second prediction.
            values: their `probabilities`, where they are known.
        """
        values = self.probabilities(images, batch_size) if values is None else values
        masks = mask_of(values)
        areas, sure = (masks > 0).mean((1, 2)), np.ones(len(masks))
        if weigh or self.bounds.probability:
            sure = image_probability(self._lesion(values), self.predict(images[:, :, ::-1], batch_size)[:, :, ::-1])
        return Findings(masks, self.bounds.shown(areas, sure), areas, sure)

    def features(self, images: Pixels, batch_size: int = 32) -> Tensor:
        """Deep features of the encoder, of the networks that `networks.deep_features` knows.

        Args:
            images: `[N, H, W, 3]` uint8 RGB.

        Returns:
            `[N, 64, H/8, W/8]` float32 on the CPU, unbounded.
        """
        return self._batched(images, batch_size, lambda batch: deep_features(self.network, batch))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "model.safetensors")
        score = None if np.isnan(self.validation_dice) else self.validation_dice
        config = asdict(self.architecture) | {"validation_dice": score, "bounds": asdict(self.bounds)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", stage: str = "segment") -> "Segmenter":
        """Read what `save` wrote.

        Args:
            stage: that trains it, for the remedy.

        Raises:
            MeddiffError: a file is missing or isn't a segmenter's.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            architecture = Architecture(config["network"], config["width"], config.get("classes", 1), config.get("encoder", ""),
                                        config.get("finest", 1))
            network = architecture.build()
            network.load_state_dict(load_file(folder / "model.safetensors"))
            bounds = Bounds(**config.get("bounds", {}))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
            reason = " ".join(str(e).split())[:200]
            raise MeddiffError(folder, f"a trained segmenter must be there ({reason})", f"Run `dvc repro {stage}`") from e
        score = config.get("validation_dice")
        return cls(network.to(device).eval(), architecture, float("nan") if score is None else score, bounds=bounds)

    def _lesion(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[:, 0] if self.architecture.classes == 1 else 1 - values[:, 0]

    def _batched(self, images: Pixels, batch_size: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return torch.cat([function(to_input(images[i:i + batch_size]).to(device)).float().cpu()
                              for i in range(0, len(images), batch_size)])


def train_segmenter(
    real: Sequence[Case],
    synthetic: Sequence[Case],
    params: SegmentParams,
    seed: int,
    validation: Sequence[Case] = (),
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Report = silent,
    classes: int = 1,
    augmentation: Augment = augment,
) -> Segmenter:
    """Train one segmenter; for equal seeds, arms differ in nothing but the cases that fill `share` of each batch.

    Initial weights, the order of the real cases and the augmentation depend on the seed and the step alone. With
    synthetic cases, `params.share` of each batch (at least one case) is drawn from a pool of at most `params.ratio`
    times as many pairs as there are real ones, picked by the seed.

    Args:
        real: annotated cases, all of one size, which fits the network (`Architecture.unfit`).
        synthetic: accepted synthetic pairs of the same size; none for the real arm. An image without a mask is labelled anew at
            each step by a `Teacher`, and learned under changes of its appearance too.
        params: steps, batch size, network and mixture.
        validation: annotated cases; the weights with the best mean Dice on those with a lesion, looked at five times, are kept.
            Without any, the last weights are kept. With lesion-free ones, too, `bounds` are chosen on all of them.
        checkpoint: safetensors file to resume from; a file `.best` beside it holds the best weights so far.
        report: called after each step with the loss, and with the best validation Dice once there is one.
        classes: K; with 1, masks of several classes count as one: lesion or not. The loss is MONAI's Dice + cross-entropy; for
            several classes its Dice is the mean over classes, each over the whole batch, since most images lack a class.
        augmentation: see `augmentation.augment`.

    Raises:
        MeddiffError: no real case, a case without mask, images of several or unfit sizes, a mask of a class above K, or the
            file of the encoder's weights doesn't fit.
    """
    if not real:
        raise MeddiffError("training cases", "a segmenter needs at least one annotated case", "Raise prepare.n_labelled")
    picked = chosen(synthetic, round(params.ratio * len(real)), seed)
    bare = torch.tensor([case.mask is None for case in picked] or [False])
    pool = [replace(case, mask=np.zeros(case.image.shape[:2], np.uint8)) if case.mask is None else case for case in picked]
    _check([*real, *pool, *validation], real[0].image.shape, classes)
    height, width = real[0].image.shape[:2]
    begun = untrained(params, classes, height, width, seed, f"case {real[0].id}")
    architecture, network = begun.architecture, begun.network.to(device)
    n_synthetic = max(1, round(params.share * params.batch_size)) if pool and params.share > 0 else 0
    all_images, all_masks = _tensors(real, device, classes)
    pool_images, pool_masks = _tensors(pool or real[:1], device, classes)
    teacher = Teacher(network, classes, params.teacher_confidence) if n_synthetic and bare.any() else None
    criterion = DiceCELoss(sigmoid=True) if classes == 1 else DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def loss(generator: torch.Generator) -> Tensor:
        # Every arm draws a full batch of real cases and the seed of the augmentation first, so that both are equal in all arms.
        order = _order(len(real), params.batch_size, generator)[:params.batch_size - n_synthetic]
        change = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        parts = [(all_images[order], all_masks[order], torch.zeros(len(order), dtype=torch.bool))]
        if n_synthetic:
            order = _order(len(pool), n_synthetic, generator)
            parts.append((pool_images[order], pool_masks[order], bare[order]))
        images, masks, taught = (torch.cat(part) for part in zip(*parts, strict=True))
        if teacher:
            masks[taught] = teacher.label(images[taught])
        images, masks = augmentation(images, masks, change, params.vertical_flips)
        if teacher:
            images[taught], masks[taught] = augment_appearance(images[taught], masks[taught], change)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
            logits = network(images).float()
        return criterion(*settled(logits, masks, classes) if teacher else (logits, masks))

    best = BestWeights(network, Segmenter(network, architecture).segment, validation, classes, checkpoint)

    def after_step(done: int, total: int, values: Mapping[str, float]) -> None:
        if validation and (done == total or done % max(1, total // _EVALUATIONS) == 0):
            best.look()
        report(done, total, dict(values) if np.isnan(best.dice) else {**values, "dice": best.dice})

    schedule = Schedule(params.steps, params.learning_rate, seed, warmup=params.steps // 20, cosine=True)
    rates = [params.encoder_rate if name.startswith("encoder.") else 1.0 for name, _ in network.named_parameters()]
    state = [*network.buffers(), *(teacher.state if teacher else ())]
    losses = train(network.parameters(), loss, schedule, checkpoint, after_step, state, rates)
    best.restore()
    return _decisive(Segmenter(network.eval(), architecture, best.dice, tuple(losses)), validation, params.decision_cost)


def _decisive(segmenter: Segmenter, cases: Sequence[Case], cost: float | None) -> Segmenter:
    """With the decision that is best on validation cases; without any lesion-free ones, as it is."""
    if cost is None or all(case.mask is None or case.mask.any() for case in cases):
        return segmenter
    findings = segmenter.findings(np.stack([case.image for case in cases]), weigh=True)
    dice = validation_scores(findings.masks, cases, segmenter.architecture.classes)
    bounds = choose_bounds(findings.areas, findings.probabilities, dice, cost)
    shown = bounds.shown(findings.areas, findings.probabilities)
    return replace(segmenter, validation_dice=float(np.nanmean(dice * shown)), bounds=bounds)


def untrained(params: SegmentParams, classes: int, height: int, width: int, seed: int = 0,
              where: str = "prepare.size") -> Segmenter:
    """The network before its training, with weights by the seed, and those of its encoder.

    Args:
        classes: K.
        height, width: of the images [pixels].
        where: what has this size, for the error.

    Raises:
        MeddiffError: the sides are unfit for the network, or the encoder doesn't load.
    """
    architecture = Architecture(params.network, WIDTHS[params.network], classes)
    if unfit := architecture.unfit(height, width):
        raise MeddiffError(where, unfit, "Set prepare.size, or another segment.network")
    weights = None
    if params.network == "encoder_unet":
        weights, config = load_encoder(params.encoder, params.encoder_revision)
        architecture = replace(architecture, encoder=config, finest=2)
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build()
    if weights:
        network.encoder.load_state_dict(weights)
    return Segmenter(network, architecture)


def chosen(pairs: Sequence[_Pair], limit: int, seed: int) -> list[_Pair]:
    """At most `limit` of the pairs, at least one, picked by the seed, in their order; chosen from anew, they stay the same."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:max(1, limit)]
    return [pairs[i] for i in sorted(order.tolist())]


def to_input(images: Pixels) -> Tensor:
    """`[N, H, W, 3]` uint8 to `[N, 3, H, W]` float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _check(cases: Sequence[Case], shape: tuple[int, ...], classes: int) -> None:
    for case in cases:
        if case.mask is None or case.image.shape != shape or case.mask.shape != shape[:2]:
            raise MeddiffError(f"case {case.id}", f"every case needs a mask and the size {shape[0]} x {shape[1]}",
                               "Run `dvc repro prepare`")
        if classes > 1 and case.mask.max(initial=0) > classes:
            raise MeddiffError(f"case {case.id}", f"its mask holds class {case.mask.max()}, there are {classes}",
                               "Run `dvc repro prepare`")


def _order(n: int, batch_size: int, generator: torch.Generator) -> Tensor:
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-batch_size // n))])[:batch_size]


def _tensors(cases: Sequence[Case], device: str, classes: int) -> tuple[Tensor, Tensor]:
    stacked = np.stack([case.mask for case in cases if case.mask is not None])
    masks = torch.from_numpy(stacked if classes > 1 else (stacked > 0).astype(np.uint8))[:, None].float()
    return to_input(np.stack([case.image for case in cases])).to(device), masks.to(device)
